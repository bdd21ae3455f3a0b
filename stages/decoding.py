"""Measure decoding for docs/decoding.md: formats and streams, beside llama.cpp, and what a person waits for."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags

WHAT = ("formats", "llamacpp", "use")


def main() -> None:
    """Measure, print; --out adds the figures to a file."""
    flags = Flags(__doc__)
    flags.add_argument("what", choices=WHAT)
    flags.add_output("--out", metavar="PATH.json", help="file to add the figures to")
    args = flags.parse_args()
    flags.check_files(args)
    import pandas as pd

    from nanogpt.benchmark.settings import BenchmarkSettings
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.research import decoding
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import read_metrics, write_metrics

    known = read_metrics(args.out) if args.out else {}
    settings = params.load(benchmark=BenchmarkSettings).benchmark
    measure = {"formats": decoding.measure_formats, "llamacpp": decoding.measure_llamacpp, "use": decoding.measure_use}
    figures = measure[args.what](settings)
    run = {"machine": describe_processor(), "command": f"python -m stages.decoding {args.what}"}
    if args.what == "formats":
        print(pd.DataFrame(figures).T.round(0).to_string())
        found = {"formats": figures | run}
    elif args.what == "llamacpp":
        print(pd.Series(figures).round(3).to_string())
        best = {name: figures[f"optimized_{name}"] for name in RATIOS} if figures else {}
        found = best | {"llamacpp": figures | run}
    else:
        print(pd.Series(figures).round(3).to_string())
        found = {"first_token_s": figures.pop("first_token_s"), "server": figures | run}
    if args.out:
        write_metrics(args.out, known | found)


RATIOS = ("one_stream_over_llamacpp_f16", "one_stream_int8_over_llamacpp_f16", "one_stream_int8_over_llamacpp_q8_0")

if __name__ == "__main__":
    process.run_stage(main)
