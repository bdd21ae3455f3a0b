"""A model's loss with all but its head compiled."""

from collections.abc import Callable

from torch import Tensor, nn

from nanogpt.hardware.compilation import compile_cached
from nanogpt.model.loss import head_loss


def compile_loss(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """`model(ids, targets)` with all but the head compiled; the head's kernels are as fast as compiled ones."""
    hidden = compile_cached(model.hidden)
    return lambda ids, targets: head_loss(model.lm_head, hidden(ids), targets)
