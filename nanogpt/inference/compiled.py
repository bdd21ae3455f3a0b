"""decode.cpp compiled for this machine, and its products with packed weights."""

import ctypes
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from ctypes import POINTER, Structure, byref, c_int64, c_void_p
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.hardware.compilation import missing_for_compile
from nanogpt.runtime.atomic import write_bytes
from nanogpt.runtime.workdir import work_root

SOURCE = Path(__file__).with_name("decode.cpp")
FOLDER = "NANOGPT_COMPILED"  # environment variable: where compiled code is kept, by default in .work/compiled
VNNI = "-mavx512vnni"
PANEL = 64  # as in decode.cpp, like the order of the formats; sampling.BLOCK is a multiple of it
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.uint8}


def compiles(dtype: str) -> bool:
    """Whether compiled code multiplies with weights in a format: on x86-64 with AVX2, and int8 with AVX512-VNNI."""
    return library() is not None and (dtype != "int8" or VNNI in _instruction_flags())


def _instruction_flags() -> list[str]:
    capability = torch.backends.cpu.get_cpu_capability()
    level = {"AVX2": ["-march=x86-64-v3"], "AVX512": ["-march=x86-64-v4"]}.get(capability, [])
    return [*level, VNNI] if capability == "AVX512" and torch.cpu._is_vnni_supported() else level


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled decode.cpp, made by the first call on this machine in two seconds; None where that cannot be.

    It takes an x86-64 processor with AVX2 and a C++ compiler (CXX, or g++).
    """
    flags = _instruction_flags()
    if not flags or missing_for_compile(torch.device("cpu")):
        return None
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(flags).encode()).hexdigest()
    file = Path(os.environ.get(FOLDER) or work_root() / "compiled", f"decode-{digest[:12]}.so")
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            _compile(flags, file)
        loaded = ctypes.CDLL(str(file.resolve()))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        remedy = f"name another compiler in CXX, or a folder that can be written in {FOLDER}"
        print(f"texts are written at half the speed, without compiled code: {reason}; {remedy}", file=sys.stderr)
        return None
    loaded.multiply_rows.argtypes = [POINTER(ProductStruct), c_int64, c_void_p, c_void_p]
    loaded.decode.argtypes = [c_void_p, c_int64, *[c_void_p] * 4, c_int64, c_void_p]
    return loaded


def _compile(instructions: list[str], file: Path) -> None:
    # no -ffast-math, which lets numbers that are not finite pass, and rounds denormals to 0 in the whole process
    flags = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, file.name)
        command = [os.environ.get("CXX", "g++"), *instructions, *flags, "-o", str(made), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        write_bytes(file, made.read_bytes())


class ProductStruct(Structure):
    """`Product` of decode.cpp."""

    _fields_ = [
        ("panels", c_void_p), ("scales", c_void_p), ("bias", c_void_p),
        ("inputs", c_int64), ("outputs", c_int64), ("format", c_int64),
    ]  # fmt: skip


class CompiledProduct:
    """x W' + b with a packed W, see `products.pack`: x and sums are in fp32 in all formats."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: str):
        (self.outputs, inputs), scales, together = weight.shape, None, 1
        weight = F.pad(weight, (0, 0, 0, -self.outputs % PANEL))
        bias = None if bias is None else F.pad(bias, (0, len(weight) - self.outputs))
        if dtype == "int8":
            together = 4  # inputs that an instruction multiplies at once
            scales = weight.abs().amax(dim=1).clamp_min(1e-30) / 127
            weight = F.pad((weight / scales[:, None]).round() + 128, (0, -inputs % together), value=128)
        panels = weight.unflatten(0, (-1, PANEL)).unflatten(2, (-1, together)).transpose(1, 2)
        panels = panels.to(FORMATS[dtype]).contiguous()
        self.tensors = panels, scales, bias  # what the pointers point to
        self.struct = ProductStruct(*map(pointer, self.tensors), inputs, len(weight), list(FORMATS).index(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) to (N, out), fp32."""
        x, y = x.float().contiguous(), torch.empty(len(x), self.struct.outputs)
        library().multiply_rows(byref(self.struct), len(x), pointer(x), pointer(y))
        return y[:, : self.outputs]


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a tensor's numbers, for a struct; None for none."""
    return None if tensor is None else tensor.data_ptr()
