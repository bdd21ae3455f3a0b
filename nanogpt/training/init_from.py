"""What pretraining starts from: fresh weights, or those of a checkpoint (`train.init_from`)."""

import dataclasses
import os
from pathlib import Path

import torch
from torch import nn

from nanogpt.checkpoint.folder import has_tokenizer, load_checkpoint, load_model
from nanogpt.checkpoint.identity import holds_checkpoint, model_identity
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import Tokenizer, load_from_checkpoint
from nanogpt.model.build import build_model, model_config, new_model
from nanogpt.model.config import ModelSettings
from nanogpt.runtime.errors import UserError
from nanogpt.training import memory_estimate


def initial_model(settings: ModelSettings, init_from: Path | str, tok: Tokenizer, seed: int) -> nn.Module:
    """A model of the shape that params.yaml says, for a tokenizer, in fp32 on the CPU.

    Its weights depend on the seed alone where there is no checkpoint, else they are the checkpoint's;
    tokens that it has no rows for, like the end token where it knows characters alone, get fresh ones.
    Raises UserError for a checkpoint that is missing or damaged, of another shape, or of other tokens, and for a model
    that is too large for the memory here.
    """
    path = Path(init_from)
    if not holds_checkpoint(path):
        memory_estimate.check_weights_fit(model_config(settings, tok.vocab_size))
        return new_model(settings, tok.vocab_size, seed)
    found, own = _read_checkpoint(settings, path)
    if own and own.sha256 != tok.sha256:
        raise UserError(
            f"train.init_from = {path}: it knows the {own.n_tokens} tokens of a {own.kind} tokenizer, and the corpus "
            f"is in {tok.n_tokens} others ({tok.kind}); prepare it with --tokenizer, or with train.init_from set"
        )
    if not own:
        _check_kind(path, tok.kind)
    rows = max(found.config.vocab_size, tok.n_tokens)
    torch.manual_seed(seed)
    net = build_model(dataclasses.replace(found.config, dropout=settings.dropout, vocab_size=rows))
    state = net.state_dict()
    for name, tensor in found.state_dict().items():
        state[name][: len(tensor)] = tensor
    return net


def describe_origin(init_from: Path | str) -> str:
    """What is started from, told by content and not by place."""
    return f"the checkpoint {model_identity(init_from)[:12]}" if holds_checkpoint(init_from) else "fresh weights"


def check_init_from(settings: ModelSettings, tokens: TokenizerSettings, init_from: Path | str) -> None:
    """Raise UserError, before anything is prepared, for a checkpoint that `start` would refuse after that."""
    path = Path(init_from)
    if not holds_checkpoint(path):
        return
    _, own = _read_checkpoint(settings, path)
    if not own:
        _check_kind(path, "bpe" if tokens.kind == "auto" else tokens.kind)
    elif path.suffix == ".pt" and own.kind in ("bpe", "char"):
        raise UserError(
            f"train.init_from = {path}: the corpus must be in its tokens; make a folder of it, whose tokenizer is then "
            f"taken: `python -m stages.convert --checkpoint {path} --out NEW`"
        )


def _read_checkpoint(settings: ModelSettings, path: Path) -> tuple[nn.Module, Tokenizer | None]:
    if not os.path.exists(path):
        raise UserError(
            f"train.init_from = {path} does not exist; name a model folder or a .pt file, or an empty folder"
        )
    if path.suffix == ".pt" and has_tokenizer(path):
        found, own = load_checkpoint(path)
    else:
        found, own = load_model(path), load_from_checkpoint(path)
    _check_shape(settings, found.config, path)
    return found, own


def _check_kind(path: Path, kind: str) -> None:
    if kind == "bpe":
        raise UserError(
            f"train.init_from = {path} holds no tokenizer, and one trained on the corpus would not fit its weights; "
            "set tokenizer.kind to the one it was trained with: gpt2, char or byte"
        )


def _check_shape(settings: ModelSettings, config: ModelSettings, path: Path) -> None:
    keys = [field.name for field in dataclasses.fields(ModelSettings) if field.name != "dropout"]
    if config.arch == "base":
        keys.remove("n_kv_head")  # it has no groups of heads
    wrong = {key: getattr(config, key) for key in keys if getattr(config, key) != getattr(settings, key)}
    if wrong:
        flags = " ".join(f"-S model.{key}={str(value).lower()}" for key, value in wrong.items())
        raise UserError(f"train.init_from = {path}: a model of another shape than params.yaml says; set {flags}")
