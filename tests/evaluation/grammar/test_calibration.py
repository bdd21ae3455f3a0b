import math
from random import Random

import numpy as np
import pytest
import torch
from grammar_model import GrammarModel

from nanogpt.data.sources import abstracts
from nanogpt.evaluation.grammar.calibration import calibration_figures, place_divergences
from nanogpt.evaluation.grammar.exact_predictions import KINDS, predict_exactly


@pytest.fixture(scope="module")
def texts(byte):
    rng = Random(1)
    return [predict_exactly(abstracts.GRAMMAR, abstracts.GRAMMAR.draw(rng)[0], byte) for _ in range(4)]


class Mixed(GrammarModel):
    """The grammar, with a tenth of a probability spread over all ids."""

    def forward(self, ids):
        p = super().forward(ids).exp()
        return (0.9 * p / p.sum(-1, keepdim=True) + 0.1 / p.size(-1)).log() + 3  # logits, not log-probabilities


def test_the_divergence_of_a_model_that_is_wrong_by_a_known_amount(texts, byte):
    found = place_divergences(Mixed(abstracts.GRAMMAR, byte), texts)
    for text, divergences in zip(texts, found, strict=True):
        for place in range(len(text.kinds)):
            p = text.p[text.places == place]
            expected = (p * np.log2(p / (0.9 * p + 0.1 / byte.vocab_size))).sum()
            assert divergences[place] == pytest.approx(expected, abs=1e-5)


def test_a_model_that_knows_nothing_and_one_with_a_short_block(texts, byte, tiny):
    model = tiny(vocab_size=byte.vocab_size, block_size=16)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = place_divergences(model, texts)
    entropy = [-(text.p * np.log2(text.p))[text.places == place].sum() for text in texts for place in range(16)]
    assert [len(each) for each in found] == [16] * 4
    assert np.concatenate(found) == pytest.approx(math.log2(byte.vocab_size) - np.array(entropy), abs=1e-4)


def test_figures(texts):
    divergences = [np.where(text.kinds == KINDS.index("recalled"), 0.5, 0.125 * i) for i, text in enumerate(texts)]
    figures = calibration_figures(texts, divergences)
    everything = np.concatenate(divergences)
    assert figures["kl_bits"] == pytest.approx(everything.mean()) and figures["kl_bits_ci95"] > 0
    assert figures["kl_bits_at"]["recalled"] == 0.5 and figures["kl_bits_at"].keys() == set(KINDS)
    kinds = np.concatenate([text.kinds for text in texts])
    assert figures["kl_bits_at"]["fixed"] == pytest.approx(everything[kinds == KINDS.index("fixed")].mean())
