"""Dropout by shared random bits."""

import pytest
import torch

from nanogpt.model.dropout import dropout


@pytest.mark.parametrize("p", [1e-4, 0.1, 0.2, 0.5, 0.999])
def test_every_element_is_dropped_as_often(p):
    torch.manual_seed(1)
    size = 999_999  # no multiple of the eight elements that share a draw
    y = dropout(torch.ones(size), p)
    share, kept = (y == 0).double(), y[y > 0].unique()
    assert len(kept) == 1
    drop = 1 - 1 / kept.item()  # what the scale says is dropped
    assert abs(drop - p) <= 1 / 512
    sigma = (drop * (1 - drop)) ** 0.5
    assert abs(share.mean() - drop) < 5 * sigma / size**0.5
    for lane in range(8):
        assert abs(share[lane::8].mean() - drop) < 5 * sigma / (size / 8) ** 0.5
    for lag in range(1, 9):  # independent of their neighbours
        together = (share[lag:] * share[:-lag]).mean()
        assert abs(together - drop**2) < 5 * drop / size**0.5


def test_gradients_pass_where_numbers_do():
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)

    def fixed(x):
        torch.manual_seed(2)
        return dropout(x, 0.3)

    assert torch.autograd.gradcheck(fixed, x)
    assert torch.equal(fixed(x), fixed(x))
    torch.manual_seed(3)
    assert not torch.equal(dropout(x, 0.3), fixed(x))
