"""Adapters for tests: attached to a tiny model, saved, and opened by transformers and PEFT alone."""

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.lora.adapter import save_adapter
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings

TOKENS = [3, 97, 101, 32]  # whose embeddings are trained with the targets "all"
SHAPE = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 16}


def settings(**changed) -> LoraSettings:
    values = {"r": 3, "alpha": 6.0, "dropout": 0.0, "target_modules": "all-linear", "kind": "lora", "max_steps": 12}
    values |= {"max_minutes": None, "optimizer": "adamw", "replay": 0.0}
    return LoraSettings(**values | {"batch_size": 4, "lr": 0.02, "min_lr": 0.002, "warmup_steps": 2} | changed)


def ids_of(model, rows: int = 3) -> torch.Tensor:
    c = model.config
    return torch.randint(c.vocab_size, (rows, c.block_size), generator=torch.Generator().manual_seed(9))


def fill(adapted):
    """Give an adapter weights as if it had learned."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            noise = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data * (1 + noise) if "magnitude" in name else noise
    return adapted.eval()


@dataclass
class Saved:
    """A base folder, an adapter's folder, and what the two compute of some tokens."""

    base: Path
    adapter: Path
    before: dict[str, torch.Tensor]
    ids: torch.Tensor
    logits: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.adapter / "adapter_model.safetensors")

    def fresh(self):
        return load_checkpoint(self.base)[0]


@torch.no_grad()
def saved(folder: Path, model, tok, **changed) -> Saved:
    """Save `model`, and on it an adapter with weights drawn at random."""
    base, before = folder / "base", copy.deepcopy(model.state_dict())
    save_checkpoint(base, model, tok)
    adapted = fill(attach_adapter(model, settings(**changed), 1, TOKENS))
    save_adapter(adapted, folder / "adapter", base)
    return Saved(base, folder / "adapter", before, ids_of(model), adapted(ids_of(model)))


@torch.no_grad()
def peft_logits(done: Saved) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the same adapter through transformers and PEFT alone, on its base and merged by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(done.base), done.adapter)
    adapted = model.eval()(done.ids).logits
    return adapted, model.merge_and_unload()(done.ids).logits


def copy_adapter(adapter: Path, folder: Path, **changed) -> Path:
    """Another folder with the same adapter, its config changed, and without SHA256SUMS."""
    shutil.copytree(adapter, folder)
    (folder / "SHA256SUMS").unlink()
    config = json.loads((folder / "adapter_config.json").read_text()) | changed
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
