"""What the parts of a step cost, counted."""

import math

from torch.utils.flop_counter import FlopCounterMode

C, TOKENS = 32, 48


PARTS = ["embedding", "attention", "mlp", "head_loss", "optimizer"]


def flops(step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def check_parts(figures: dict) -> None:
    """What `benchmark` returns, whatever the clock says."""
    variants = ["base_fp32", "base_bf16", "optimized_fp32", "optimized_bf16"]
    assert list(figures) == ["parts_ms"] and list(figures["parts_ms"]) == variants
    for ms in figures["parts_ms"].values():
        assert list(ms) == PARTS and all(0 < value < math.inf for value in ms.values())
