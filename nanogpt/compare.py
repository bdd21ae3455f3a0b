"""Several models side by side: figures on both domains, and the same prompts through each."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from nanogpt import lora
from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.data.tokens.bins import Bin
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.generate import generate
from nanogpt.hardware.device import Dtype
from nanogpt.model.score import Score, score_bin
from nanogpt.runtime.errors import BadSetting, UserError

PRETRAINED = "pretrained"  # the column that the others are measured against
INTERVALS = "After ± is half of the 95% confidence interval over documents."


@dataclass(frozen=True)
class SampleSettings:
    """Section `sample` of params.yaml."""

    prompts: list[str]
    num_samples: int
    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None

    def __post_init__(self) -> None:
        for key in ("num_samples", "max_tokens"):
            if getattr(self, key) < 1:
                raise BadSetting(key, getattr(self, key), "must be at least 1", "choose a positive whole number")
        if not self.prompts:
            raise BadSetting(
                "prompts", self.prompts, "names no prompt", 'write at least one, like ["Once upon a time"]'
            )
        if not 0 <= self.temperature < float("inf"):
            raise BadSetting("temperature", self.temperature, "negative or not finite", "choose 0 (greedy) to 1.5")
        if self.top_k is not None and self.top_k < 1:
            raise BadSetting("top_k", self.top_k, "must be at least 1", "choose 10 to 200, or null for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadSetting("top_p", self.top_p, "not between 0 and 1", "choose 0.8 to 1.0, or null")


def texts(model: nn.Module, tok: Tokenizer, prompt: str, settings: SampleSettings, seed: int) -> list[str]:
    """`num_samples` texts that begin with a prompt. Raises UserError for characters that the tokenizer lacks."""
    ids = tok.encode(prompt)
    rows = generate(
        model, ids, num_samples=settings.num_samples, max_tokens=settings.max_tokens,
        temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p, seed=seed,
        n_tokens=tok.n_tokens, eot=tok.eot,
    )  # fmt: skip
    return [tok.decode(ids + row) for row in rows]


def scores(model: nn.Module, domains: dict[str, Bin], byte_lengths: np.ndarray, dtype: Dtype) -> dict[str, Score]:
    """One model's score on the validation documents of each domain."""
    return {domain: score_bin(model, data, byte_lengths, dtype) for domain, data in domains.items()}


def compare(
    base: Path | str,
    adapter: Path | str | None,
    merged: Path | str | None,
    settings: SampleSettings,
    seed: int,
    dtype: Dtype,
    also: Sequence[str] = (),
    strict: bool = True,
) -> tuple[str, dict]:
    """Score the models on both domains and let each write from the same prompts and seed.

    `base` and `merged` are model folders or .pt files, `adapter` the folder of one for `base`, and
    `also` any of these, each named by its path. Returns a page of Markdown and the figures by model
    and domain. A domain whose bins are missing or in other tokens than a model's raises UserError;
    for the models of `also`, and for all unless `strict`, it is left out and the page says so.
    """
    models = _open(base, adapter, merged, also)
    results, titles, left_out = {}, {}, {}
    samples = {prompt: {} for prompt in settings.prompts}
    for name, (model, tok) in models.items():
        domains = {}
        for role in ("pretrain", "finetune"):
            with _noted(left_out, name, strict and name not in also):
                domains[role] = Bin.open(f"data/{role}", "val", tok)
                titles[role] = f"{domains[role].source} ({role})"
        for prompt in settings.prompts:
            with _noted(left_out, name, name not in also):
                samples[prompt][name] = texts(model, tok, prompt, settings, seed)
        results[name] = scores(model, domains, tok.byte_lengths(), dtype)
    return markdown(results, samples, titles, left_out), {
        name: figures(by_domain, None if name == PRETRAINED else results[PRETRAINED])
        for name, by_domain in results.items()
    }


def _open(
    base: Path | str, adapter: Path | str | None, merged: Path | str | None, also: Sequence[str]
) -> dict[str, tuple[nn.Module, Tokenizer]]:
    """All models at once, so that a wrong path is known before minutes of scoring."""
    models = {PRETRAINED: load_checkpoint(base)}
    if adapter is not None:
        models["adapted"] = _adapted(adapter, base)
    if merged is not None:
        models["merged"] = load_checkpoint(merged)
    for path in also:
        if path in models:
            raise UserError(f"--also {path}: a model of this name is compared already; leave it out, or write ./{path}")
        if (Path(path) / "adapter_config.json").is_file():
            models[path] = _adapted_somewhere(path, base)
        else:
            models[path] = load_checkpoint(path)
    return models


def _adapted(adapter: Path | str, base: Path | str | None) -> tuple[nn.Module, Tokenizer]:
    adapted, tok = lora.open(adapter, base)
    return adapted.get_base_model(), tok


def _adapted_somewhere(adapter: str, base: Path | str) -> tuple[nn.Module, Tokenizer]:
    """On the model that the adapter names, else on `base`: what it names may have moved or changed."""
    try:
        return _adapted(adapter, None)
    except UserError:
        return _adapted(adapter, base)


@contextlib.contextmanager
def _noted(left_out: dict[str, list[str]], name: str, strict: bool) -> Iterator[None]:
    """Note what was left out of a model's column, and why, unless `strict`."""
    try:
        yield
    except UserError as error:
        if strict:
            raise
        names = left_out.setdefault(str(error), [])
        if name not in names:
            names.append(name)


def figures(scores: dict[str, Score], before: dict[str, Score] | None = None) -> dict[str, dict[str, float]]:
    """Bits per byte and perplexity of one model, by domain.

    With the scores of the model before it, also the change in bits per byte since: above 0 is forgotten.
    `…_ci95` is half the width of a 95% confidence interval over documents, left out where there is one only.
    """
    found = {}
    for domain, score in scores.items():
        known = {"bpb": score.bpb, "bpb_ci95": score.bpb_ci95, "perplexity": score.perplexity}
        if before and domain in before:
            change = score.change(before[domain])
            known |= {"bpb_change": change.bpb, "bpb_change_ci95": change.bpb_ci95}
        found[domain] = {name: figure for name, figure in known.items() if figure is not None}
    return found


def markdown(
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
    return {d: f"{score.bpb:.3f}{_within(score)} ({score.perplexity:.2f})" for d, score in scores.items()}


def _changes(scores: dict[str, Score], before: dict[str, Score]) -> dict[str, str]:
    changes = {d: score.change(before[d]) for d, score in scores.items() if d in before}
    return {d: f"{change.bpb:+.3f}{_within(change)}" for d, change in changes.items()}


def _within(score: Score) -> str:
    return "" if score.bpb_ci95 is None else f" ± {score.bpb_ci95:.3f}"


def _table(titles: dict[str, str], rows: dict[str, dict[str, str]]) -> list[str]:
    """A line to each model, a column to each domain, a dash where there is nothing to say."""
    lines = [f"| model | {' | '.join(titles.values())} |", "|---" * (len(titles) + 1) + "|"]
    return lines + [f"| {name} | {' | '.join(row.get(d, '–') for d in titles)} |" for name, row in rows.items()]


def talk(model: nn.Module, tok: Tokenizer, settings: SampleSettings, seed: int, interactive: bool) -> None:
    """Print texts for the settings' prompts, or for prompts read from the terminal until an empty one."""
    for prompt in _asked() if interactive else settings.prompts:
        for text in texts(model, tok, prompt, settings, seed):
            print(text, end="\n\n", flush=True)


def _asked() -> Iterator[str]:
    while True:
        try:
            prompt = input("prompt> ")
        except EOFError:
            return
        if not prompt:
            return
        yield prompt
