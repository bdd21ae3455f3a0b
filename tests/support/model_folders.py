"""What a model folder holds, and how to change it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.runtime.errors import UserError


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    shapes = [replace(model.config, n_kv_head=model.config.kv_heads) for model in (a, b)]
    return shapes[0] == shapes[1] and x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def edit(folder: Path, **changed) -> None:
    config = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "(deleted)"}))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
