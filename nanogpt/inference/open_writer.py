"""Opens models to write with: a checkpoint, an adapter on one, or several of both by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.hardware.memory import keep_freed_memory
from nanogpt.inference.products import WeightDtype
from nanogpt.inference.writer import Writer
from nanogpt.lora.merge import open_finetuned
from nanogpt.lora.named import find_adapter
from nanogpt.runtime.errors import UserError

MERGED = "models/merged"


def open_writer(
    checkpoint: Path | str | None, adapter: Path | str | None, dtype: WeightDtype | Literal["auto"]
) -> Writer:
    """Load a checkpoint, an adapter on it, or an adapter on the base that it names; by default the pipeline's model.

    From then on this process keeps the memory that it frees, which a step takes again. Raises UserError for models that
    cannot be read.
    """
    keep_freed_memory()
    if not adapter and not checkpoint and not Path(MERGED).exists():
        remedy = "make it with `dvc repro merge`, or name a model, like --checkpoint models/pretrain"
        raise UserError(f"{MERGED} does not exist; {remedy}")
    model, tok = open_finetuned(adapter, checkpoint) if adapter else load_checkpoint(checkpoint or MERGED)
    return Writer(model, tok, dtype)


def open_writers(
    checkpoint: str | None, adapters: Sequence[str], dtype: WeightDtype | Literal["auto"]
) -> dict[str, Writer]:
    """A writer for each model, by the name of its folder or file: the checkpoint first, then adapters on it.

    Without a checkpoint each adapter is put on the base that it names, and without both it is the pipeline's model.
    Raises UserError for models that cannot be read, and for two of one name.
    """
    models = [] if adapters and not checkpoint else [(checkpoint, None)]
    models += [(checkpoint, find_adapter(adapter)) for adapter in adapters]
    names = [Path(adapter or path or MERGED).resolve().name for path, adapter in models]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two models are called {', '.join(sorted(twice))}; rename the folder of one")
    return {name: open_writer(*model, dtype) for name, model in zip(names, models, strict=True)}
