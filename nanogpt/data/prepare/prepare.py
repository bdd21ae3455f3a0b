"""From a corpus to a folder that training reads: token bins, their manifest, the tokenizer."""

from pathlib import Path

from nanogpt.data.prepare.shards import Shards
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.prepare.write_bins import token_dtype, write_corpus
from nanogpt.data.sources.document import Corpus
from nanogpt.data.sources.load import Data, load_corpus, validate_size
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import Tokenizer, load_from_checkpoint, load_tokenizer
from nanogpt.runtime import atomic
from nanogpt.runtime.outputs import check_outputs


def prepare_role(
    role: str,
    data: Data,
    training: TokenizerSettings,
    init_from: str,
    tokenizer: str | None = None,
    out: str | None = None,
    overwrite: bool = True,
) -> str:
    """Write the corpus of section `data.<role>` as bins to `out`, by default data/<role>; return a line for the user.

    Its tokens are those of the folder `tokenizer`; without one, data/finetune shares those of data/pretrain, and others
    have those of the checkpoint `init_from`, or where there is none, of a tokenizer trained as `training` says. Raises
    UserError as `prepare_corpus` and `check_outputs` do.
    """
    settings = getattr(data, role)
    shared = "data/pretrain/tokenizer" if role == "finetune" and not out else None
    out = out or f"data/{role}"
    inputs = [path for path in (tokenizer or shared, settings.path if settings.source == "files" else None) if path]
    check_outputs({out: "manifest.json"}, inputs, overwrite)
    tokens = load_tokenizer(tokenizer) if tokenizer else shared or load_from_checkpoint(init_from) or training
    both = role == "pretrain" and training.train_on == "both" and isinstance(tokens, TokenizerSettings)
    more = load_corpus(data.finetune, data) if both else None
    manifest = prepare_corpus(out, load_corpus(settings, data), settings.val_fraction, tokens, more)
    counts = ", ".join(f"{one['tokens']:,} tokens ({split})" for split, one in manifest["splits"].items())
    return f"{out}: {manifest['source']} in {manifest['tokenizer']} tokens, {counts}; see {out}/manifest.json"


def prepare_corpus(
    out: Path | str, corpus: Corpus, val_fraction: float, tokens: TokenizerSettings | Tokenizer | Path | str,
    more: Corpus | None = None,
) -> dict:  # fmt: skip
    """Write a corpus as a folder of bins, which appears complete or not at all; return its manifest.

    `tokens` are settings, to train a tokenizer on this corpus, and on `more`, or a tokenizer, either saved as
    `<out>/tokenizer`; or the folder of a tokenizer, which is not copied (`tokenizer_of_bins` finds it).
    Raises UserError for unusable text, and for more of it than fits on the disk.
    """
    validate_size(corpus, out)
    shards = None
    with atomic.replace_folder(out, "manifest.json") as folder:
        if isinstance(tokens, TokenizerSettings):
            texts = [one.texts() for one in (corpus, more) if one]
            tokens = train_tokenizer(tokens.resolve_auto(corpus.tokenizer), *texts)
        if isinstance(tokens, Tokenizer):
            tokens.save(folder / "tokenizer")
        else:
            tokens = load_tokenizer(tokens)
        shards = _open_shards(corpus, tokens)
        manifest = write_corpus(folder, corpus, tokens, val_fraction, shards)
    if shards:
        shards.remove()
    return manifest


def _open_shards(corpus: Corpus, tokenizer: Tokenizer) -> Shards | None:
    """The shards of a corpus of several parts."""
    return Shards(corpus, tokenizer, token_dtype(tokenizer)) if len(corpus.parts()) > 1 else None
