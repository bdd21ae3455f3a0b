"""Evaluates models on the same texts: bits per byte of any text, and what they know of a built-in grammar."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from nanogpt.data.tokens.bins import Bin, tokenizer_of_bins
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.evaluation.copies import longest_copies
from nanogpt.evaluation.examine import Examination, WrittenText, writing_figures
from nanogpt.evaluation.grammar.phenomena import known_source
from nanogpt.evaluation.models import EvaluatedModel, OwnModel
from nanogpt.evaluation.settings import EvaluateSettings
from nanogpt.evaluation.text_score import score_bins, score_texts, unknown_characters
from nanogpt.hardware.device import configure_torch
from nanogpt.model.score import Score
from nanogpt.runtime.errors import UserError

GRAMMAR = "grammar"  # its own figures, beside those of models
COMPARED = 2**23  # tokens of the training text that are searched for copies
NAMED = 10  # characters that a tokenizer lacks


@dataclass(frozen=True)
class Domain:
    """Texts to evaluate on, and where they are of a built-in `source` what is known of them.

    `val` are the bins that hold the texts, in the tokens of `tok`. `train` is (n,) the training text in the same
    tokens, to find what was copied from it, and `floor` the lowest bits per byte that any model can reach.
    """

    title: str
    texts: list[str]
    tok: Tokenizer | None = None
    val: Bin | None = None
    source: str | None = None
    train: np.ndarray | None = None
    floor: float | None = None


@dataclass
class Evaluation:
    """What was found, by model and domain; the texts by domain and model."""

    figures: dict[str, dict[str, dict]] = field(default_factory=dict)
    written: dict[str, dict[str, list[WrittenText]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def open_domain(folder: Path | str, role: str) -> Domain:
    """The validation texts of a folder of bins. Raises UserError where they are missing or damaged."""
    tok = tokenizer_of_bins(folder)
    val = Bin.open(folder, "val", tok)
    title, texts = f"{val.source} ({role})", [tok.decode(ids[1:-1]) for ids in val.documents()]
    if not known_source(val.source, val.counts.bits, val.counts.replaced):
        return Domain(title, texts, tok, val)
    train = Bin.open(folder, "train", tok).tokens[:COMPARED]
    return Domain(title, texts, tok, val, val.source, train, val.counts.bits / val.counts.bytes)


def evaluate_models(
    models: Mapping[str, EvaluatedModel], domains: Mapping[str, Domain], settings: EvaluateSettings, seed: int
) -> Evaluation:
    """Evaluate each model on each domain, in fp32 with a thread for each core.

    Figures of a model and domain: `bpb` (bits per byte, ends of texts counted), its change against the first model on
    the same texts, `bytes_per_token`, and `unknown_characters` where the tokenizer lacks some. Where the grammar is
    known also `pairs` (accuracy by phenomenon, see `Examination`), and of models of ours `kl_bits` and
    `grammatical_share`. `…_ci95` is half of a 95% interval, and of shares the distance to its farther end.
    """
    found = Evaluation()
    for domain_name, domain in domains.items():
        examination = Examination(domain.source, settings, seed) if domain.source else None
        first: Score | None = None
        if domain.val and (replaced := domain.val.counts.replaced):
            found.notes.append(
                f"{domain.title}: its tokenizer has one token for {replaced:,} characters that it lacks, so that bits "
                "per byte are too few, and no grammar is asked"
            )
        for name, model in models.items():
            configure_torch("auto")  # again: writing may have changed the number of threads
            try:
                score = score_bins(model, domain.val, domain.tok) if domain.val else score_texts(model, domain.texts)
                figures = _text_figures(score, first) | _unknown_figures(name, model, domain, found)
                if examination:
                    figures |= examination.compare_pairs(model)
                if examination and isinstance(model, OwnModel):
                    figures |= examination.calibrate(model)
                    written = examination.let_write(model)
                    figures |= writing_figures(written)
                    found.written.setdefault(domain_name, {})[name] = written
            except UserError as error:
                found.notes.append(f"{name} is left out on {domain.title}: {error}")
                continue
            first = first or score
            found.figures.setdefault(name, {})[domain_name] = figures
        if examination:
            _add_copies(found, domain_name, domain, examination.texts)
    return found


def _text_figures(score: Score, first: Score | None) -> dict[str, float]:
    change = score.change(first) if first else None
    figures = {
        "bpb": score.bpb,
        "bpb_ci95": score.bpb_ci95,
        "bytes_per_token": score.n_bytes / score.tokens,
        "bpb_change": change and change.bpb,
        "bpb_change_ci95": change and change.bpb_ci95,
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _unknown_figures(name: str, model: EvaluatedModel, domain: Domain, found: Evaluation) -> dict[str, int]:
    unknown = unknown_characters(model, domain.texts)
    if not unknown:
        return {}
    named = ", ".join(f"{character!r}" for character, _ in unknown.most_common(NAMED))
    found.notes.append(
        f"{name} on {domain.title}: its tokenizer has one token for {unknown.total():,} characters that it lacks "
        f"({named}{', …' if len(unknown) > NAMED else ''}), so that its bits per byte are too few"
    )
    return {"unknown_characters": unknown.total()}


def _add_copies(found: Evaluation, name: str, domain: Domain, fresh: Sequence[str]) -> None:
    """Add `copied_share` to the figures of each model: how much of a text is one run of the training text, on average.

    The grammar's own, of fresh texts, are added as those of another model, with the floor.
    """
    texts = {model: [text.text for text in written] for model, written in found.written.get(name, {}).items()}
    texts[GRAMMAR] = list(fresh)
    found.figures.setdefault(GRAMMAR, {})[name] = {"bpb": domain.floor}
    ids: dict[str, list[np.ndarray]] = {}
    for model, some in texts.items():
        try:
            ids[model] = [domain.tok.encode_array(text) for text in some]
        except UserError as error:  # a model with other tokens may write characters that the training text lacks
            found.notes.append(f"{model} on {domain.title}: what it copied is not counted: {error}")
    runs = iter(longest_copies(list(itertools.chain.from_iterable(ids.values())), domain.train))
    for model, some in ids.items():
        shares = [(end - start) / max(1, len(each)) for each, (start, end) in zip(some, runs, strict=False)]
        found.figures[model][name]["copied_share"] = fmean(shares)
