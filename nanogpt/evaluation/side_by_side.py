"""Several models side by side: figures on both domains, and the same prompts through each."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.data.tokens.bins import Bin
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.inference.completions import complete
from nanogpt.inference.settings import SampleSettings
from nanogpt.lora.adapter import open_adapted
from nanogpt.model.score import Score, score_domains, score_figures
from nanogpt.runtime.errors import UserError

PRETRAINED = "pretrained"  # the column that the others are measured against
INTERVALS = "After ± is half of the 95% confidence interval over documents."


def compare_models(
    base: Path | str,
    adapter: Path | str | None,
    merged: Path | str | None,
    settings: SampleSettings,
    seed: int,
    also: Sequence[str] = (),
    strict: bool = True,
) -> tuple[str, dict]:
    """Score the models on both domains and let each write from the same prompts and seed.

    `base` and `merged` are model folders or .pt files, `adapter` the folder of one for `base`, and
    `also` any of these, each named by its path. Returns a page of Markdown and the figures by model
    and domain. A domain whose bins are missing or in other tokens than a model's raises UserError;
    for the models of `also`, and for all unless `strict`, it is left out and the page says so.
    """
    models = _open_models(base, adapter, merged, also)
    results, titles, left_out = {}, {}, {}
    samples = {prompt: {} for prompt in settings.prompts}
    for name, (model, tok) in models.items():
        domains = {}
        for role in ("pretrain", "finetune"):
            with _note_left_out(left_out, name, strict and name not in also):
                domains[role] = Bin.open(f"data/{role}", "val", tok)
                titles[role] = f"{domains[role].source} ({role})"
        for prompt in settings.prompts:
            with _note_left_out(left_out, name, name not in also):
                samples[prompt][name] = complete(model, tok, prompt, settings, seed)
        results[name] = score_domains(model, domains, tok.byte_lengths(), "float32")
    return markdown_page(results, samples, titles, left_out), {
        name: score_figures(by_domain, None if name == PRETRAINED else results[PRETRAINED])
        for name, by_domain in results.items()
    }


def _open_models(
    base: Path | str, adapter: Path | str | None, merged: Path | str | None, also: Sequence[str]
) -> dict[str, tuple[nn.Module, Tokenizer]]:
    """All models at once, so that a wrong path is known before minutes of scoring."""
    models = {PRETRAINED: load_checkpoint(base)}
    if adapter is not None:
        models["adapted"] = _open_adapter(adapter, base)
    if merged is not None:
        models["merged"] = load_checkpoint(merged)
    for path in also:
        if path in models:
            raise UserError(f"--also {path}: a model of this name is compared already; leave it out, or write ./{path}")
        if (Path(path) / "adapter_config.json").is_file():
            models[path] = _open_adapter_anywhere(path, base)
        else:
            models[path] = load_checkpoint(path)
    return models


def _open_adapter(adapter: Path | str, base: Path | str | None) -> tuple[nn.Module, Tokenizer]:
    adapted, tok = open_adapted(adapter, base)
    return adapted.get_base_model(), tok


def _open_adapter_anywhere(adapter: str, base: Path | str) -> tuple[nn.Module, Tokenizer]:
    """On the model that the adapter names, else on `base`: what it names may have moved or changed."""
    try:
        return _open_adapter(adapter, None)
    except UserError:
        return _open_adapter(adapter, base)


@contextlib.contextmanager
def _note_left_out(left_out: dict[str, list[str]], name: str, strict: bool) -> Iterator[None]:
    """Note what was left out of a model's column, and why, unless `strict`."""
    try:
        yield
    except UserError as error:
        if strict:
            raise
        names = left_out.setdefault(str(error), [])
        if name not in names:
            names.append(name)


def markdown_page(
    results: dict[str, dict[str, Score]],
    samples: dict[str, dict[str, list[str]]],
    titles: dict[str, str],
    left_out: dict[str, list[str]],
) -> str:
    """A page to read: tables of figures, then each prompt with what every model makes of it.

    `results` is model -> domain -> score, the first model the one that the others are measured against;
    `samples` prompt -> model -> texts, `titles` domain -> column, `left_out` reason -> models.
    """
    first, before = next(iter(results.items()))
    lines = ["# The models side by side"]
    if titles:
        lines += ["", f"Bits per byte (and perplexity) on validation text; lower is better. {INTERVALS}", ""]
        lines += _table(titles, {name: _cells(by_domain) for name, by_domain in results.items()})
    if before and len(results) > 1:
        meaning = "above 0 is forgotten, below 0 is learned. The interval is that of the same documents in pairs."
        lines += ["", f"Change in bits per byte against {first}: {meaning}", ""]
        lines += _table(titles, {name: _changes(by, before) for name, by in results.items() if name != first})
    for reason, names in left_out.items():
        lines += ["", f"Left out for {', '.join(names)}: {reason}"]
    for prompt, by_model in samples.items():
        lines += ["", f"## {' '.join(prompt.split()) or '(no prompt)'}"]
        for name, written in by_model.items():
            lines += ["", f"### {name}"]
            for text in written:
                lines += ["", *("> " + line if line else ">" for line in text.splitlines())]
    return "\n".join(lines) + "\n"


def _cells(scores: dict[str, Score]) -> dict[str, str]:
    return {d: f"{score.bpb:.3f}{_plus_minus(score)} ({score.perplexity:.2f})" for d, score in scores.items()}


def _changes(scores: dict[str, Score], before: dict[str, Score]) -> dict[str, str]:
    changes = {d: score.change(before[d]) for d, score in scores.items() if d in before}
    return {d: f"{change.bpb:+.3f}{_plus_minus(change)}" for d, change in changes.items()}


def _plus_minus(score: Score) -> str:
    return "" if score.bpb_ci95 is None else f" ± {score.bpb_ci95:.3f}"


def _table(titles: dict[str, str], rows: dict[str, dict[str, str]]) -> list[str]:
    """A line to each model, a column to each domain, a dash where there is nothing to say."""
    lines = [f"| model | {' | '.join(titles.values())} |", "|---" * (len(titles) + 1) + "|"]
    return lines + [f"| {name} | {' | '.join(row.get(d, '–') for d in titles)} |" for name, row in rows.items()]
