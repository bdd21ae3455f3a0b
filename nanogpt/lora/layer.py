"""A linear layer with LoRA that trains in one product: PEFT's own, but for the order of its arithmetic.

PEFT computes W x + s B (A x), whose small products read and write the activations several times. Here the adapter is
added to the weight first: (W + s B A) x. The gradients of A and B need no product of the weight's size.
"""

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LoraLinear(Linear):
    """PEFT's LoRA on a linear layer. DoRA, dropout, evaluation and merged adapters are left to PEFT."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """(..., in) to (..., out)."""
        if not (self.training and torch.is_grad_enabled() and self._is_plain()):
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base, kind = self.base_layer, x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        weights = base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight
        with torch.autocast(kind, enabled=False):
            return LoraProduct.apply(x, *weights, self.scaling[name], dtype)

    def _is_plain(self) -> bool:
        names = self.active_adapters
        one = len(names) == 1 and names[0] in self.lora_A and names[0] not in self.lora_variant
        return (
            one
            and not self.merged
            and not self.disable_adapters
            and isinstance(self.lora_dropout[names[0]], nn.Identity)
        )


class LoraProduct(torch.autograd.Function):
    """x (..., in) to (..., out); W (out, in) and its bias are frozen, A (r, in), B (out, r); `dtype` of products."""

    @staticmethod
    def forward(  # noqa: D102
        ctx, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float, dtype: torch.dtype
    ) -> Tensor:
        adapted = torch.addmm(W, B, A, alpha=scale).to(dtype)
        rows = x.to(dtype)
        ctx.save_for_backward(rows, adapted, A, B)
        ctx.scale, ctx.dtypes = scale, (x.dtype, A.dtype)
        return F.linear(rows, adapted, None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None]:  # noqa: D102
        x, adapted, A, B = ctx.saved_tensors
        rows, slopes = x.flatten(0, -2), grad.flatten(0, -2)  # (N, in), (N, out)
        grad_x = (grad @ adapted).to(ctx.dtypes[0]) if ctx.needs_input_grad[0] else None
        low, low_slopes = rows @ A.to(x.dtype).T, slopes @ B.to(x.dtype)  # (N, r)
        grad_A = (low_slopes.T @ rows).to(ctx.dtypes[1]) * ctx.scale
        grad_B = (slopes.T @ low).to(ctx.dtypes[1]) * ctx.scale
        return grad_x, None, None, grad_A, grad_B, None, None
