"""Matrix products with a constant weight, packed once in the number format that is read fastest."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.inference.compiled import CompiledProduct, compiles

WeightDtype = Literal["float32", "bfloat16", "float16", "int8"]
Product = Callable[[Tensor], Tensor]  # x (N, in) to x W' + b (N, out), fp32
# Smaller weights stay in float16 when others are int8: rounding x took longer than reading them (docs/decoding.md).
MIN_INT8_WEIGHTS = 2**20


def pack(weight: Tensor, bias: Tensor | None, dtype: WeightDtype) -> Product:
    """The product with a weight W (out, in) in `dtype` and a bias (out,), both read now and copied.

    int8 has a scale for each row of W, and one for each row of x, which it rounds as well: a row's result does not
    depend on the others. Where there is no compiled code the kernels are oneDNN's, which in bfloat16 round x too, and
    for float16 FBGEMM's. On other devices than the CPU they are torch's own, in bfloat16 for all but fp32.
    """
    weight, bias = weight.detach().float(), None if bias is None else bias.detach().float().clone()
    if weight.device.type != "cpu":
        stored = weight.clone() if dtype == "float32" else weight.bfloat16()
        return lambda x: _add(F.linear(x.to(stored.dtype), stored).float(), bias)
    if compiles(dtype):
        return CompiledProduct(weight, bias, dtype)
    if dtype == "int8" and weight.numel() < MIN_INT8_WEIGHTS:
        dtype = "float16"
    return PACKERS[dtype](weight, bias)


def supported() -> list[WeightDtype]:
    """The formats that there are kernels for on this CPU, compiled here or torch's."""
    fbgemm = "fbgemm" in torch.backends.quantized.supported_engines
    torch_has = {
        "float32": True,
        "bfloat16": torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "float16": fbgemm,
        "int8": fbgemm,
    }
    return [dtype for dtype in get_args(WeightDtype) if compiles(dtype) or torch_has[dtype]]


def fastest() -> WeightDtype:
    """The format of 16 or more bits that texts are written fastest in (docs/decoding.md has the times)."""
    return next(dtype for dtype in ("float16", "bfloat16", "float32") if dtype in supported())


def _pack_float32(weight: Tensor, bias: Tensor | None) -> Product:
    if not torch.backends.mkldnn.is_available():
        weight = weight.clone()
        return lambda x: F.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, bias, "none", [], "")


def _pack_bfloat16(weight: Tensor, bias: Tensor | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), 1)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: _add(multiply(x.bfloat16(), packed, None, "none", [], "").float(), bias)


def _pack_float16(weight: Tensor, bias: Tensor | None) -> Product:
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    multiply = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: multiply(x, packed)


def _pack_int8(weight: Tensor, bias: Tensor | None) -> Product:
    scales = weight.abs().amax(dim=1).clamp_min(1e-30) / 127
    packed = torch.ops.onednn.qlinear_prepack((weight / scales[:, None]).round().to(torch.int8), None)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    multiply = torch.ops.onednn.qlinear_pointwise.default

    def product(x: Tensor) -> Tensor:
        largest = torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True).clamp_min_(1e-30)
        rounded = (x * (127 / largest)).add_(128.5).to(torch.uint8)  # 128 is zero: oneDNN has no fast kernel for int8 x
        y = multiply(rounded, 1 / 127, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        return _add(y.mul_(largest), bias)

    return product


def _add(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y.add_(bias)


PACKERS = {"float32": _pack_float32, "bfloat16": _pack_bfloat16, "float16": _pack_float16, "int8": _pack_int8}
