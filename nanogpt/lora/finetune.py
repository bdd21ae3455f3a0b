"""Body of the lora-finetune stage: trains an adapter for a model, or all of its weights, on a second domain."""

import time
from dataclasses import asdict
from pathlib import Path

from nanogpt.checkpoint.folder import load_checkpoint, output_marker, save_checkpoint
from nanogpt.checkpoint.identity import model_identity
from nanogpt.checkpoint.model_card import finetuned_card
from nanogpt.data.tokens.batches import Replay, Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.hardware import process_group
from nanogpt.lora.adapter import display_name, save_adapter
from nanogpt.lora.adapter_file import CONFIG
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.score import score_domains, score_figures
from nanogpt.runtime.errors import BadSetting
from nanogpt.runtime.metrics_file import write_metrics
from nanogpt.runtime.outputs import check_outputs, training_files
from nanogpt.training.loop import resolve_run, train
from nanogpt.training.resume import resumable_run
from nanogpt.training.settings import TrainSettings, fix_steps, resolve_warmup


def finetune(
    seed: int, lora: LoraSettings, training: TrainSettings, base: Path | str = "models/pretrain",
    data: Path | str = "data/finetune", first_domain: Path | str | None = "data/pretrain",
    out: Path | str = "models/lora", metrics_folder: Path | str = "metrics", overwrite: bool = False,
) -> dict:  # fmt: skip
    """Score `base`, train an adapter for it, score again, write the adapter to `out`; returns the metrics.

    With `lora.kind` full all weights are trained, and `out` is a model folder. `data` and `first_domain` are folders of
    bins in the base's tokens: the text to adapt to, and the one that the base was trained on, to measure what is
    forgotten and for `lora.replay` (None where it is not known). `training` is from `LoraSettings.training`. Both
    scores are in fp32 on the device, threads and kernels of training. Curves and metrics go to `metrics_folder`. An
    interrupted call is resumed by the next one with equal arguments. Of several processes (`process_group`), which all
    call this, the first one writes. Raises UserError as `train` does, if an output may not be written
    (`check_outputs`), and for a replay of text that is not known.
    """
    started = time.monotonic()
    inputs = [base, data, *([] if first_domain is None else [first_domain])]
    full = lora.kind == "full"
    marker = output_marker(out) if full else CONFIG
    check_outputs({out: marker} | training_files(metrics_folder, "lora-finetune"), inputs, overwrite)
    if lora.replay and first_domain is None:
        reason = "the text that the model was trained on is not known"
        raise BadSetting("lora.replay", lora.replay, reason, "name its bins with --first-domain, or choose 0.0")
    lora, training = resolve_warmup(lora), resolve_warmup(training)
    net, tok = load_checkpoint(base)
    sha256 = model_identity(base)  # of the files that were loaded: others may be there after training
    domains = {"finetune": Bin.open(data, "val", tok)}
    if first_domain is not None:
        domains["pretrain"] = Bin.open(first_domain, "val", tok)
    train_data, val_data = Bin.open(data, "train", tok), domains["finetune"]
    tok.chat = train_data.prompts is not None
    whole = training.windows == "documents"
    windows = [Windows(split, net.config.block_size, seed, whole) for split in (train_data, val_data)]
    inputs = {"seed": seed, "base": sha256, "lora": asdict(lora), "train": training.fingerprint_inputs()}
    inputs["data"] = [tok.sha256, train_data.counts.sha256, val_data.counts.sha256]
    if lora.replay:
        old = Bin.open(first_domain, "train", tok)
        windows[0] = Replay(windows[0], Windows(old, net.config.block_size, seed, whole), lora.replay)
        inputs["data"].append(old.counts.sha256)
    with resumable_run("lora-finetune", lora.kind, inputs, training.checkpoint_every, {}, started) as run:
        device, _ = resolve_run(net.config, training, run).apply()
        before = score_domains(net.to(device), domains, tok.byte_lengths())
        adapted = net if full else attach_adapter(net, lora, seed, train_data.used().tolist())
        record = train(net, *windows, training, seed, run, "lora", tok)
        after = score_domains(net, domains, tok.byte_lengths())
        metrics = record.metrics(after["finetune"], val_data, started)
        metrics |= {"before": score_figures(before), "after": score_figures(after, before)}
        if process_group.rank() == 0:
            training, lora = fix_steps(training, record.max_steps), fix_steps(lora, record.max_steps)
            settings = {"seed": seed, "lora": lora, "train": training}
            file_format = ("pt" if marker is None else "safetensors") if full else None
            scores = before["finetune"], after["finetune"]
            card = finetuned_card(net, display_name(base), train_data, val_data, *scores, settings, file_format)
            if full:
                save_checkpoint(out, net, tok, card=card)
            else:
                save_adapter(adapted, out, base, sha256, card, tok)
            record.save(metrics_folder, "lora-finetune")
            write_metrics(Path(metrics_folder, "lora-finetune.json"), metrics)
    return metrics
