"""Measure for docs/scaling.md: training in several processes (speed, curves, faults, links), and 10 GB of text."""

from dataclasses import replace

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags

GROUPS = {
    "speed": "processes", "curves": "processes", "faults": "faults", "links": "local_steps", "prepare": "prepare_10gb",
}  # fmt: skip
MEGABYTES = 10_000


def main() -> None:
    """Measure, print; --out adds the figures to a file."""
    flags = Flags(__doc__)
    flags.add_argument("what", choices=GROUPS)
    flags.add_argument("--kills", type=int, default=20, metavar="N", help="of faults (default: %(default)s)")
    flags.add_argument("--steps", type=int, metavar="N", help="of curves (default: 200) and of links (default: 240)")
    flags.add_argument("--path", help="of prepare: file or folder of text to repeat to 10 GB (default: data.pretrain)")
    flags.add_output("--out", metavar="PATH.json", help="file to add the figures to")
    args = flags.parse_args()
    flags.check_files(args)
    import pandas as pd

    from nanogpt.benchmark.settings import BenchmarkSettings
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.research.process_faults import measure_faults
    from nanogpt.research.processes import measure_curves, measure_processes
    from nanogpt.research.slow_links import measure_links
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import read_metrics, write_metrics

    known = read_metrics(args.out) if args.out else {}  # before minutes of measuring
    if args.what == "speed":
        figures = measure_processes(params.load(benchmark=BenchmarkSettings).benchmark)
    elif args.what == "curves":
        figures = measure_curves(args.steps or 200)
    elif args.what == "faults":
        figures = measure_faults(args.kills, seed=1)
    elif args.what == "links":
        figures = measure_links(args.steps or 240)
    else:
        figures = _measure_prepare(args.path)
    print(pd.Series(figures).to_string())
    if args.out:
        given = "".join(f" {flag} {vars(args)[flag[2:]]}" for flag in flags.changes(args) if flag != "--what")
        run = {"machine": describe_processor(), "command": f"python -m stages.scaling {args.what}{given}"}
        group = GROUPS[args.what]
        write_metrics(args.out, known | {group: known.get(group, {}) | figures | run})


def _measure_prepare(path: str | None) -> dict[str, float]:
    """Figures of `measure_prepare` on 10 GB in GPT-2's tokens."""
    from nanogpt.data.sources.load import Data, load_corpus
    from nanogpt.data.tokens.settings import TokenizerSettings
    from nanogpt.research.prepare_speed import measure_prepare
    from nanogpt.runtime import params

    given = params.load(data=Data, tokenizer=TokenizerSettings)
    settings = given.data.pretrain
    if path:
        settings = replace(settings, source="files", path=path, num_samples=None)
    tokens = replace(given.tokenizer, kind="gpt2")
    figures = measure_prepare(load_corpus(settings, given.data), tokens, MEGABYTES, repeats=1)
    return figures | {"over_tiktoken": figures.pop("prepare_over_tiktoken")}


if __name__ == "__main__":
    process.run_stage(main)
