"""The initial model of pretraining: random weights, or those of a checkpoint (`train.init_from`)."""

import os
from dataclasses import asdict, replace
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
    """Build the model that pretraining starts from, of the shape in params.yaml, in fp32 on the CPU.

    Without a checkpoint its weights depend on the seed alone. Otherwise they are the checkpoint's; tokens for which it
    has no rows, like the end token in a model of characters, get random ones.
    Raises UserError for a checkpoint that is missing or damaged or has another shape or other tokens, and for a model
    that is too large for the memory here.
    """
    path = Path(init_from)
    if not holds_checkpoint(path):
        memory_estimate.check_minimum(model_config(settings, tok.vocab_size))
        return new_model(settings, tok.vocab_size, seed)
    found, found_tok = _read_checkpoint(settings, path, tok.kind)
    if found_tok and found_tok.sha256 != tok.sha256:
        raise UserError(
            f"train.init_from = {path}: it knows the {found_tok.n_tokens} tokens of a {found_tok.kind} tokenizer, and "
            f"the corpus is in {tok.n_tokens} others ({tok.kind}); prepare it with --tokenizer, or with "
            "train.init_from set"
        )
    rows = max(found.config.vocab_size, tok.n_tokens)
    torch.manual_seed(seed)
    net = build_model(replace(found.config, dropout=settings.dropout, vocab_size=rows))
    state = net.state_dict()
    for name, tensor in found.state_dict().items():
        state[name][: len(tensor)] = tensor
    return net


def describe_origin(init_from: Path | str) -> str:
    """Describe what training starts from; a checkpoint is identified by its content, not by its path."""
    return f"the checkpoint {model_identity(init_from)[:12]}" if holds_checkpoint(init_from) else "fresh weights"


def check_init_from(settings: ModelSettings, tokens: TokenizerSettings, init_from: Path | str) -> None:
    """Raise UserError, before data is prepared, for a checkpoint that `initial_model` would refuse afterwards."""
    path = Path(init_from)
    if not holds_checkpoint(path):
        return
    _, found_tok = _read_checkpoint(settings, path, "bpe" if tokens.kind == "auto" else tokens.kind)
    if found_tok and path.suffix == ".pt" and found_tok.kind in ("bpe", "char"):
        raise UserError(
            f"train.init_from = {path}: the corpus must be in its tokens; convert it to a folder, whose tokenizer is "
            f"then used: `python -m stages.convert --checkpoint {path} --out NEW`"
        )


def _read_checkpoint(settings: ModelSettings, path: Path, kind: str) -> tuple[nn.Module, Tokenizer | None]:
    """Load the model of the shape in `settings`, and its tokenizer; one without must fit tokens of this `kind`."""
    if not os.path.exists(path):
        raise UserError(
            f"train.init_from = {path} does not exist; name a model folder or a .pt file, or an empty folder"
        )
    if path.suffix == ".pt" and has_tokenizer(path):
        found, found_tok = load_checkpoint(path)
    else:
        found, found_tok = load_model(path), load_from_checkpoint(path)
    wanted, present = (
        asdict(replace(shape, n_kv_head=shape.kv_heads, qk_norm=shape.qk_normed)) for shape in (settings, found.config)
    )
    wrong = {key: present[key] for key in wanted if key != "dropout" and present[key] != wanted[key]}
    if wrong:
        needed = ", ".join(f"model.{key}: {str(value).lower()}" for key, value in wrong.items())
        raise UserError(f"train.init_from = {path}: a model of another shape than params.yaml says; set {needed}")
    if not found_tok and kind == "bpe":
        raise UserError(
            f"train.init_from = {path} holds no tokenizer, and one trained on the corpus would not fit its weights; "
            "set tokenizer.kind to the one it was trained with: gpt2, char or byte"
        )
    return found, found_tok
