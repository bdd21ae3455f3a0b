"""Time training steps of base against optimized on this machine: metrics/benchmark.json."""

from nanogpt import errors
from nanogpt.flags import Flags, override


def main() -> None:
    """Measure, print the table, write the figures."""
    flags = Flags(__doc__)
    flags.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], help="bfloat16 adds that variant, float32 not"
    )
    flags.add_argument("--batch-size", type=int, metavar="N", help="sequences a step")
    flags.add_argument("--block-size", type=int, metavar="N", help="tokens a sequence")
    flags.add_argument("--num-iters", type=int, metavar="N", help="timed steps of each variant")
    flags.add_argument("--out", default="metrics/benchmark.json", help="file to write (default: %(default)s)")
    args = flags.parse_args()
    from nanogpt import bench, hardware, metrics, params

    settings = override(params.load(benchmark=bench.BenchmarkSettings).benchmark, args)
    print(hardware.describe(), flush=True)
    figures = bench.benchmark(settings)
    print(bench.table(figures))
    metrics.write(args.out, figures)


if __name__ == "__main__":
    errors.run(main)
