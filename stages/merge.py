"""Add the adapter of models/lora into the weights of its base: models/merged, a model like any other."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Merge, prove on validation text that the model computes the same, save."""
    flags = Flags(__doc__)
    flags.add_argument(
        "--lora-checkpoint", default="models/lora", help="adapter, by path or name (default: %(default)s)"
    )
    flags.add_argument("--base-checkpoint", help="model under it (default: the one that the adapter names)")
    flags.add_argument("--data", default="data/finetune", help="folder of bins to compare on (default: %(default)s)")
    flags.add_argument("--format", choices=["safetensors", "pt"], help="in place of checkpoint.format")
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], help="in place of checkpoint.dtype")
    flags.add_output("--output-dir", help="folder or .pt file to write, metrics beside it (default: models/merged)")
    args = flags.parse_args()
    flags.choose_output(args)
    out = args.output_dir or "models/merged"
    if args.format and out.endswith(".pt"):
        flags.error(f"--format is for a folder, and {out} is one file; leave it out")
    from nanogpt.checkpoint.settings import CheckpointSettings
    from nanogpt.lora.merge import merge_folder
    from nanogpt.lora.named import find_adapter
    from nanogpt.runtime import params

    settings = override(params.load(checkpoint=CheckpointSettings).checkpoint, args)
    metrics = f"{out.rstrip('/')}.merge.json" if args.output_dir else "metrics/merge.json"
    inputs = find_adapter(args.lora_checkpoint), args.base_checkpoint, args.data
    found = merge_folder(settings, *inputs, out, metrics, args.overwrite)
    print(
        f"{out}: the base with {args.lora_checkpoint} in its weights, loss moved by {found['loss_change_nats']:.1g} "
        f"nats ({metrics}); next: python -m stages.sample --checkpoint {out}"
    )


if __name__ == "__main__":
    process.run_stage(main)
