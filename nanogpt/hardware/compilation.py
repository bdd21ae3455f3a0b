"""torch.compile: whether it is possible and worth its time, and where its result is cached for the next run."""

import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Callable
from typing import Literal

import torch

from nanogpt.runtime.errors import BadSetting
from nanogpt.runtime.workdir import work_folder

Compile = Literal["auto", "on", "off"]
# On a CPU it makes steps some percent faster and takes 20 s, or 3 s with a cache, so it is worth it on runs of ten
# minutes. On CUDA, where nothing was measured here, it takes about a minute and should make steps clearly faster.
ASSUMED_FLOPS_PER_S = {"cpu": 5e11, "cuda": 1e14, "mps": 1e12}
MIN_SECONDS_TO_COMPILE = {"cpu": 600, "cuda": 300, "mps": math.inf}


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
    """Decide whether to compile: as wanted, or with "auto" if a run of `flops` operations is long enough.

    "auto" never compiles on Apple's MPS, and depends on no clock, so that a repeated run decides alike. Raises
    BadSetting for "on" if it is impossible.
    """
    if wanted == "on":
        check_compiler(device)
    if wanted != "auto":
        return wanted == "on"
    seconds = flops / ASSUMED_FLOPS_PER_S[device.type]
    return seconds >= MIN_SECONDS_TO_COMPILE[device.type] and not missing_for_compile(device)


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
