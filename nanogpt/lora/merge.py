"""Adds an adapter into its base's weights and proves on validation text that the model stayed the same."""

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn

from nanogpt.checkpoint.folder import output_marker, read_card, save_checkpoint
from nanogpt.checkpoint.model_card import merged_card
from nanogpt.checkpoint.settings import CheckpointSettings
from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.lora.adapter import display_name, find_base, open_adapted
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.metrics_file import write_metrics
from nanogpt.runtime.outputs import check_outputs
from nanogpt.runtime.workdir import remove_committed_runs

if TYPE_CHECKING:
    from peft import PeftModel

Saved = Literal["float32", "bfloat16"]

WINDOWS = 16  # of the validation text, always the same ones
# nats that the loss may move: fp32 moves it by about 1e-7; bf16 keeps 8 bits of a weight, so that each moves by up
# to 2^-8 of its size, which in trained models moved the loss by 0.0014 at most (0.02 is 2% of perplexity)
BOUNDS = {"float32": 1e-3, "bfloat16": 0.02}


def merge_folder(
    settings: CheckpointSettings,
    adapter: Path | str = "models/lora",
    base: Path | str | None = None,
    data: Path | str = "data/finetune",
    out: Path | str = "models/merged",
    metrics_file: Path | str = "metrics/merge.json",
    overwrite: bool = True,
) -> dict[str, float]:
    """Merge an adapter folder into its base and save the result as a model folder, or a .pt file.

    `base` is the model folder that the adapter was trained on, or None for the one that the adapter names; `data` is
    the folder of bins that the models are compared on, whose differences are returned (see `merge_adapter`). Raises
    UserError where an input does not fit or an output may not be written (see `check_outputs`).
    """
    remove_committed_runs()
    base = base or find_base(adapter)
    check_outputs({out: output_marker(out), metrics_file: None}, [base, adapter, data], overwrite)
    adapted, tok = open_adapted(adapter, base)
    merged, figures = merge_adapter(adapted, Bin.open(data, "val", tok), settings.dtype)
    parts = {display_name(part): read_card(part) for part in (base, adapter)}
    card = merged_card(merged.config.arch, parts, settings.format)
    save_checkpoint(out, merged, tok, format=settings.format, dtype=settings.dtype, card=card)
    write_metrics(metrics_file, figures)
    return figures


@torch.no_grad()
def merge_adapter(adapted: "PeftModel", data: Bin, dtype: Saved = "float32") -> tuple[nn.Module, dict[str, float]]:
    """Add the adapter into the weights, for LoRA W + (alpha / r) B A, and prove that nothing else changed.

    The first WINDOWS windows of `data` go through the adapted model, the merged one, and the merged
    one with its weights rounded to `dtype` as they will be saved. Where embedding and head share their
    weights and the adapter is on one of them, they part: it changes each on its own. Returns the plain
    model, in fp32, and by how much its logits and its loss (nats) differ; "saved_" is that of the
    rounded one. `adapted` stays as it is. Raises UserError where a loss moved by more than BOUNDS.
    """
    adapted.eval()
    model = copy.deepcopy(adapted)
    _untie(model.get_base_model())
    model = model.merge_and_unload().eval()
    figures = _compare_outputs(adapted, model, data)
    _check_loss_change(figures["loss_change_nats"], "float32", "train the adapter again")
    saved = figures
    if dtype != "float32":
        saved = _compare_outputs(adapted, _rounded(model, getattr(torch, dtype)), data)
        _check_loss_change(saved["loss_change_nats"], dtype, "save it in float32")
    return model, figures | {f"saved_{name}": value for name, value in saved.items()}


def _compare_outputs(adapted: nn.Module, merged: nn.Module, data: Bin) -> dict[str, float]:
    config = adapted.get_base_model().config
    windows = Windows(data, config.block_size, seed=0)
    count = min(WINDOWS, windows.per_epoch)
    greatest = mean = change = torch.zeros((), dtype=torch.float64)
    for i in range(count):  # one at a time: the logits of a large vocabulary take much memory
        ids, targets = windows.batch(i, 1)
        before, after = (model(ids)[0].double() for model in (adapted, merged))  # (T, V)
        difference = (after - before).abs()
        greatest, mean = torch.maximum(greatest, difference.max()), mean + difference.mean() / count
        change = change + (F.cross_entropy(after, targets[0]) - F.cross_entropy(before, targets[0])) / count
    return {
        "max_abs_logit_difference": greatest.item(),
        "mean_abs_logit_difference": mean.item(),
        "loss_change_nats": change.abs().item(),
    }


def _check_loss_change(moved: float, dtype: Saved, remedy: str) -> None:
    if not moved <= BOUNDS[dtype]:  # so that NaN does not pass
        raise UserError(
            f"merging in {dtype} moved the loss by {moved:.2g} nats, more than {BOUNDS[dtype]}; "
            f"nothing was written: {remedy}"
        )


def _rounded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(model).to(dtype).float()


def _untie(model: nn.Module) -> None:
    """Give the head weights of its own, equal to those it shared, where an adapter changes one of the two."""
    tied = [model.lm_head, model.get_submodule(model.hf.embedding)]
    if model.config.tie_embeddings and any(hasattr(module, "base_layer") for module in tied):
        head = getattr(model.lm_head, "base_layer", model.lm_head)
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config = dataclasses.replace(model.config, tie_embeddings=False)
