"""The output head as one matrix product, also where PEFT has put an adapter on it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Product:
    """Logits as features (N, F) times weight (V, F) transposed, whose first `frozen` columns need no gradient."""

    features: Tensor
    weight: Tensor
    frozen: int = 0


def as_product(head: nn.Module, x: Tensor) -> Product | None:
    """Write a head's logits of x (N, D) as a product; None if it does more than multiply by a weight and an adapter."""
    if type(head) is nn.Linear:
        return Product(x, head.weight) if _only_multiplies(head) else None
    if not hasattr(head, "active_adapters"):  # not of PEFT, whose import takes seconds
        return None
    from peft.utils.other import TrainableTokensWrapper

    layer = head.token_adapter if isinstance(head, TrainableTokensWrapper) else head
    one = len(layer.active_adapters) == 1 and not (layer.merged or layer.disable_adapters)
    if not one or not isinstance(layer.base_layer, nn.Linear) or not _only_multiplies(layer.base_layer):
        return None
    if isinstance(head, TrainableTokensWrapper):
        return Product(x, head.weight)  # with the adapter's rows in it
    return _low_rank_product(head, x)


def _only_multiplies(head: nn.Linear) -> bool:
    hooked = head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head)
    return head.bias is None and not hooked


def _low_rank_product(head: nn.Module, x: Tensor) -> Product:
    """W x + s B A dropout(x), or DoRA's rows of that at lengths of their own (arXiv:2402.09353, section 4.3)."""
    (name,) = head.active_adapters
    W, A, B = head.base_layer.weight, head.lora_A[name], head.lora_B[name].weight
    dropped = head.lora_dropout[name](x)
    low = A(dropped) * head.scaling[name]
    if name not in head.lora_magnitude_vector:
        return Product(torch.cat([x, low.to(x.dtype)], dim=1), torch.cat([W, B], dim=1), frozen=W.shape[1])
    with torch.no_grad():  # the paper holds the length of a row fixed
        lengths = (W + head.scaling[name] * (B @ A.weight)).norm(dim=1)
    gain = (head.lora_magnitude_vector[name].weight / lengths)[:, None]
    if dropped is x:
        return Product(torch.cat([x, low.to(x.dtype)], dim=1), gain * torch.cat([W, B], dim=1))
    parts = W, (gain - 1) * W, gain * B  # as in PEFT: what DoRA adds sees the input with dropout
    return Product(torch.cat([x, dropped, low.to(x.dtype)], dim=1), torch.cat(parts, dim=1), frozen=W.shape[1])
