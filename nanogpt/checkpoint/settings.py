"""Section `checkpoint` of params.yaml."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["safetensors", "pt"]
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class CheckpointSettings:
    """Section `checkpoint` of params.yaml: the arguments of `save` of the same names."""

    format: Format
    dtype: Dtype
