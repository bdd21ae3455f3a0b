"""torch.compile: whether it is possible and worth its time, and where its result is cached for the next run."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import Literal

import torch

from nanogpt.runtime.errors import BadSetting
from nanogpt.runtime.workdir import work_folder

Compile = Literal["auto", "on", "off"]
# It makes steps some percent faster and takes 20 s, or 3 s with a cache, so it is worth it on runs of 10 minutes: this
# many floating point operations at the 500 GFLOP/s of a CPU.
ASSUMED_FLOPS_PER_S = 5e11
MIN_FLOPS_TO_COMPILE = 600 * ASSUMED_FLOPS_PER_S


def missing_for_compile(device: torch.device) -> str | None:
    """Name what torch.compile needs on `device` and does not find; None if nothing is missing.

    On a CPU that is a C++ compiler: CXX, or g++ (clang++ on macOS). On CUDA it is the package triton and a C compiler:
    CC, gcc or clang. Sources: `cpp.cxx` in torch/_inductor/config.py, and triton/runtime/build.py.
    """
    if device.type == "mps":
        return None
    if device.type == "cuda":
        if not importlib.util.find_spec("triton"):
            return "the package triton"
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        return None if any(map(shutil.which, compilers)) else "a C compiler (gcc)"
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(compiler) else f"a C++ compiler ({compiler})"


def should_compile(wanted: Compile, flops: float, device: torch.device) -> bool:
    """Decide whether to compile: as wanted, or with "auto" if a run of `flops` operations on a CPU is long enough.

    "auto" never compiles on other devices, where nothing has been measured, and depends on no clock, so that a repeated
    run decides alike. Raises BadSetting for "on" if it is impossible.
    """
    if wanted == "on":
        check_compiler(device)
    if wanted != "auto":
        return wanted == "on"
    return device.type == "cpu" and flops >= MIN_FLOPS_TO_COMPILE and not missing_for_compile(device)


def check_compiler(device: torch.device) -> None:
    """Raise BadSetting if torch.compile lacks what it needs on `device`."""
    if missing := missing_for_compile(device):
        raise BadSetting("train.compile", "on", f"{missing} is missing here", "install it, or choose off")


def compile_cached(function: Callable) -> Callable:
    """torch.compile with its cache in `.work`, which survives a restart of the machine."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    cache = work_folder("compiled", "torch", {"torch": torch.__version__})
    # AdamW imports the rest of torch, which sets its own default
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, os.path.abspath(default_cache_dir())):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache.resolve())
    return torch.compile(function)
