"""Write a checkpoint in another form: folder, .pt or GGUF file, fp32 or less, ours from nanoGPT's or Hugging Face's."""

from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Load and save; the model card is copied too."""
    flags = Flags(__doc__)
    flags.add_argument("--checkpoint", required=True, help="model folder or .pt file to read, nanoGPT's ckpt.pt too")
    flags.add_output(
        "--out", required=True, help="model folder to write, or a file where the name ends in .pt or .gguf"
    )
    formats = "the folder's weights (default: safetensors), or gguf for llama.cpp and Ollama"
    flags.add_argument("--format", choices=["safetensors", "pt", "gguf"], help=formats)
    dtypes = "of the weights; float16 and q8_0 are for gguf alone, bfloat16 for all else (default: float32)"
    flags.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "q8_0"], default="float32", help=dtypes)
    flags.add_argument("--tokenizer", metavar="FOLDER", help="tokenizer to use in place of the checkpoint's own")
    args = flags.parse_args()
    gguf = Path(args.out).suffix == ".gguf"
    if args.format == "gguf" and not gguf:
        flags.error(f"--out {args.out}: choose a name that ends in .gguf")
    if args.format in ("safetensors", "pt") and Path(args.out).suffix in (".gguf", ".pt"):
        flags.error(f"--format is for a folder, and {args.out} is one file; leave it out")
    dtypes = ["float32", "float16", "q8_0"] if gguf else ["float32", "bfloat16"]
    if args.dtype not in dtypes:
        flags.error(f"--dtype {args.dtype} is not for {args.out}; choose one of {', '.join(dtypes)}")
    from nanogpt.checkpoint.folder import load_checkpoint, output_marker, read_card, save_checkpoint
    from nanogpt.checkpoint.model_card import card_for
    from nanogpt.checkpoint.settings import CheckpointSettings
    from nanogpt.runtime.outputs import check_outputs

    inputs = [args.checkpoint, *([args.tokenizer] if args.tokenizer else [])]
    modelfile = Path(args.out).with_suffix(".Modelfile")
    outputs = {args.out: None, modelfile: None} if gguf else {args.out: output_marker(args.out)}
    check_outputs(outputs, inputs, args.overwrite)
    model, tok = load_checkpoint(args.checkpoint, args.tokenizer)
    if gguf:
        from nanogpt.checkpoint.gguf_file import save_gguf

        save_gguf(args.out, model, tok, args.dtype)
        print(f"{args.out}: {args.checkpoint} in {args.dtype}; for Ollama: ollama create NAME -f {modelfile}")
        return
    settings = CheckpointSettings(args.format or "safetensors", args.dtype)
    card = read_card(args.checkpoint)
    save_checkpoint(args.out, model, tok, settings, card and card_for(card, settings.format))
    print(f"{args.out}: {args.checkpoint} in {args.dtype}; next: python -m stages.sample --checkpoint {args.out}")


if __name__ == "__main__":
    process.run_stage(main)
