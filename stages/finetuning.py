"""Measure fine-tuning of models/pretrain: kinds of adapters, replay, PEFT's merge, memory, a recipe of real text."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags

WHAT = ("kinds", "replay", "merge", "memory", "real-text")


def main() -> None:
    """Measure, print; --out adds the figures to a file."""
    flags = Flags(__doc__)
    flags.add_argument("what", choices=WHAT)
    flags.add_argument("--seeds", type=int, default=3, metavar="N", help="of kinds and replay (default: %(default)s)")
    flags.add_argument(
        "--minutes", type=float, metavar="X", help="of kinds: time of each run, in place of lora.max_steps"
    )
    flags.add_output("--out", metavar="PATH.json", help="file to add the figures to")
    args = flags.parse_args()
    flags.check_files(args)
    if args.seeds < 2:
        flags.error(f"--seeds {args.seeds}: an interval needs two at least")
    import pandas as pd

    from nanogpt.benchmark.settings import BenchmarkSettings
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.lora.settings import LoraSettings
    from nanogpt.research import finetuning
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import add_metrics, read_metrics
    from nanogpt.training.settings import TrainSettings

    known = read_metrics(args.out) if args.out else {}  # before hours of training
    given = params.load(train=TrainSettings, lora=LoraSettings, benchmark=BenchmarkSettings)
    seeds, found, chosen = range(1, args.seeds + 1), {}, f" --seeds {args.seeds}"
    if args.what == "kinds":
        equal = "equal_time" if args.minutes else "equal_steps"
        rows = finetuning.compare_kinds(given.lora, given.train, seeds, args.minutes)
        print(pd.DataFrame(rows).T.round(4).to_string())
        chosen += f" --minutes {args.minutes:g}" if args.minutes else ""
        found[f"kinds_{equal}"] = rows
        ratio = {equal: rows["lora"]["finetune_bpb"] / rows["full"]["finetune_bpb"]}
        found["lora_over_full"] = known.get("lora_over_full", {}) | ratio
    elif args.what == "replay":
        found["replay"] = finetuning.measure_replay(given.lora, given.train, seeds)
        print(pd.DataFrame(found["replay"]["curve"]).T.round(4).to_string())
    else:
        measure = {
            "merge": finetuning.compare_merges,
            "memory": lambda: finetuning.measure_memory(given.lora, given.benchmark),
            "real-text": lambda: finetuning.run_recipe("real-text"),
        }[args.what]
        key = {"merge": "peft_merge", "real-text": "real_text"}.get(args.what, args.what)
        found, chosen = {key: measure()}, ""
    for key, figures in found.items():
        print(
            key, *(f"{name}: {figure:.4g}" for name, figure in figures.items() if isinstance(figure, float)), sep="\n"
        )
        run = {"machine": describe_processor(), "command": f"python -m stages.finetuning {args.what}{chosen}"}
        if args.out:
            add_metrics(args.out, key, figures | run)


if __name__ == "__main__":
    process.run_stage(main)
