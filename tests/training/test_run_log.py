"""What a run writes while it goes on, read as a second process would."""

import json
import time

import pandas as pd
import pytest
import torch
from killed import DATA, killed_at, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin, Counts
from nanogpt.data.tokens.tokenizer import Characters
from nanogpt.model.config import ModelConfig
from nanogpt.runtime.workdir import read_logged_texts
from nanogpt.training.loop import train
from nanogpt.training.resume import resumable_run
from nanogpt.training.run_log import RunLog
from nanogpt.training.run_record import RunRecord
from nanogpt.training.samples import PROMPT_TOKENS, SAMPLE_TOKENS, write_sample

LETTERS = "".join(map(chr, range(33, 126)))
SHAPE = ModelConfig("base", 1, 1, 1, 8, 16, 0.0, False, False, 128)


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


def test_curves_grow_with_the_run_and_are_cut_where_it_resumes(tiny, training, inside, monkeypatch):
    settings = training(max_steps=20, log_every=2, eval_every=4)
    with killed_at(13, monkeypatch):  # the newest state is after 8 steps
        run(tiny(), settings, every=8)
    folder = only(inside, ".work/pretrain/test-*")
    before = pd.read_csv(folder / "train.csv")
    assert before.step.tolist() == [2, 4, 6, 8, 10, 12] and set(before.max_steps) == {20}
    assert (before.tokens_per_s > 0).all() and (before.peak_mib > 50).all()
    assert (before.seconds_left >= 0).all()
    assert pd.read_csv(folder / "val.csv").step.tolist() == [4, 8, 12]
    with killed_at(17, monkeypatch):
        run(tiny(), settings, every=100)
    after, val = pd.read_csv(folder / "train.csv"), pd.read_csv(folder / "val.csv")
    assert after.step.tolist() == [2, 4, 6, 8, 10, 12, 14, 16] and val.step.tolist() == [4, 8, 12, 16]
    assert after.tokens_per_s.isna().tolist() == [True] * 4 + [False] * 4  # of another process
    whole = train(tiny(), *[Windows(DATA, 16, 1)] * 2, settings, 1)
    assert after.train_loss.tolist() == pytest.approx(whole.train_losses[:8], rel=1e-5)
    assert val.val_loss.tolist() == pytest.approx([loss for _, loss in whole.val_rows[:4]], rel=1e-5)


def test_event_files_hold_each_step_once(tiny, training, inside, monkeypatch):
    settings = training(max_steps=12, log_every=2, eval_every=4, tensorboard=True)
    with killed_at(9, monkeypatch):
        run(tiny(), settings, every=6)
    _, record = run(tiny(), settings, every=6)
    events = EventAccumulator(str(only(inside, ".work/tensorboard/pretrain/test-*")))
    events.Reload()
    for name, rows in (("loss/train", record.train_rows), ("loss/validation", record.val_rows)):
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx({row[0]: row[1] for row in rows}, rel=1e-6)
        assert len(events.Scalars(name)) == len(rows)
    assert {event.step for event in events.Scalars("learning rate")} == {row[0] for row in record.train_rows}


class Successor(nn.Module):
    """A model that is sure of the token after its last one, by its number."""

    config = SHAPE

    def __init__(self):
        super().__init__()
        self.lm_head = nn.Linear(128, 128, bias=False)
        nn.init.eye_(self.lm_head.weight)

    def hidden(self, ids):
        assert ids.shape[1] <= self.config.block_size
        return 1000 * nn.functional.one_hot(ids + 1, 128).float()


def letters(text: str, prompts=None) -> tuple[Bin, Characters]:
    tokenizer = Characters(LETTERS, None)
    ids = [tokenizer.eot, *(LETTERS.index(letter) for letter in text), tokenizer.eot]
    prompts = None if prompts is None else torch.tensor(prompts).numpy()
    return Bin("test", "val", torch.tensor(ids).numpy(), tokenizer.eot, Counts(1), prompts=prompts), tokenizer


def test_a_sample_goes_on_from_the_first_document():
    start = LETTERS.index("0")
    data, tokenizer = letters(LETTERS[start : start + 12])
    prompt, text = write_sample(Successor(), data, tokenizer, 1)
    assert prompt == LETTERS[start : start + PROMPT_TOKENS]
    assert text == LETTERS[start + PROMPT_TOKENS :][:SAMPLE_TOKENS]


def test_a_sample_ends_with_the_document_and_follows_the_whole_prompt_of_a_conversation():
    data, tokenizer = letters(LETTERS[-30:], prompts=[20])
    assert write_sample(Successor(), data, tokenizer, 1) == (LETTERS[-30:-10], LETTERS[-10:])


def test_a_model_whose_weights_are_lost_writes_nothing():
    model = Successor()
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    assert write_sample(model, *letters(LETTERS), 1)[1] == ""


def test_texts_with_other_line_ends_stay_one_line(tmp_path):
    log = RunLog(tmp_path, RunRecord(step=3, max_steps=9), 1, False)
    log.add_sample(3, "a", "b\u2028c\x85\nd")
    assert read_logged_texts(tmp_path) == [{"step": 3, "prompt": "a", "text": "b\u2028c\x85\nd"}]
    RunLog(tmp_path, RunRecord(step=3), 1, False)
    assert len(read_logged_texts(tmp_path)) == 1
    RunLog(tmp_path, RunRecord(step=2), 1, False)
    assert read_logged_texts(tmp_path) == []


def test_samples_are_written_at_their_steps_and_change_nothing(tiny, training, inside, monkeypatch):
    data, tokenizer = letters(LETTERS * 6)
    windows = Windows(data, 16, 1)

    def weights(**changed):
        model = tiny(vocab_size=128, dropout=0.2)
        with resumable_run("pretrain", "test", {}, 2, {}, time.monotonic()) as resumable:
            train(
                model, windows, windows, training(max_steps=7, log_every=2, **changed), 1, resumable, "train", tokenizer
            )
        return model.state_dict()

    plain = weights()
    with killed_at(5, monkeypatch):
        weights(sample_every=2)
    path = only(inside, ".work/pretrain/test-*") / "samples.jsonl"
    assert [json.loads(line)["step"] for line in path.read_text("utf-8").splitlines()] == [2, 4]
    assert json.loads(path.read_text("utf-8").splitlines()[0])["prompt"] == LETTERS[:PROMPT_TOKENS]
    with path.open("ab") as file:
        file.write(b'{"step": 6, "te\xc3')  # what a crash leaves
    with killed_at(6, monkeypatch):
        weights(sample_every=2)
    assert [json.loads(line)["step"] for line in path.read_text("utf-8").splitlines()] == [2, 4, 6]
    resumed = weights(sample_every=2)
    assert all(torch.equal(resumed[name], plain[name]) for name in plain)
