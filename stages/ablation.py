"""Compare settings at equal training time, with several seeds each: the runs of recipes/ablations/NAME.yaml."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Run the experiments that do not exist yet, print the table and write the figures."""
    flags = Flags(__doc__)
    flags.add_argument("plan", metavar="NAME", help="a file of recipes/ablations/, without .yaml")
    flags.add_argument("--text", metavar="PATH", help="file or folder to train on; every 20th document is for the test")
    flags.add_output("--out", metavar="PATH.json", help="file to add the figures to, under NAME with _ for -")
    args = flags.parse_args()
    flags.check_files(args, *([args.text] if args.text else []))
    import pandas as pd

    from nanogpt.pipeline.equal_time import read_plan, run_plan
    from nanogpt.runtime.metrics_file import add_metrics, read_metrics

    if args.out:
        read_metrics(args.out)  # before hours of training
    figures = run_plan(read_plan(args.plan), args.text)
    print(figures["machine"], pd.DataFrame(figures["runs"]).T.round(4).to_string(), sep="\n")
    for name, figure in figures.items():
        if f"{name}_ci95" in figures:
            print(f"{name}: {figure:.4g} ± {figures[f'{name}_ci95']:.2g}")
    if args.out:
        add_metrics(args.out, args.plan.replace("-", "_"), figures)


if __name__ == "__main__":
    process.run_stage(main)
