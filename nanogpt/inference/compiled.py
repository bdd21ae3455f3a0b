"""decode.cpp compiled for this machine, and its products with packed weights."""

import ctypes
import functools
import hashlib
import os
import subprocess
import sys
from ctypes import POINTER, Structure, byref, c_int64, c_void_p
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.hardware.compilation import missing_for_compile
from nanogpt.runtime.atomic import replace_file
from nanogpt.runtime.workdir import work_folder

SOURCE = Path(__file__).with_name("decode.cpp")
LEVELS = {"AVX2": "x86-64-v3", "AVX512": "x86-64-v4"}  # by torch's name for what the processor has
PANEL = 64  # as in decode.cpp, and the order of the formats too
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled decode.cpp, made by the first call on this machine in about a second; None where that cannot be.

    It takes an x86-64 processor with AVX2 and a C++ compiler (CXX, or g++).
    """
    level = LEVELS.get(torch.backends.cpu.get_cpu_capability())
    if level is None or missing_for_compile(torch.device("cpu")):
        return None
    identity = {"source": hashlib.sha256(SOURCE.read_bytes()).hexdigest(), "level": level}
    try:
        # torch's variable for what it compiles is heeded here too
        folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or work_folder("compiled", "decode", identity)
        file = Path(folder, f"decode-{level}-{identity['source'][:12]}.so")
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            _compile(level, file)
        loaded = ctypes.CDLL(str(file.resolve()))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        print(f"texts are written without compiled code, which is slower: {reason.strip()}", file=sys.stderr)
        return None
    loaded.multiply_rows.argtypes = [POINTER(ProductStruct), c_int64, c_void_p, c_void_p]
    loaded.decode.argtypes = [c_void_p, c_int64, *[c_void_p] * 4, c_int64, c_void_p]
    return loaded


def _compile(level: str, file: Path) -> None:
    # no -ffast-math, which lets numbers that are not finite pass, and rounds denormals to 0 in the whole process
    flags = ["-std=c++17", "-O3", f"-march={level}", "-fno-math-errno", "-fno-trapping-math"]
    with replace_file(file) as target:
        command = [os.environ.get("CXX", "g++"), *flags, "-fopenmp", "-shared", "-fPIC", "-o", target.name, str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True)


class ProductStruct(Structure):
    """`Product` of decode.cpp."""

    _fields_ = [
        ("panels", c_void_p), ("scales", c_void_p), ("bias", c_void_p),
        ("inputs", c_int64), ("outputs", c_int64), ("format", c_int64),
    ]  # fmt: skip


class CompiledProduct:
    """x W' + b with a packed W, see `products.pack`: x and sums are in fp32 in all formats."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: str):
        self.outputs, scales = len(weight), None
        weight = F.pad(weight, (0, 0, 0, -len(weight) % PANEL))
        if dtype == "int8":
            scales = weight.abs().amax(dim=1).clamp_min(1e-30) / 127
            weight = (weight / scales[:, None]).round()
        bias = None if bias is None else F.pad(bias, (0, len(weight) - len(bias)))
        panels = weight.unflatten(0, (-1, PANEL)).transpose(1, 2).to(FORMATS[dtype]).contiguous()
        self.tensors = panels, scales, bias  # what the pointers point to
        self.struct = ProductStruct(
            *map(pointer, self.tensors), weight.size(1), len(weight), list(FORMATS).index(dtype)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) to (N, out), fp32."""
        x, y = x.contiguous(), torch.empty(len(x), self.struct.outputs)
        library().multiply_rows(byref(self.struct), len(x), pointer(x), pointer(y))
        return y[:, : self.outputs]


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a tensor's numbers, for a struct; None for none."""
    return None if tensor is None else tensor.data_ptr()
