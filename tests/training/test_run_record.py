import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from killed import DATA

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Counts
from nanogpt.model.score import Score
from nanogpt.training.loop import train
from nanogpt.training.run_record import RunRecord, describe_validation


def test_the_files(tmp_path):
    record = RunRecord(1, [(1, 2 / 3, 1e-5), (1234567, math.nan, 1e-5)], [(2, 0.5)], machines=[{"torch": "1"}])
    record.save(tmp_path / "a" / "b", "x")
    folder = tmp_path / "a" / "b"
    assert (folder / "x-train.csv").read_text() == "step,train_loss,lr\n1,0.666667,1e-05\n1234567,nan,1e-05\n"
    assert (folder / "x-val.csv").read_text() == "step,val_loss\n2,0.5\n"
    assert json.loads((folder / "x-machine.json").read_text()) == [{"torch": "1"}]


def test_a_row_is_the_mean_of_the_steps_taken():
    record = RunRecord()
    for loss in (3.0, math.nan, 1.0):
        record.log_step(loss)
    record.log_row(0.1)
    record.log_step(math.nan)
    record.log_row(0.2)
    assert record.train_rows[0] == (3, 2.0, 0.1)
    assert record.train_rows[1][0] == 4 and math.isnan(record.train_rows[1][1])
    assert (record.step, record.skipped, record.skipped_in_row) == (4, 2, 1)
    assert record.train_losses[0] == 2.0


@pytest.mark.parametrize(
    ("best", "keep", "words"),
    [(200, "best", ""), (150, "last", ""), (150, "best", " with the weights of step 150 of 200, the best")],
)
def test_the_step_of_the_kept_weights_is_named(best, keep, words):
    figures = {"val": {"bpb": 1.23456}, "steps": 200, "best_step": best}
    assert describe_validation(figures, keep) == f"validation 1.235 bits per byte{words}"


def test_the_figures(tiny, training):
    windows = Windows(DATA, 16, 1)
    run = train(tiny(), windows, windows, training(), 1)
    score = Score(np.array([60, 20]) * math.log(2), np.array([30, 10]), np.array([35, 15]))
    started = time.monotonic() - 100
    known = run.metrics(score, replace(DATA, counts=Counts(1, 9, 9, 25.0)), started)
    unknown = run.metrics(score, replace(DATA, counts=Counts(1, 9, 9, None)), started)
    assert known["floor"] == {"bpb": 0.5}
    assert known["val"] == {"loss_nats": pytest.approx(2 * math.log(2)), "bpb": pytest.approx(1.6)}
    assert known["train"]["loss_nats"] == run.train_losses[-1]
    assert known["wall_s"] >= 100
    assert known["peak_mib"] > 50
    for figures in (known, unknown):
        assert (figures.pop("steps"), figures.pop("skipped_steps")) == (20, 0)
        assert figures.pop("best_step") == min((loss, step) for step, loss in run.val_rows)[1]
    assert known.keys() - unknown.keys() == {"floor"}
    for figures in (known, unknown, known["val"], known["train"]):
        assert all(isinstance(value, dict) or (type(value) is float and value < math.inf) for value in figures.values())
