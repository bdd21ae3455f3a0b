import math
import random

import pytest
import torch
from sampling_settings import sampling

from nanogpt.inference.sampling import Chooser, choose

V = 128


def choices(logits: torch.Tensor, count: int, seen=(), **changes) -> list[int]:
    """So many choices from the same logits (V,), in two batches of different sizes."""
    rng, settings, found = random.Random(0), sampling(**changes), []
    for size in (count // 3, count - count // 3):
        choosers = [Chooser(settings, random.Random(rng.random()), list(seen)) for _ in range(size)]
        found += [token.id for token in choose(logits.expand(size, -1).clone(), choosers)]
    return found


def kept(logits: list[float], temperature=1.0, top_k=None, top_p=None, min_p=None) -> dict[int, float]:
    """Probability of each id that may be drawn, spelled out one id at a time."""
    weights = {i: math.exp(logit / temperature) for i, logit in enumerate(logits)}
    ranked = sorted(weights, key=weights.get, reverse=True)[:top_k]
    total = sum(weights[i] for i in ranked)
    chosen, reached = [], 0.0
    for i in ranked:
        if (top_p is not None and reached >= top_p) or (min_p and weights[i] < min_p * weights[ranked[0]]):
            break
        chosen.append(i)
        reached += weights[i] / total
    return {i: weights[i] / sum(weights[j] for j in chosen) for i in chosen}


@pytest.mark.parametrize("temperature", [0.3, 2.5])
@pytest.mark.parametrize("min_p", [None, 0.3])
@pytest.mark.parametrize("top_p", [None, 1e-6, 0.9, 0.999])
@pytest.mark.parametrize("top_k", [None, 1, 5, 100])
def test_frequencies_are_the_probabilities(top_k, top_p, min_p, temperature):
    """Within 5 standard deviations of the binomial count: a correct sampler fails one case in 10,000 or so."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(V)
    logits[90:] = -torch.inf
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    count = 600
    tokens = choices(logits, count, **filters)
    expected = kept(logits[:90].tolist(), **filters)
    assert set(tokens) <= set(expected)
    for token, probability in expected.items():
        deviation = math.sqrt(count * probability * (1 - probability))
        assert abs(tokens.count(token) - count * probability) <= max(5 * deviation, 5), token


def test_every_id_of_a_flat_distribution_is_drawn():
    """top_p keeps more here than are looked at first."""
    for filters in ({}, {"top_p": 0.995}, {"min_p": 0.99}):
        drawn = set(choices(torch.zeros(V), 4000, **filters))
        assert len(drawn) >= V - 1 and max(drawn) < V


def test_greedy_takes_the_first_of_the_largest():
    logits = torch.zeros(3, V)
    logits[0, 70], logits[1, [65, 20, 127]] = 3, 2
    settings = Chooser(sampling(temperature=0), random.Random(0))
    assert [token.id for token in choose(logits, [settings] * 3)] == [70, 20, 0]


@pytest.mark.parametrize("sign", [1, -1])
def test_repetition_penalty(sign):
    """Logits of what is in the text are divided where positive, and multiplied where negative."""
    logits = torch.full((V,), -torch.inf)
    logits[:3] = sign * torch.tensor([1.0, 1.0, 1.0])
    tokens = choices(logits, 3000, seen=[1, 1, 5], repetition_penalty=2.0)
    shares = torch.tensor([sign * 1.0, sign * (0.5 if sign > 0 else 2.0), sign * 1.0]).softmax(0)
    assert [tokens.count(i) / 3000 for i in range(3)] == pytest.approx(shares.tolist(), abs=0.04)
    assert choices(logits, 3, seen=[0, 1], temperature=0, repetition_penalty=2.0) == [2] * 3


def test_rows_of_all_kinds_in_one_batch_get_what_they_get_alone():
    torch.manual_seed(0)
    kinds = [{}, {"temperature": 0}, {"top_k": 3}, {"top_p": 0.5, "temperature": 0.7}, {"min_p": 0.2}] * 3
    logits = torch.randn(len(kinds), V)

    def chooser(n: int) -> Chooser:
        return Chooser(sampling(**kinds[n]), random.Random(n), [], n % 2 or None)

    together = choose(logits.clone(), [chooser(n) for n in range(len(kinds))])
    assert together == [choose(logits[[n]].clone(), [chooser(n)])[0] for n in range(len(kinds))]
    assert [token.logprob is None for token in together] == [n % 2 == 0 for n in range(len(kinds))]
