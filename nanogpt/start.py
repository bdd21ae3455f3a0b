"""What pretraining starts from: fresh weights, or those of a checkpoint (`train.init_from`)."""

import dataclasses
from pathlib import Path

from torch import nn

from nanogpt import checkpoint, model, prepare
from nanogpt.errors import UserError
from nanogpt.model import ModelSettings
from nanogpt.tokenizer import Tokenizer


def start(settings: ModelSettings, init_from: Path | str, tok: Tokenizer, seed: int) -> nn.Module:
    """A model of the shape that params.yaml says, for a tokenizer, in fp32 on the CPU.

    Its weights depend on the seed alone where there is no checkpoint, else they are the checkpoint's.
    Raises UserError for one that is missing or damaged, of another shape, or of other tokens.
    """
    path = Path(init_from)
    found = checkpoint_for(settings, path)
    if found is None:
        return model.new(settings, tok.vocab_size, seed)
    own = _tokenizer(path)
    if (own and own.sha256 != tok.sha256) or found.config.vocab_size < tok.n_tokens:
        has = f"{own.n_tokens} tokens ({own.kind})" if own else f"{found.config.vocab_size} tokens at most"
        raise UserError(
            f"train.init_from = {path}: it knows {has}, and the corpus is in others, {tok.n_tokens} ({tok.kind}); "
            "prepare the corpus with the tokens that the checkpoint was trained on (tokenizer.kind, or a folder with "
            "its tokenizer as train.init_from)"
        )
    net = model.build(dataclasses.replace(found.config, dropout=settings.dropout))
    net.load_state_dict(found.state_dict())
    return net


def checkpoint_for(settings: ModelSettings, init_from: Path | str) -> nn.Module | None:
    """The checkpoint's model, None where there is none. Raises UserError as `start` does for what is wrong with it."""
    if not prepare.holds_checkpoint(init_from):
        return None
    found = checkpoint.load_model(init_from)
    _check_shape(settings, found.config, Path(init_from))
    return found


def _tokenizer(path: Path) -> Tokenizer | None:
    if path.suffix != ".pt":
        return prepare.own_tokenizer(path)
    try:
        return checkpoint.load(path)[1]
    except UserError:  # weights alone, as nanoGPT writes them
        return None


def _check_shape(settings: ModelSettings, config: ModelSettings, path: Path) -> None:
    keys = [field.name for field in dataclasses.fields(ModelSettings) if field.name != "dropout"]
    if config.arch == "base":
        keys.remove("n_kv_head")  # it has no groups of heads
    wrong = {key: getattr(config, key) for key in keys if getattr(config, key) != getattr(settings, key)}
    if wrong:
        flags = " ".join(f"-S model.{key}={str(value).lower()}" for key, value in wrong.items())
        raise UserError(f"train.init_from = {path}: a model of another shape than params.yaml says; set {flags}")
