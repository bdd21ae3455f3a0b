"""Serve models over HTTP as OpenAI does: completions and chat completions, whole or streamed."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Load one model or several, and answer requests until Ctrl-C or a signal."""
    flags = Flags(__doc__)
    flags.add_argument("--checkpoint", help="model folder or .pt file (default: models/merged)")
    adapter = (
        "adapter, a path or name, as a model of its own: on --checkpoint or the base that it names; may be given again"
    )
    flags.add_argument("--lora-checkpoint", action="append", default=[], metavar="ADAPTER", help=adapter)
    flags.add_argument(
        "--host", default="127.0.0.1", help="address to serve at (default: %(default)s, for this machine)"
    )
    flags.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: %(default)s)")
    dtypes = ["auto", "float32", "bfloat16", "float16", "int8"]
    flags.add_argument("--dtype", choices=dtypes, default="auto", help="format of the weights (default: %(default)s)")
    queue = "texts of a model that may wait while others are written (default: %(default)s)"
    flags.add_argument("--max-queue", type=int, default=256, metavar="N", help=queue)
    args = flags.parse_args()
    if not 0 <= args.port < 2**16:
        flags.error(f"--port {args.port}: choose 0 to {2**16 - 1}")
    if args.max_queue < 0:
        flags.error(f"--max-queue {args.max_queue}: choose 0 or more")
    from nanogpt.inference.open_writer import open_writers
    from nanogpt.inference.server import describe_start, listen, serve

    listening = listen(args.host, args.port)  # before the models, which take longer
    writers = open_writers(args.checkpoint, args.lora_checkpoint, args.dtype)
    print(describe_start(writers, listening), flush=True)
    serve(writers, listening, args.max_queue)


if __name__ == "__main__":
    process.run_stage(main)
