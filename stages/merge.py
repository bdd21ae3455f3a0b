"""Add the adapter of models/lora into its base: models/merged, a model like any other."""

from pathlib import Path

from nanogpt import errors
from nanogpt.flags import Flags


def main() -> None:
    """Merge, prove that the model computes the same, save."""
    flags = Flags(__doc__)
    flags.add_argument("--lora-checkpoint", default="models/lora", help="adapter folder (default: %(default)s)")
    flags.add_argument("--base-checkpoint", help="model under it (default: the one that the adapter names)")
    flags.add_argument("--output-dir", help="folder or .pt file to write, metrics beside it (default: models/merged)")
    args = flags.parse_args()
    from nanogpt import checkpoint, lora, metrics

    net, tok = checkpoint.load(args.base_checkpoint or lora.base_of(args.lora_checkpoint))
    merged, difference = lora.merge(lora.load(args.lora_checkpoint, net))
    out = Path(args.output_dir or "models/merged")
    checkpoint.save(out, merged, tok)
    metrics.write(out.with_name(out.name + ".merge.json") if args.output_dir else "metrics/merge.json", difference)


if __name__ == "__main__":
    errors.run(main)
