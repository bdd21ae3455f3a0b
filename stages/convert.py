"""Write a checkpoint anew in another form: folder or .pt file, fp32 or bf16, ours from nanoGPT's or Hugging Face's."""

from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Load and save; a model card goes along."""
    flags = Flags(__doc__)
    flags.add_argument("--checkpoint", required=True, help="model folder or .pt file to read, nanoGPT's ckpt.pt too")
    flags.add_argument("--out", required=True, help="model folder to write, or a file where the name ends in .pt")
    flags.add_argument("--format", choices=["safetensors", "pt"], help="the folder's weights (default: safetensors)")
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the weights on disk (default: float32)")
    flags.add_argument("--tokenizer", metavar="FOLDER", help="tokenizer to take in place of the checkpoint's own")
    args = flags.parse_args()
    from nanogpt.checkpoint.folder import load_checkpoint, read_card, save_checkpoint

    source, out = Path(args.checkpoint), Path(args.out)
    save_checkpoint(
        out,
        *load_checkpoint(source, args.tokenizer),
        format=args.format or "safetensors",
        dtype=args.dtype or "float32",
        card=read_card(source),
    )


if __name__ == "__main__":
    process.run_stage(main)
