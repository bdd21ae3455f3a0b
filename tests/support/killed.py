"""A small training run that is killed at a step, and a comparison of two runs that should be equal."""

import contextlib
import dataclasses
import time

import numpy as np
import pytest
import torch

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin, Counts
from nanogpt.training import loop
from nanogpt.training.loop import train
from nanogpt.training.resume import resumable_run

TIMES = {"timed_tokens", "update_s", "first_step_s", "validation_s", "saving_s", "loop_s", "wall_s"}
DATA = Bin("test", "train", np.random.default_rng(0).integers(64, size=2000).astype(np.uint16), 255, Counts())


class Killed(BaseException):
    """Ends a run where it is, as a kill does: nothing in the project catches it."""


@contextlib.contextmanager
def killed_at(step: int, monkeypatch):
    """In the block, the training ends as soon as it begins that step."""
    rate = loop.learning_rate

    def until(now, settings):
        if now == step:
            raise Killed
        return rate(now, settings)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "learning_rate", until)
        yield


def run(model, settings, every=3, inputs=None):
    """All weights of the model, and the record, of a run with states every few steps."""
    windows = Windows(DATA, model.config.block_size, 1)
    with resumable_run("pretrain", "test", inputs or {}, every, {}, time.monotonic()) as resumable:
        record = train(model, windows, windows, settings, 1, resumable)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, record


def assert_same(one, other):
    (weights, record), (others, other_record) = one, other
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    what = [{k: v for k, v in dataclasses.asdict(r).items() if k not in TIMES} for r in (record, other_record)]
    assert what[0] == what[1]


def stop():
    raise Killed
