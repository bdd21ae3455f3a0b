"""Adds an adapter to its base's weights and checks on validation text that the outputs stay the same."""

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from nanogpt.checkpoint.folder import load_checkpoint, output_marker, read_card, save_checkpoint
from nanogpt.checkpoint.model_card import merged_card
from nanogpt.checkpoint.settings import CheckpointSettings, Dtype
from nanogpt.data.tokens.batches import IGNORED, Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.lora.adapter import display_name, find_base, is_whole_model, open_adapted
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.metrics_file import write_metrics
from nanogpt.runtime.outputs import check_outputs
from nanogpt.runtime.workdir import remove_committed_runs

if TYPE_CHECKING:
    from peft import PeftModel

WINDOWS = 16  # of the validation text, always the same ones
# Largest change of the loss in nats. fp32 changes it by about 1e-7. bf16 has 8 bits, so that a weight changes by up to
# 2^-8 of its size, which changed the loss of trained models by 0.0014 at most (0.02 is 2% of perplexity).
BOUNDS = {"float32": 1e-3, "bfloat16": 0.02}


def merge_folder(
    settings: CheckpointSettings, adapter: Path | str, base: Path | str | None, data: Path | str, out: Path | str,
    metrics_file: Path | str, overwrite: bool,
) -> dict[str, float]:  # fmt: skip
    """Merge an adapter folder into its base and save the result as a model folder, or a .pt file.

    A model folder, with all of its weights trained, is saved as it is. `base` is the model folder that the adapter was
    trained on, or None for the one that the adapter names; `data` is the folder of bins that the models are compared
    on, whose differences are returned (see `merge_adapter`). Raises UserError if an input does not fit or an output may
    not be written (see `check_outputs`).
    """
    remove_committed_runs()
    parts = [adapter] if is_whole_model(adapter) else [base or find_base(adapter), adapter]
    check_outputs({out: output_marker(out), metrics_file: None}, [*parts, data], overwrite)
    model, tok = load_checkpoint(adapter) if is_whole_model(adapter) else open_adapted(adapter, parts[0])
    merged, figures = merge_adapter(model, Bin.open(data, "val", tok), settings.dtype)
    parts = {display_name(part): read_card(part) for part in parts}
    card = merged_card(merged.config, parts, settings.format)
    save_checkpoint(out, merged, tok, settings, card)
    write_metrics(metrics_file, figures)
    return figures


@torch.no_grad()
def merge_adapter(
    adapted: "PeftModel | nn.Module", data: Bin, dtype: Dtype = "float32"
) -> tuple[nn.Module, dict[str, float]]:
    """Add an adapter to the weights, for LoRA W + (alpha / r) B A, and check that the outputs stay the same.

    The adapted model is compared with the merged one, and with the merged one rounded to `dtype` as it will be saved,
    on the first WINDOWS windows of `data`. If embedding and head share their weights and a low-rank adapter of another
    program is on one of them, the merged model has them separately. Returns the merged model in fp32, and by how much
    its logits and its loss (nats) differ, under "saved_…" those of the rounded one. `adapted` is not changed. Raises
    UserError if a loss differs by more than BOUNDS.
    """
    adapted.eval()
    model = _merge(copy.deepcopy(adapted)) if hasattr(adapted, "merge_and_unload") else copy.deepcopy(adapted)
    figures = saved = _compare_outputs(adapted, model, data, "float32", "train the adapter again")
    if dtype != "float32":
        rounded = copy.deepcopy(model).to(getattr(torch, dtype)).float()
        saved = _compare_outputs(adapted, rounded, data, dtype, "save it in float32")
    return model, figures | {f"saved_{name}": value for name, value in saved.items()}


def _compare_outputs(adapted: nn.Module, merged: nn.Module, data: Bin, dtype: Dtype, remedy: str) -> dict[str, float]:
    windows = Windows(data, merged.config.block_size, seed=0)
    count = min(WINDOWS, windows.per_epoch)
    largest = mean = change = torch.zeros((), dtype=torch.float64)
    for i in range(count):  # one at a time: the logits of a large vocabulary take much memory
        ids, targets = windows.batch(i, 1)
        before, after = (model(ids)[0].double() for model in (adapted, merged))  # (T, V)
        difference = (after - before).abs()
        largest, mean = torch.maximum(largest, difference.max()), mean + difference.mean() / count
        losses = [F.cross_entropy(logits, targets[0], reduction="sum") for logits in (before, after)]
        learned = (targets != IGNORED).sum().clamp(min=1)  # none in a window that holds part of one long prompt
        change = change + (losses[1] - losses[0]) / learned / count
    if not (loss_change := change.abs().item()) <= BOUNDS[dtype]:  # so that NaN does not pass
        found = f"merging in {dtype} changed the loss by {loss_change:.2g} nats, more than {BOUNDS[dtype]}"
        raise UserError(f"{found}; nothing was written: {remedy}")
    figures = {"max_abs_logit_difference": largest.item(), "mean_abs_logit_difference": mean.item()}
    return figures | {"loss_change_nats": loss_change}


def open_finetuned(folder: Path | str, base: Path | str | None = None) -> tuple[nn.Module, Tokenizer]:
    """Load what the lora-finetune stage wrote, and its tokenizer: a model folder, or an adapter, merged into its base.

    Raises UserError as `open_adapted` and `load_checkpoint` do.
    """
    if is_whole_model(folder):
        return load_checkpoint(folder)
    adapted, tok = open_adapted(folder, base)
    return _merge(adapted), tok


def _merge(adapted: "PeftModel") -> nn.Module:
    """Add the adapter into the weights, in place, and take its layers out."""
    _untie(adapted.get_base_model())
    return adapted.merge_and_unload().eval()


def _untie(model: nn.Module) -> None:
    """Give a tied head a copy of its weights if an adapter changes the head or the embedding."""
    tied = [model.lm_head, model.get_submodule(model.hf.embedding)]
    if model.config.tie_embeddings and any(hasattr(module, "lora_A") for module in tied):
        head = getattr(model.lm_head, "base_layer", model.lm_head)
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config = dataclasses.replace(model.config, tie_embeddings=False)
