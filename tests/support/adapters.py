"""Adapters for tests: attached to a tiny model, saved, and opened by transformers and PEFT alone."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.lora.adapter import save_adapter
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings

SHAPE = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 16}


def settings(**changed) -> LoraSettings:
    values = {"r": 3, "alpha": 6.0, "dropout": 0.0, "target_modules": "all-linear", "kind": "lora", "max_steps": 12}
    return LoraSettings(**values | {"batch_size": 4, "lr": 0.02, "min_lr": 0.002, "warmup_steps": 2} | changed)


def ids_of(model, rows: int = 3) -> torch.Tensor:
    c = model.config
    return torch.randint(c.vocab_size, (rows, c.block_size), generator=torch.Generator().manual_seed(9))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def fill(adapted, seed: int = 0, std: float = 0.1):
    """Give an adapter weights as if it had learned."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + std * torch.randn(parameter.shape, generator=generator)
        elif "lora_" in name:
            parameter.data = std * torch.randn(parameter.shape, generator=generator)
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
def saved(folder: Path, model, tok, seed: int = 0, name: str = "adapter", **changed) -> Saved:
    """Save `model`, and on it an adapter with weights drawn at random."""
    base, before = folder / "base", weights(model)
    if not base.exists():
        save_checkpoint(base, model, tok)
    own = load_checkpoint(base)[0]
    adapted = fill(attach_adapter(own, settings(**changed), 1), seed)
    save_adapter(adapted, folder / name, base)
    return Saved(base, folder / name, before, ids_of(own), adapted(ids_of(own)))


@torch.no_grad()
def theirs(done) -> tuple[torch.Tensor, list[str]]:
    """Logits of the same adapter through transformers and PEFT alone, and what was warned of."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(done.base), done.adapter).eval()
    return model(done.ids).logits, [str(warning.message) for warning in caught]


def copy(adapter: Path, folder: Path, **changed) -> Path:
    """Another folder with the same adapter, its config changed, and without the sums that would tell."""
    folder.mkdir(parents=True)
    for path in adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "SHA256SUMS").unlink()
    config = json.loads((folder / "adapter_config.json").read_text()) | changed
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
