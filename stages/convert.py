"""Write a checkpoint in another form: folder or .pt file, fp32 or bf16, ours from nanoGPT's or Hugging Face's."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Load and save; the model card is copied too."""
    flags = Flags(__doc__)
    flags.add_argument("--checkpoint", required=True, help="model folder or .pt file to read, nanoGPT's ckpt.pt too")
    flags.add_output("--out", required=True, help="model folder to write, or a file where the name ends in .pt")
    flags.add_argument("--format", choices=["safetensors", "pt"], help="the folder's weights (default: safetensors)")
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default: %(default)s")
    flags.add_argument("--tokenizer", metavar="FOLDER", help="tokenizer to use in place of the checkpoint's own")
    args = flags.parse_args()
    if args.format and args.out.endswith(".pt"):
        flags.error(f"--format is for a folder, and {args.out} is one file; leave it out")
    from nanogpt.checkpoint.folder import load_checkpoint, output_marker, read_card, save_checkpoint
    from nanogpt.checkpoint.settings import CheckpointSettings
    from nanogpt.runtime.outputs import check_outputs

    inputs = [args.checkpoint, *([args.tokenizer] if args.tokenizer else [])]
    check_outputs({args.out: output_marker(args.out)}, inputs, args.overwrite)
    model, tok = load_checkpoint(args.checkpoint, args.tokenizer)
    settings = CheckpointSettings(args.format or "safetensors", args.dtype)
    save_checkpoint(args.out, model, tok, settings, read_card(args.checkpoint))
    print(f"{args.out}: {args.checkpoint} in {args.dtype}; next: python -m stages.sample --checkpoint {args.out}")


if __name__ == "__main__":
    process.run_stage(main)
