"""Several models side by side: figures on both domains, and the same prompts through each."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from nanogpt import checkpoint, lora
from nanogpt.errors import BadSetting, UserError
from nanogpt.evaluate import Score, score_bin
from nanogpt.generate import generate
from nanogpt.hardware import Dtype
from nanogpt.tokenizer import Tokenizer
from nanogpt.tokens import Bin


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
    adapter: Path | str,
    merged: Path | str | None,
    settings: SampleSettings,
    seed: int,
    dtype: Dtype,
    strict: bool = True,
) -> tuple[str, dict]:
    """Score the models on both domains and let each write from the same prompts and seed.

    `base` and `merged` are model folders, `adapter` the folder of one for `base`. Returns a page of
    Markdown and the figures by model and domain. A domain whose bins are missing or in other tokens
    raises UserError, or is left out unless `strict`.
    """
    net, tok = checkpoint.load(base)
    domains = {}
    for role in ("pretrain", "finetune"):
        with contextlib.nullcontext() if strict else contextlib.suppress(UserError):
            domains[role] = Bin.open(f"data/{role}", "val", tok)
    results, samples = {}, {prompt: {} for prompt in settings.prompts}

    def run(name: str, model: nn.Module) -> None:
        results[name] = scores(model, domains, tok.byte_lengths(), dtype)
        for prompt in settings.prompts:
            samples[prompt][name] = texts(model, tok, prompt, settings, seed)

    run("pretrained", net)
    run("adapted", lora.load(adapter, net).get_base_model())
    if merged is not None:
        run("merged", checkpoint.load(merged)[0])
    return markdown(results, samples, domains), {name: figures(by_domain) for name, by_domain in results.items()}


def figures(scores: dict[str, Score]) -> dict[str, dict[str, float]]:
    """Bits per byte and perplexity of one model, by domain."""
    return {domain: {"bpb": s.bpb, "perplexity": s.perplexity} for domain, s in scores.items()}


def markdown(
    results: dict[str, dict[str, Score]], samples: dict[str, dict[str, list[str]]], domains: dict[str, Bin]
) -> str:
    """A page to read: a table of figures, then each prompt with what every model makes of it.

    `results` is model -> domain -> score, `samples` prompt -> model -> texts.
    """
    titles = [f"{data.source} ({role})" for role, data in domains.items()]
    lines = ["# The models side by side"]
    if domains:
        lines += ["", "Bits per byte (and perplexity) on validation text; lower is better.", ""]
        lines += ["| model | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, by_domain in results.items() if domains else ():
        cells = [f"{by_domain[d].bpb:.3f} ({by_domain[d].perplexity:.2f})" for d in domains]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for prompt, by_model in samples.items():
        lines += ["", f"## {' '.join(prompt.split()) or '(no prompt)'}"]
        for name, written in by_model.items():
            lines += ["", f"### {name}"]
            for text in written:
                lines += ["", *("> " + line if line else ">" for line in text.splitlines())]
    return "\n".join(lines) + "\n"


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
