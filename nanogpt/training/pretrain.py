"""The pretrain stage: trains a model, from random weights or a checkpoint's, on a folder of bins."""

import time
from dataclasses import asdict
from pathlib import Path

from nanogpt.checkpoint.folder import config_and_tokenizer, output_marker, save_checkpoint
from nanogpt.checkpoint.model_card import pretrained_card
from nanogpt.checkpoint.settings import CheckpointSettings
from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin, tokenizer_of_bins
from nanogpt.hardware import process_group
from nanogpt.model.config import ModelSettings
from nanogpt.model.score import score_documents
from nanogpt.runtime.metrics_file import write_metrics
from nanogpt.runtime.outputs import check_outputs, training_files
from nanogpt.training.init_from import describe_origin, initial_model
from nanogpt.training.loop import train
from nanogpt.training.resume import resumable_run
from nanogpt.training.settings import TrainSettings, fix_steps, resolve_warmup


def pretrain(
    seed: int, model: ModelSettings, training: TrainSettings, checkpoint: CheckpointSettings,
    data: Path | str = "data/pretrain", out: Path | str = "models/pretrain", metrics_folder: Path | str = "metrics",
    overwrite: bool = False,
) -> dict:  # fmt: skip
    """Train, score every validation document, write the model to `out` and curves and metrics to `metrics_folder`.

    `data` is a folder of bins; their tokenizer is in it or in a folder beside it (`tokenizer_of_bins`). Returns the
    metrics (see `RunRecord.metrics`). An interrupted call is resumed by the next one with equal arguments. Of several
    processes (`process_group`), which all call this, the first one writes. Raises UserError as `train` does, and before
    training where an input is missing or damaged or an output may not be written (see `check_outputs`).
    """
    started = time.monotonic()
    training = resolve_warmup(training)
    tok = tokenizer_of_bins(data)
    outputs = {out: output_marker(out)} | training_files(metrics_folder, "pretrain")
    check_outputs(outputs, [data, training.init_from], overwrite)
    net = initial_model(model, training.init_from, tok, seed)
    origin = describe_origin(training.init_from)
    train_data, val_data = (Bin.open(data, split, tok) for split in ("train", "val"))
    whole = training.windows == "documents"
    tok.chat = train_data.prompts is not None
    windows = [Windows(split, net.config.block_size, seed, whole) for split in (train_data, val_data)]
    inputs = {"seed": seed, "init_from": origin, "model": asdict(net.config), "train": training.fingerprint_inputs()}
    inputs["data"] = [tok.sha256, train_data.counts.sha256, val_data.counts.sha256]
    content = config_and_tokenizer(net, tok)
    with resumable_run("pretrain", net.config.arch, inputs, training.checkpoint_every, content, started) as run:
        record = train(net, *windows, training, seed, run, tokenizer=tok)
        score = score_documents(net, val_data.documents(), tok.byte_lengths(), prompts=val_data.prompts)
        metrics = record.metrics(score, val_data, started)
        if process_group.rank() == 0:
            settings = {"seed": seed, "model": net.config, "train": fix_steps(training, record.max_steps)}
            card = pretrained_card(net, tok, origin, train_data, val_data, score, settings, checkpoint.format)
            save_checkpoint(out, net, tok, checkpoint, card)
            record.save(metrics_folder, "pretrain")
            write_metrics(Path(metrics_folder, "pretrain.json"), metrics)
    return metrics
