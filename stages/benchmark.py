"""Time this machine: training (base, optimized, plain PyTorch, LoRA, parts of a step) and decoding."""

import os

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def add_step_flags(flags: Flags, dtype_help: str) -> None:
    """Add the flags of a measurement of training steps, named as in section `benchmark`, and --out."""
    flags.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], help=dtype_help)
    flags.add_argument("--compile", choices=["auto", "off"], help="off leaves compiled variants out")
    flags.add_argument("--batch-size", type=int, metavar="N", help="sequences in a step")
    flags.add_argument("--block-size", type=int, metavar="N", help="tokens in a sequence")
    flags.add_argument("--num-iters", type=int, metavar="N", help="timed steps of each variant")
    flags.add_output("--out", metavar="PATH.json", help="write the figures here too")


def main() -> None:
    """Measure and print the figures; DVC gets them in metrics/, and by hand they are written to --out alone."""
    flags = Flags(__doc__)
    parts = ["training", "decoding", "both"]
    flags.add_argument("--what", choices=parts, default="both", help="default: %(default)s")
    add_step_flags(flags, "bfloat16 adds its variants, float32 leaves them out")
    args = flags.parse_args()
    flags.check_files(args)
    from nanogpt.benchmark.decoding import measure_decoding
    from nanogpt.benchmark.settings import BenchmarkSettings
    from nanogpt.benchmark.training_speed import format_figures, format_table, measure_training, save_charts
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import write_metrics

    print(describe_processor(), flush=True)
    settings = override(params.load(benchmark=BenchmarkSettings).benchmark, args)
    figures = {}
    if args.what != "decoding":
        figures = measure_training(settings)
        print(format_figures(figures), flush=True)
    if args.what != "training":
        figures["decoding"] = measure_decoding(settings)
        print(f"\n{format_table('decoding', figures['decoding'])}")
    if args.out:
        write_metrics(args.out, figures)
    elif "DVC_STAGE" in os.environ:
        write_metrics("metrics/benchmark.json", figures)
        save_charts(figures, "metrics")


if __name__ == "__main__":
    process.run_stage(main)
