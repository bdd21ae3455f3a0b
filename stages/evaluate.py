"""Evaluate models: bits per byte on the same texts, and what they know of the built-in grammars."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, parse_seed


def main() -> None:
    """Without flags, evaluate pretrained, adapted and merged: metrics/evaluate.md and metrics/evaluate.json."""
    flags = Flags(__doc__)
    checkpoint = "model folder, .pt file, adapter, GGUF file or folder of transformers; may be given again"
    flags.add_argument("--checkpoint", action="append", default=[], metavar="PATH", help=checkpoint)
    text = "file or folder of .txt, .jsonl, .csv, .parquet to evaluate on (default: both validation texts)"
    flags.add_argument("--text", metavar="PATH", help=text)
    harness = "also run these tasks of lm_eval, like blimp,lambada_openai; texts come from the hub"
    flags.add_argument("--harness", metavar="TASKS", help=harness)
    flags.add_argument("--seed", type=parse_seed, help="of what is drawn from the grammars")
    flags.add_output("--out", metavar="PATH.md", help="write the page here too, and its figures to PATH.json")
    args = flags.parse_args()
    flags.check_files(args, *args.checkpoint, *([args.text] if args.text else []))
    from nanogpt.evaluation.evaluate import PIPELINE, evaluate_checkpoints, evaluate_pipeline, own_text, pipeline_texts
    from nanogpt.evaluation.settings import EvaluateSettings
    from nanogpt.runtime import params
    from nanogpt.runtime.ranges import Seed

    given = params.load(seed=Seed, evaluate=EvaluateSettings)
    seed = given.seed if args.seed is None else args.seed
    if not (args.out or flags.changes(args)):
        print(evaluate_pipeline(given.evaluate, seed))
        return
    domains = own_text(args.text) if args.text else pipeline_texts()
    paths = args.checkpoint or list(PIPELINE.values())
    tasks = args.harness.split(",") if args.harness else []
    print(evaluate_checkpoints(paths, domains, given.evaluate, seed, args.out, tasks))


if __name__ == "__main__":
    process.run_stage(main)
