"""The check stage: finds mistakes in settings and sources before any other stage runs and DVC deletes its outs."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from nanogpt.checkpoint.identity import holds_checkpoint
from nanogpt.data.prepare.train_tokenizer import AUTO_SIZES, validate_vocabulary
from nanogpt.data.sources.document import Corpus
from nanogpt.data.sources.load import load_corpus, validate_corpus
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.hardware.compilation import check_compiler
from nanogpt.hardware.device import choose_device
from nanogpt.lora.attach import check_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.build import build_model, model_config, shapes_alone
from nanogpt.model.config import ModelSettings
from nanogpt.pipeline.sections import SECTIONS
from nanogpt.report.plots_page import write_plots_page
from nanogpt.runtime import atomic, params
from nanogpt.runtime.errors import BadSetting
from nanogpt.training.init_from import check_init_from
from nanogpt.training.memory_estimate import check_minimum
from nanogpt.training.settings import TrainSettings

OUTPUTS = ("models", "metrics", "data/pretrain", "data/finetune")
VOCABULARIES = {"gpt2": 50304, "byte": 320, "char": 64}  # rows of the embedding, for char the fewest possible


def check_project(out: Path | str = "data/checked", more: Path | str = "data/tokenizer-text") -> str:
    """Check params.yaml, the sources and this machine as the stages will, and write the constant file `out`.

    `more` says which text besides its own data.pretrain's tokenizer learns from: "none", or with `tokenizer.train_on`
    both a SHA-256 of all texts of data.finetune, so that a change of them is one of its own for DVC. Corpora from
    outside are read from end to end. Returns a line for the user. Raises UserError for the first mistake.
    """
    with params.read_document() as document:  # which adds the line of the key to a BadSetting
        given = params.convert_document(document, SECTIONS)
        roles = {"pretrain": given.data.pretrain, "finetune": given.data.finetune}
        paths = {f"data.{key}.path": roles[key].path for key in roles}
        _check_inputs({"train.init_from": given.train.init_from} | paths)
        device = choose_device(given.train.device)
        if given.train.compile == "on":
            check_compiler(device)
        if given.train.tensorboard:
            import tensorboard  # noqa: F401  a missing package is named now, before DVC deletes a model
        corpora = [load_corpus(settings, given.data) for settings in roles.values()]
        tokens = given.tokenizer.resolve_auto(corpora[0].tokenizer)
        _check_models(given.model, tokens, given.train, given.lora, device)
        for arch in ("base", "optimized"):
            check_minimum(given.benchmark.config(arch), given.benchmark.batch_size, "benchmark")
        check_init_from(given.model, tokens, given.train.init_from)
        validate_vocabulary(tokens)
        for corpus in corpora:
            validate_corpus(corpus)
    write_plots_page()
    both = tokens.train_on == "both" and tokens.kind in ("bpe", "char")
    atomic.write_text(more, f"{_digest(corpora[1]) if both else 'none'}\n")
    atomic.write_text(out, "params.yaml and the sources were read without complaint\n")
    sources = " and ".join(dict.fromkeys(settings.source for settings in roles.values()))
    return f"{out}: no mistake in params.yaml, the sources ({sources}) and this machine; `dvc repro` runs the stages"


def _digest(corpus: Corpus) -> str:
    digest = hashlib.sha256()
    for text in corpus.texts():
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _check_inputs(paths: dict[str, str]) -> None:
    """Raise BadSetting for an input among the pipeline's own outputs, for which DVC would have no order of stages."""
    for key, path in paths.items():
        for folder in OUTPUTS:
            if Path(path).resolve().is_relative_to(Path(folder).resolve()):
                reason = f"the pipeline writes {folder} itself, so it cannot read it first"
                raise BadSetting(key, path, reason, f"copy it to a place of its own, like data/own/{Path(path).name}")


def count_rows(tokens: TokenizerSettings) -> int:
    """Rows of the embedding for these settings, the fewest possible where the text decides."""
    least = AUTO_SIZES[0] if tokens.vocab_size == "auto" else tokens.vocab_size
    return (VOCABULARIES | {"bpe": least, "auto": least})[tokens.kind]


def _check_models(
    model: ModelSettings, tokens: TokenizerSettings, train: TrainSettings, lora: LoraSettings, device: torch.device
) -> None:
    """Raise UserError for models that do not fit into memory, and for an adapter that does not fit the model."""
    # a checkpoint brings its own vocabulary
    vocab_size = VOCABULARIES["char"] if holds_checkpoint(train.init_from) else count_rows(tokens)
    config = model_config(model, vocab_size)
    if device.type == "cpu":
        check_minimum(config, train.batch_size)
        check_minimum(config, lora.batch_size, "lora", frozen=lora.kind != "full")
    with shapes_alone():
        check_adapter(build_model(replace(config, n_layer=1)), lora)
