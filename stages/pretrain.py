"""Train a model from scratch on data/pretrain: models/pretrain, metrics and curves."""

import time
from dataclasses import asdict
from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Build, train, score on every validation document, save."""
    started = time.monotonic()
    flags = Flags(__doc__)
    flags.add_argument("--arch", choices=["base", "optimized"], help="in place of model.arch")
    flags.add_argument("--init-from", metavar="PATH", help="checkpoint to start from, in place of train.init_from")
    flags.add_argument("--seed", type=int, metavar="N", help="in place of seed")
    flags.add_argument("--max-steps", type=int, metavar="N", help="in place of train.max_steps")
    flags.add_argument(
        "--data", default="data/pretrain", help="folder of bins and their tokenizer (default: %(default)s)"
    )
    flags.add_argument("--out", help="model folder to write, metrics inside it (default: models/pretrain and metrics/)")
    args = flags.parse_args()
    from nanogpt import start, train
    from nanogpt.checkpoint.folder import check_output, config_and_tokenizer, save_checkpoint
    from nanogpt.checkpoint.model_card import pretrained_card
    from nanogpt.checkpoint.settings import CheckpointSettings
    from nanogpt.data.tokens.batches import Windows
    from nanogpt.data.tokens.bins import Bin
    from nanogpt.data.tokens.tokenizer import load_tokenizer
    from nanogpt.model.config import ModelSettings
    from nanogpt.model.score import score_bin
    from nanogpt.runtime import atomic, params
    from nanogpt.runtime.metrics_file import write_metrics
    from nanogpt.training import resume

    given = params.load(seed=int, model=ModelSettings, train=train.TrainSettings, checkpoint=CheckpointSettings)
    settings = override(given.train, args)
    tok = load_tokenizer(f"{args.data}/tokenizer")
    out = args.out or "models/pretrain"
    check_output(out)
    folder = Path(args.out.removesuffix(".pt") if args.out else "metrics")
    atomic.check_writable(folder / "pretrain.json")
    seed = given.seed if args.seed is None else args.seed
    net = start.start(override(given.model, args), settings.init_from, tok, seed)
    begun = start.origin(settings.init_from)
    train_data, val_data = (Bin.open(args.data, split, tok) for split in ("train", "val"))
    windows = [Windows(data, net.config.block_size, seed) for data in (train_data, val_data)]
    made_of = {"seed": seed, "begun": begun, "model": asdict(net.config), "train": settings.made_of()}
    made_of["data"] = [tok.sha256, train_data.counts.sha256, val_data.counts.sha256]
    kept = resume.work(
        "pretrain", net.config.arch, made_of, settings.checkpoint_every, config_and_tokenizer(net, tok), started
    )
    with kept as work:
        run = train.train(net, *windows, settings, seed, work)
        score = score_bin(net, val_data, tok.byte_lengths(), run.dtype)
        made_with = {"seed": seed, "model": net.config, "train": settings}
        about = pretrained_card(net, tok, begun, train_data, val_data, score, made_with, given.checkpoint.format)
        save_checkpoint(out, net, tok, **asdict(given.checkpoint), card=about)
        run.save(folder, "pretrain")
        write_metrics(folder / "pretrain.json", run.figures(score, val_data, started))


if __name__ == "__main__":
    process.run_stage(main)
