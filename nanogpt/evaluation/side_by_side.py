"""Compares models side by side: their figures on both domains, and their texts for the same prompts."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.data.tokens.bins import Bin, tokenizer_of_bins
from nanogpt.evaluation.models import EvaluatedModel, ForeignModel, OwnModel, open_model
from nanogpt.evaluation.text_figures import text_figures
from nanogpt.evaluation.text_score import score_bins
from nanogpt.hardware.device import configure_torch
from nanogpt.inference.settings import SampleSettings
from nanogpt.inference.writer import Writer
from nanogpt.lora.merge import open_finetuned
from nanogpt.model.score import Score, score_figures
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.metrics_file import write_metrics

PRETRAINED = "pretrained"  # the model that the others are compared with


def write_comparison(
    base: str | None, adapter: str | None, also: Sequence[str], settings: SampleSettings, seed: int, out: str | None,
    pipeline: bool,
) -> str:  # fmt: skip
    """Compare models and write the page to `out` and the figures beside it, for `pipeline` to metrics/.

    Without `base` and `adapter` the pipeline's three models are compared. Returns what to print: the page, unless for
    `pipeline`, and what was written. Raises UserError as `compare_models` does.
    """
    page_file = "metrics/samples.md" if pipeline else out
    figures_file = "metrics/sample.json" if pipeline else out and Path(out).with_suffix(".json")
    models = base or "models/pretrain", adapter or (None if base else "models/lora")
    merged = None if base or adapter else "models/merged"
    page, figures = compare_models(*models, merged, settings, seed, also, strict=pipeline)
    if not page_file:
        return page
    write_metrics(figures_file, figures)
    atomic.write_text(page_file, page)
    written = f"{page_file}: {len(figures)} models side by side, their figures in {figures_file}"
    return written if pipeline else f"{page}\n{written}"


def compare_models(
    base: Path | str, adapter: Path | str | None, merged: Path | str | None, settings: SampleSettings, seed: int,
    also: Sequence[str] = (), strict: bool = True,
) -> tuple[str, dict]:  # fmt: skip
    """Score models on both domains, and let them write texts from the same prompts and seed, and from none.

    `base` and `merged` are model folders or .pt files, `adapter` the folder of an adapter for `base`, and `also` any of
    these, or a model that transformers opens, each named by its path. Scores are in fp32, with the kernels of training
    and a thread for each core; a model with other tokens than the bins' reads their text in its own. Returns a page of
    Markdown and the figures by model and domain, with those of its texts under "texts". Raises UserError if a domain's
    bins are missing, or with `strict` in other tokens than a model's; for the models of `also`, and for all unless
    `strict`, a domain that cannot be scored is left out and the page says so.
    """
    models = _open_models(base, adapter, merged, also)
    results, figures, titles, left_out = {}, {}, {}, {}
    texts = {prompt: {} for prompt in settings.prompts}
    for name, model in models.items():
        configure_torch("auto")  # again: writing may have changed the number of threads
        results[name] = {}
        for role in ("pretrain", "finetune"):
            exact = strict and name not in also
            with _note_left_out(left_out, name, exact):
                source, results[name][role] = _score(model, f"data/{role}", exact)
                titles[role] = f"{source} ({role})"
        figures[name] = score_figures(results[name], None if name == PRETRAINED else results[PRETRAINED])
        if isinstance(model, ForeignModel):
            for prompt in settings.prompts:
                with _note_left_out(left_out, name, strict=False):
                    texts[prompt][name] = [prompt + text for text in model.write(prompt, settings, seed)]
            continue
        writer = Writer(model.net, model.tok, settings.dtype)
        written = {}
        for prompt in settings.prompts:
            with _note_left_out(left_out, name, name not in also):
                ids = writer.encode(writer.messages(prompt))
                written[prompt] = [writer.add(ids, settings, seed, number) for number in range(settings.num_samples)]
                texts[prompt][name] = model.tok.decode(ids)
        while writer.step():
            pass
        for prompt, some in written.items():
            texts[prompt][name] = [texts[prompt][name] + text.written for text in some]
        figures[name]["texts"] = text_figures(writer, settings, seed)
    return markdown_page(results, texts, titles, left_out), figures


def _score(model: EvaluatedModel, folder: str, strict: bool) -> tuple[str, Score]:
    """The source of a domain, and the score of its validation documents (see `score_bins`).

    Raises UserError where bins are missing or damaged, or with `strict` in other tokens than the model's.
    """
    tok = model.tok if strict and isinstance(model, OwnModel) else tokenizer_of_bins(folder)
    data = Bin.open(folder, "val", tok)
    return data.source, score_bins(model, data, tok)


def _open_models(
    base: Path | str, adapter: Path | str | None, merged: Path | str | None, also: Sequence[str]
) -> dict[str, EvaluatedModel]:
    """Load all models first, so that a wrong path is reported before minutes of scoring."""
    models: dict[str, EvaluatedModel] = {PRETRAINED: OwnModel(*load_checkpoint(base))}
    if adapter is not None:
        models["adapted"] = OwnModel(*open_finetuned(adapter, base))
    if merged is not None:
        models["merged"] = OwnModel(*load_checkpoint(merged))
    for path in also:
        if path in models:
            raise UserError(f"--also {path}: a model of this name is compared already; leave it out, or write ./{path}")
        models[path] = open_model(path, base)
    return models


@contextlib.contextmanager
def _note_left_out(left_out: dict[str, list[str]], name: str, strict: bool) -> Iterator[None]:
    """Catch a UserError unless `strict`, and note which model lacks something because of it."""
    try:
        yield
    except UserError as error:
        if strict:
            raise
        names = left_out.setdefault(str(error), [])
        if name not in names:
            names.append(name)


def markdown_page(
    results: dict[str, dict[str, Score]], samples: dict[str, dict[str, list[str]]], titles: dict[str, str],
    left_out: dict[str, list[str]],
) -> str:  # fmt: skip
    """Write a page: tables of figures, then the texts of every model for each prompt.

    `results` is model -> domain -> score, `samples` prompt -> model -> texts, `titles` domain -> column and `left_out`
    reason -> models. The other models are compared with the first.
    """
    first, before = next(iter(results.items()))
    lines = ["# The models side by side"]
    if titles:
        interval = "After ± is half of the 95% confidence interval over documents."
        lines += ["", f"Bits per byte (and perplexity) on validation text; lower is better. {interval}", ""]
        cells = {name: {d: f"{_bpb(s)} ({s.perplexity:.2f})" for d, s in by.items()} for name, by in results.items()}
        lines += _table(titles, cells)
    if before and len(results) > 1:
        meaning = "above 0 is forgotten, below 0 is learned. The interval is that of the same documents in pairs."
        lines += ["", f"Change in bits per byte against {first}: {meaning}", ""]
        changes = {
            name: {d: _bpb(score.change(before[d]), "+") for d, score in by.items() if d in before}
            for name, by in results.items()
            if name != first
        }
        lines += _table(titles, changes)
    for reason, names in left_out.items():
        lines += ["", f"Left out for {', '.join(names)}: {reason}"]
    for prompt, by_model in samples.items():
        lines += ["", f"## {' '.join(prompt.split()) or '(no prompt)'}"]
        for name, texts in by_model.items():
            lines += ["", f"### {name}"]
            for text in texts:
                lines += ["", *("> " + line if line else ">" for line in text.splitlines())]
    return "\n".join(lines) + "\n"


def _bpb(score: Score, sign: str = "") -> str:
    """Bits per byte and their interval, as `0.500 ± 0.010`."""
    interval = "" if score.bpb_ci95 is None else f" ± {score.bpb_ci95:.3f}"
    return f"{score.bpb:{sign}.3f}{interval}"


def _table(titles: dict[str, str], rows: dict[str, dict[str, str]]) -> list[str]:
    """A Markdown table: a row for each model, a column for each domain, a dash where a cell is missing."""
    lines = [f"| model | {' | '.join(titles.values())} |", "|---" * (len(titles) + 1) + "|"]
    return lines + [f"| {name} | {' | '.join(row.get(d, '–') for d in titles)} |" for name, row in rows.items()]
