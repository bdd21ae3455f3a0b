"""Examines models in a grammar's own terms: minimal pairs, calibration, and texts that they write."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from nanogpt.evaluation.confidence import wilson_ci95
from nanogpt.evaluation.grammar.calibration import calibration_figures, place_divergences
from nanogpt.evaluation.grammar.exact_predictions import WORD, ExactText, predict_exactly
from nanogpt.evaluation.grammar.judge import find_mistake
from nanogpt.evaluation.grammar.minimal_pairs import Pair, draw_pairs
from nanogpt.evaluation.grammar.phenomena import GRAMMARS
from nanogpt.evaluation.models import EvaluatedModel, OwnModel
from nanogpt.evaluation.settings import EvaluateSettings
from nanogpt.inference.settings import Sampling
from nanogpt.inference.writer import Writer
from nanogpt.model.score import document_nats

PROMPT_WORDS = 2  # that each of them begins with, so that a model of two subjects writes on the one that is asked
BLOCKS = 2  # a text may be so many times as long as the model's block
DISTANCES = {"near": (0, 10), "middle": (10, 40), "far": (40, math.inf)}  # words, from and up to
PLAIN = Sampling(1, 1, 1.0, None, None, None, 1.0, [])  # each token with the model's probability


@dataclass(frozen=True)
class WrittenText:
    """A text that a model wrote, and the place and reason of its first mistake (see `judge.Mistake`), or None."""

    text: str
    place: int | None
    reason: str | None


class Examination:
    """What models are asked about the texts of a built-in source; equal for all models and for a seed."""

    def __init__(self, source: str, settings: EvaluateSettings, seed: int):
        self.grammar, self.phenomena = GRAMMARS[source]
        self.seed = seed
        self.pairs = draw_pairs(self.grammar, self.phenomena, seed, settings.pairs)
        rng = Random(f"fresh texts {seed}")
        self.texts = [self.grammar.draw(rng)[0] for _ in range(settings.texts)]
        self.prompts = ["".join(WORD.findall(text)[:PROMPT_WORDS]) for text in self.texts]
        self._exact: dict[str, list[ExactText]] = {}  # by tokenizer

    def compare_pairs(self, model: EvaluatedModel) -> dict:
        """Accuracy on all pairs, by phenomenon, and by distance, each with its 95% interval (`wilson_ci95`).

        Raises UserError where the model's loss is not finite.
        """
        texts = [text for pair in self.pairs for text in (pair.right, pair.wrong)]
        nats = document_nats(model.net, [np.array(model.encode(text, end=False), np.int64) for text in texts])
        correct = nats[::2] < nats[1::2]
        groups = {name: [pair.phenomenon == name for pair in self.pairs] for name in _phenomena(self.pairs)}
        distances = [math.nan if pair.distance is None else pair.distance for pair in self.pairs]
        far = {name: [least <= each < most for each in distances] for name, (least, most) in DISTANCES.items()}
        everything = {"all": [True] * len(self.pairs)}
        return {"pairs": _shares(correct, everything | groups), "pairs_by_distance": _shares(correct, far)}

    def calibrate(self, model: OwnModel) -> dict:
        """The divergence from the exact next-token distribution (see `calibration_figures`)."""
        identity = model.tok.sha256
        if identity not in self._exact:
            self._exact[identity] = [predict_exactly(self.grammar, text, model.tok) for text in self.texts]
        return calibration_figures(self._exact[identity], place_divergences(model.net, self._exact[identity]))

    def let_write(self, model: OwnModel) -> list[WrittenText]:
        """Texts that the model writes by its plain probabilities from the first words of fresh ones, with mistakes."""
        writer = Writer(model.net, model.tok, "float32")
        sampling = replace(PLAIN, max_tokens=BLOCKS * model.net.config.block_size)
        texts = [writer.add(writer.encode(each), sampling, self.seed, i) for i, each in enumerate(self.prompts)]
        while writer.step():
            pass
        written = []
        for prompt, text in zip(self.prompts, texts, strict=True):
            mistake = find_mistake(self.grammar, self.phenomena, prompt + text.written)
            place, reason = (mistake.place, mistake.reason) if mistake else (None, None)
            written.append(WrittenText(prompt + text.written, place, reason))
        return written


def writing_figures(written: Sequence[WrittenText]) -> dict:
    """The share of texts without a mistake, with its 95% interval, of different ones, and of each mistake."""
    right = sum(text.reason is None for text in written)
    reasons = Counter(text.reason for text in written if text.reason)
    return {
        "grammatical_share": right / len(written),
        "grammatical_share_ci95": wilson_ci95(right, len(written)),
        "distinct_share": len({text.text for text in written}) / len(written),
        "first_mistakes": {reason: count / len(written) for reason, count in sorted(reasons.items())},
    }


def _phenomena(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(pair.phenomenon for pair in pairs))


def _shares(correct: np.ndarray, groups: dict[str, list[bool]]) -> dict[str, float]:
    found = {}
    for name, chosen in groups.items():
        if trials := sum(chosen):
            right = int(correct[np.array(chosen)].sum())
            found |= {name: right / trials, f"{name}_ci95": wilson_ci95(right, trials)}
    return found
