"""Time this machine: training (base, optimized, plain PyTorch, LoRA, parts of a step) and decoding; plan a training."""

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
    parts = ["training", "decoding", "both", "plan"]
    flags.add_argument("--what", choices=parts, default="both", help="default: %(default)s, training and decoding")
    plan = {"--params": "parameters", "--tokens": "tokens to train on", "--hosts": "machines like this one"}
    plan |= {"--link": "bits a second between two of them", "--step-tokens": "tokens in a step"}
    defaults = dict(zip(plan, (124e6, 10e9, 8, 10e9, 2**19), strict=True))
    for flag, text in plan.items():
        flags.add_argument(flag, type=float, metavar="X", help=f"of plan: {text} (default: {defaults[flag]:g})")
    add_step_flags(flags, "bfloat16 adds its variants, float32 leaves them out")
    args = flags.parse_args()
    flags.check_files(args)
    given = {flag: vars(args)[flag[2:].replace("-", "_")] for flag in plan}
    if args.what == "plan":
        if unused := [flag for flag in flags.changes(args) if flag not in {*plan, "--what"}] + ["--out"] * bool(
            args.out
        ):
            flags.error(f"{unused[0]} is not of --what plan")
        return _print_plan(flags, *(defaults[flag] if value is None else value for flag, value in given.items()))
    if unused := [flag for flag, value in given.items() if value is not None]:
        flags.error(f"{unused[0]} is of --what plan")
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


def _print_plan(flags: Flags, params: float, tokens: float, hosts: float, link: float, step_tokens: float) -> None:
    from nanogpt.benchmark.plan import Training, format_plan, measured_host

    if min(params, tokens, hosts, link, step_tokens) < 1:
        flags.error("a plan needs at least 1 of everything")
    print(format_plan(Training(params, tokens, step_tokens), measured_host(), int(hosts), link))


if __name__ == "__main__":
    process.run_stage(main)
