"""From a corpus to a folder that training reads: token bins, their manifest, the tokenizer."""

from pathlib import Path

from nanogpt.data.prepare.shards import open_shards
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.prepare.write_bins import write_corpus
from nanogpt.data.sources.document import Corpus
from nanogpt.data.sources.load import Data, load_corpus, validate_size
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import Tokenizer, load_from_checkpoint, load_tokenizer
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.outputs import check_outputs


def prepare_role(
    role: str,
    data: Data,
    training: TokenizerSettings,
    init_from: str,
    tokenizer: str | None = None,
    out: str | None = None,
    overwrite: bool = True,
    shards_only: bool = False,
) -> str:
    """Write the corpus of section `data.<role>` as bins to `out`, by default data/<role>; return a line for the user.

    Its tokens are those of the folder `tokenizer`; without one, data/finetune shares those of data/pretrain, and others
    have those of the checkpoint `init_from`, or where there is none, of a tokenizer trained as `training` says. With
    `shards_only` only shards are encoded (`encode_shards`). Raises UserError as `prepare_corpus` and `check_outputs`.
    """
    settings = getattr(data, role)
    shared = "data/pretrain/tokenizer" if role == "finetune" and not out else None
    out = out or f"data/{role}"
    inputs = [path for path in (tokenizer or shared, settings.path if settings.source == "files" else None) if path]
    check_outputs({out: "manifest.json"}, inputs, overwrite or shards_only)
    tokens = load_tokenizer(tokenizer) if tokenizer else shared or load_from_checkpoint(init_from) or training
    both = role == "pretrain" and training.train_on == "both" and isinstance(tokens, TokenizerSettings)
    more = load_corpus(data.finetune, data) if both else None
    if shards_only:
        return f"{encode_shards(load_corpus(settings, data), tokens, more)} shards of {settings.path} encoded"
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
    with atomic.replace_folder(out, "manifest.json") as folder:
        tokenizer = _make_tokenizer(corpus, tokens, more)
        if not isinstance(tokens, Path | str):
            tokenizer.save(folder / "tokenizer")
        shards = open_shards(corpus, tokenizer)
        manifest = write_corpus(folder, corpus, tokenizer, val_fraction, shards)
    if shards:
        shards.remove()
    return manifest


def encode_shards(
    corpus: Corpus, tokens: TokenizerSettings | Tokenizer | Path | str, more: Corpus | None = None
) -> int:
    """Encode shards of a large corpus that no process has begun, for a `prepare_corpus` elsewhere; return how many.

    Both have equal arguments and the same `.work`, which may be on another machine. Raises UserError for a corpus of
    one shard.
    """
    if shards := open_shards(corpus, _make_tokenizer(corpus, tokens, more)):
        return shards.encode()
    raise UserError(f"{corpus.name} is one shard, so there is nothing to divide; lower data.files.shard_mb")


def _make_tokenizer(
    corpus: Corpus, tokens: TokenizerSettings | Tokenizer | Path | str, more: Corpus | None
) -> Tokenizer:
    if isinstance(tokens, TokenizerSettings):
        return train_tokenizer(tokens.resolve_auto(corpus.tokenizer), *[one.texts() for one in (corpus, more) if one])
    return tokens if isinstance(tokens, Tokenizer) else load_tokenizer(tokens)
