"""Training steps in all variants: architecture, dtype, compiled or not, and plain PyTorch's."""

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.training_speed import summarize_steps, time_variants
from nanogpt.benchmark.variants import CPU, DTYPES, Variant
from nanogpt.hardware.compilation import missing_for_compile


def measure_variants(settings: BenchmarkSettings) -> dict[str, dict[str, float]]:
    """Time three steps in turns for each dtype, compiled and not: base, optimized, and base in plain PyTorch."""
    groups = [
        {
            f"{arch}_{short}{'_compiled' * compiled}{'_plain' * plain}": Variant(arch, dtype, compiled, plain)
            for arch, plain in (("base", True), ("base", False), ("optimized", False))
        }
        for short, dtype in DTYPES.items()
        for compiled in ([False, True] if settings.compile == "auto" and not missing_for_compile(CPU) else [False])
    ]
    return summarize_steps([time_variants(group, settings) for group in groups], settings)
