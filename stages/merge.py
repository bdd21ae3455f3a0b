"""Add the adapter of models/lora into its base: models/merged, a model like any other."""

from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Merge, prove on validation text that the model computes the same, save."""
    flags = Flags(__doc__)
    flags.add_argument("--lora-checkpoint", default="models/lora", help="adapter folder (default: %(default)s)")
    flags.add_argument("--base-checkpoint", help="model under it (default: the one that the adapter names)")
    flags.add_argument("--data", default="data/finetune", help="folder of bins to compare on (default: %(default)s)")
    flags.add_argument("--format", choices=["safetensors", "pt"], help="in place of checkpoint.format")
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], help="in place of checkpoint.dtype")
    flags.add_argument("--output-dir", help="folder or .pt file to write, metrics beside it (default: models/merged)")
    args = flags.parse_args()
    from nanogpt.checkpoint.folder import check_output, read_card, save_checkpoint
    from nanogpt.checkpoint.model_card import merged_card
    from nanogpt.checkpoint.settings import CheckpointSettings
    from nanogpt.data.tokens.bins import Bin
    from nanogpt.lora.adapter import display_name, find_base, open_adapted
    from nanogpt.lora.merge import merge_adapter
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import write_metrics
    from nanogpt.runtime.workdir import remove_committed_runs

    remove_committed_runs()
    settings = override(params.load(checkpoint=CheckpointSettings).checkpoint, args)
    out = Path(args.output_dir or "models/merged")
    check_output(out)
    base = args.base_checkpoint or find_base(args.lora_checkpoint)
    adapted, tok = open_adapted(args.lora_checkpoint, base)
    merged, figures = merge_adapter(adapted, Bin.open(args.data, "val", tok), settings.dtype)
    parts = {display_name(part): read_card(part) for part in (base, args.lora_checkpoint)}
    about = merged_card(merged.config.arch, parts, settings.format)
    save_checkpoint(out, merged, tok, format=settings.format, dtype=settings.dtype, card=about)
    write_metrics(out.with_name(out.name + ".merge.json") if args.output_dir else "metrics/merge.json", figures)


if __name__ == "__main__":
    process.run_stage(main)
