"""torch.compile: when it pays, and where its result is cached for the next run."""

import os
import shutil
from collections.abc import Callable
from typing import Literal

import torch

from nanogpt.runtime.errors import BadSetting
from nanogpt.runtime.workdir import work_folder

Compile = Literal["auto", "on", "off"]
# A step gets some percent faster (docs/speed.md), and compiling takes 20 s, or 3 s where the cache has it already.
# So it pays on runs of 10 minutes: this many floating point operations at 500 GFLOP/s.
WORTH_COMPILING = 3e14


def can_compile(device: torch.device) -> bool:
    """Whether what torch.compile needs is there: on a CPU a C++ compiler."""
    return device.type != "cpu" or any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def should_compile(wanted: Compile, flops: float, device: torch.device) -> bool:
    """Whether to compile: as wanted, or with "auto" where a run of `flops` operations is long enough.

    The choice does not depend on a clock, so a run that is repeated on a machine is compiled again or not again.
    Raises BadSetting for "on" where that is not possible.
    """
    if wanted == "on":
        check_compiler(device)
    if wanted != "auto":
        return wanted == "on"
    return can_compile(device) and device.type in ("cpu", "cuda") and flops >= WORTH_COMPILING


def check_compiler(device: torch.device) -> None:
    """Raise BadSetting where torch.compile lacks what it needs."""
    if not can_compile(device):
        raise BadSetting("train.compile", "on", "there is no C++ compiler here", "install g++, or choose off")


def compile_cached(function: Callable) -> Callable:
    """torch.compile with a cache that lies in `.work` and outlives the machine's restart."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    cache = work_folder("compiled", "torch", {"torch": torch.__version__})
    # torch writes its own default there as soon as it is imported in full, which AdamW does
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, os.path.abspath(default_cache_dir())):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache.resolve())
    return torch.compile(function)
