"""Section `checkpoint` of params.yaml."""

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class CheckpointSettings:
    """Section `checkpoint` of params.yaml: how weights are stored, and in which dtype.

    format: "safetensors" for model.safetensors in a model folder, "pt" for model.pt, complete in itself.
    """

    format: Literal["safetensors", "pt"]
    dtype: Dtype
