"""Measure decoding for docs/decoding.md: formats and streams, beside llama.cpp, and what a person waits for."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags

WHAT = ("formats", "llamacpp", "use")
# Figures of the optimized model that stand at the top of the file too.
SHOWN = ("one_stream_over_llamacpp_f16", "one_stream_int8_over_llamacpp_f16", "one_stream_int8_over_llamacpp_q8_0")


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

    known = read_metrics(args.out) if args.out else {}  # before minutes of measuring
    settings = params.load(benchmark=BenchmarkSettings).benchmark
    measure = {"formats": decoding.measure_formats, "llamacpp": decoding.measure_llamacpp, "use": decoding.measure_use}
    figures = measure[args.what](settings)
    print((pd.DataFrame(figures).T if args.what == "formats" else pd.Series(figures)).round(3).to_string())
    shown = {name: figures[f"optimized_{name}"] for name in SHOWN} if args.what == "llamacpp" else {}
    if args.what == "use":
        shown = {"first_token_s": figures.pop("first_token_s")}
    run = {"machine": describe_processor(), "command": f"python -m stages.decoding {args.what}"}
    group = {"use": "server"}.get(args.what, args.what)
    if args.out:
        write_metrics(args.out, known | shown | {group: figures | run})


if __name__ == "__main__":
    process.run_stage(main)
