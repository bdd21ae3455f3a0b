"""Train a LoRA adapter for models/pretrain on data/finetune: models/lora, metrics and curves."""

import time
from dataclasses import asdict
from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Score both domains, attach, train, score both again, save the adapter."""
    started = time.monotonic()
    flags = Flags(__doc__)
    flags.add_argument("--base-checkpoint", help="model to adapt, scored on --data alone (default: models/pretrain)")
    flags.add_argument("--data", default="data/finetune", help="folder of bins (default: %(default)s)")
    flags.add_argument("--r", type=int, help="rank, in place of lora.r")
    flags.add_argument("--kind", choices=["lora", "rslora", "dora"], help="in place of lora.kind")
    flags.add_argument("--max-steps", type=int, metavar="N", help="in place of lora.max_steps")
    flags.add_argument("--out", help="adapter folder to write, metrics inside it (default: models/lora and metrics/)")
    args = flags.parse_args()
    from nanogpt import compare, lora, train
    from nanogpt.checkpoint.folder import load_checkpoint
    from nanogpt.checkpoint.identity import model_identity
    from nanogpt.checkpoint.model_card import adapter_card
    from nanogpt.data.tokens.batches import Windows
    from nanogpt.data.tokens.bins import Bin
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import write_metrics
    from nanogpt.training import resume

    given = params.load(seed=int, train=train.TrainSettings, lora=lora.LoraSettings)
    settings = override(given.lora, args)
    training = settings.training(given.train)
    base = args.base_checkpoint or "models/pretrain"
    out = args.out or "models/lora"
    lora.check_out(out)
    net, tok = load_checkpoint(base)
    sha256 = model_identity(base)  # of what was loaded, not of what may lie there after training
    domains = {"finetune": Bin.open(args.data, "val", tok)}
    if not args.base_checkpoint:
        domains["pretrain"] = Bin.open("data/pretrain", "val", tok)
    train_data = Bin.open(args.data, "train", tok)
    windows = [Windows(data, net.config.block_size, given.seed) for data in (train_data, domains["finetune"])]
    made_of = {"seed": given.seed, "base": sha256, "lora": asdict(settings), "train": training.made_of()}
    made_of["data"] = [tok.sha256, train_data.counts.sha256, domains["finetune"].counts.sha256]
    with resume.work("lora-finetune", settings.kind, made_of, training.checkpoint_every, {}, started) as work:
        dtype = train.begin(net.config, training, work).dtype
        before = compare.scores(net, domains, tok.byte_lengths(), dtype)
        adapted = lora.attach(net, settings, given.seed)
        run = train.train(net, *windows, training, given.seed, work, section="lora")
        after = compare.scores(net, domains, tok.byte_lengths(), dtype)
        made_with = {"seed": given.seed, "lora": settings, "train": training}
        scores = before["finetune"], after["finetune"]
        about = adapter_card(net, lora.name(base), train_data, domains["finetune"], *scores, made_with)
        lora.save(adapted, out, base, sha256, about)
        folder = Path(args.out or "metrics")
        run.save(folder, "lora-finetune")
        figures = run.figures(after["finetune"], domains["finetune"], started)
        figures |= {"before": compare.figures(before), "after": compare.figures(after, before)}
        write_metrics(folder / "lora-finetune.json", figures)


if __name__ == "__main__":
    process.run_stage(main)
