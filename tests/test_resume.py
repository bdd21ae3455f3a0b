"""A run that was killed goes on to the same bits; each attempt starts from a model made anew, as a process does."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from imports import ROOT

from nanogpt import checkpoint, lora, optim, process, resume, sums, train
from nanogpt.errors import UserError
from nanogpt.lora import LoraSettings
from nanogpt.resume import fingerprint, lock, states
from nanogpt.tokens import Bin, Counts, Windows

TIMES = {"timed_tokens", "busy_s", "first_step_s", "validation_s", "saving_s", "loop_s", "wall_s"}
DATA = Bin("test", "train", np.random.default_rng(0).integers(64, size=2000).astype(np.uint16), 255, Counts())


class Killed(BaseException):
    """Ends a run where it is, as a kill does: nothing in the project catches it."""


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    """`.work` is below a folder of the test's own, outside of DVC."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@contextlib.contextmanager
def killed_at(step: int, monkeypatch):
    """In the block, the training ends as soon as it begins that step."""
    rate = optim.learning_rate

    def until(now, **rest):
        if now == step:
            raise Killed
        return rate(now, **rest)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(optim, "learning_rate", until)
        yield


def adapted(model):
    settings = LoraSettings(4, 4.0, 0.1, "all", "lora", 20, 4, 1e-3, 1e-4, 2)
    return lora.attach(model, settings, seed=1)


def run(model, settings, every=3, made_of=None):
    """All weights of the model, and the record, of a run with states every few steps."""
    windows = Windows(DATA, model.config.block_size, 1)
    with resume.work("pretrain", "test", made_of or {}, every, {}, time.monotonic()) as work:
        record = train.train(model, windows, windows, settings, 1, work)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, record


def assert_same(one, other):
    (weights, record), (others, other_record) = one, other
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    what = [{k: v for k, v in dataclasses.asdict(r).items() if k not in TIMES} for r in (record, other_record)]
    assert what[0] == what[1]


CASES = {
    "plain": {},
    "accumulated": {"settings": {"grad_accum": 3}},
    "dropout": {"model": {"dropout": 0.3}},
    "bf16": {"settings": {"dtype": "bfloat16"}},
    "tied": {"model": {"tie_embeddings": True}},
    "two threads": {"settings": {"threads": 2}, "model": {"n_embd": 64, "vocab_size": 640}},
    "lora": {"lora": True, "model": {"dropout": 0.2}},
    "lora in bf16": {"lora": True, "settings": {"dtype": "bfloat16"}},
}


def case(tiny, training, arch, name):
    """A function that makes the model anew, and the settings."""
    given = CASES[name]
    settings = training(**{"max_steps": 11, "eval_every": 4, "log_every": 3, **given.get("settings", {})})

    def make():
        model = tiny(arch, **given.get("model", {}))
        return adapted(model) if given.get("lora") else model

    return make, settings


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_killed_run_ends_in_the_same_bits(tiny, training, monkeypatch, arch, name):
    make, settings = case(tiny, training, arch, name)
    whole = run(make(), settings)
    for step in (2, 7, 10):  # before the first state, in the middle, and twice in one run
        with killed_at(step, monkeypatch):
            run(make(), settings)
        torch.rand(5)  # the state of torch's generator is not to matter
    assert_same(run(make(), settings), whole)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_compiled_run_too(tiny, training, monkeypatch, arch):
    settings = training(max_steps=8, compile="on", threads=2, dtype="bfloat16")
    shape = {"n_embd": 64, "vocab_size": 640, "dropout": 0.1}
    whole = run(tiny(arch, **shape), settings)
    with killed_at(6, monkeypatch):
        run(tiny(arch, **shape), settings)
    torch.compiler.reset()  # compile anew, as another process does
    assert_same(run(tiny(arch, **shape), settings), whole)


@pytest.mark.parametrize("kill", [[], [5], [3, 9, 9]])
def test_two_runs_of_one_fingerprint_are_equal_however_often_they_end(tiny, training, monkeypatch, kill):
    settings = training(max_steps=10)
    for step in kill:
        with killed_at(step, monkeypatch):
            run(tiny(), settings, every=1)
    plain = train.train(model := tiny(), Windows(DATA, 16, 1), Windows(DATA, 16, 1), settings, 1)
    assert_same(run(tiny(), settings), (model.state_dict(), plain))


def test_the_last_two_states_are_kept_and_a_finished_run_leaves_nothing(tiny, training, monkeypatch, inside):
    with killed_at(9, monkeypatch):
        run(tiny(), training(max_steps=10), every=2)
    assert [path.name[:14] for path in sorted(inside.glob(".work/pretrain/*/step-*"))] == [
        "step-000000006", "step-000000008",
    ]  # fmt: skip
    run(tiny(), training(max_steps=10), every=2)
    assert list(inside.glob(".work/pretrain/*")) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "lengthened"])
def test_a_damaged_state_is_passed_over(tiny, training, monkeypatch, inside, capsys, damage):
    whole = run(tiny(), training(max_steps=10))
    with killed_at(9, monkeypatch):
        run(tiny(), training(max_steps=10), every=2)
    newest = max(inside.glob(".work/pretrain/*/step-*"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    was = newest.read_bytes()
    newest.write_bytes({"flipped": content, "cut": was[:-100], "empty": b"", "lengthened": was + b"\0"}[damage])
    again = run(tiny(), training(max_steps=10), every=2)
    assert_same(again, whole)
    assert "is damaged" in capsys.readouterr().err


def test_without_a_whole_state_a_run_begins_anew(tiny, training, monkeypatch, inside):
    whole = run(tiny(), training(max_steps=10))
    with killed_at(9, monkeypatch):
        run(tiny(), training(max_steps=10), every=2)
    for path in inside.glob(".work/pretrain/*/step-*"):
        path.write_bytes(b"nothing")
    assert_same(run(tiny(), training(max_steps=10)), whole)


def test_states_that_were_passed_over_do_not_outlive_those_saved_then(tiny, training, monkeypatch, inside):
    """Although they are of later steps."""
    with killed_at(9, monkeypatch):
        run(tiny(), training(max_steps=10), every=2)
    for path in inside.glob(".work/pretrain/*/step-*"):
        path.write_bytes(b"nothing")
    for until, kept in ((3, [2]), (5, [2, 4]), (7, [4, 6])):
        with killed_at(until, monkeypatch):
            run(tiny(), training(max_steps=10), every=2)
        names = sorted(path.name for path in inside.glob(".work/pretrain/*/step-*"))
        assert [int(name.split("-")[1]) for name in names] == kept


def test_a_state_takes_the_place_of_a_damaged_one_of_its_step(tmp_path):
    made = states.States(tmp_path)
    made.save(2, {"step": 2})
    bad = [tmp_path / f"step-{4:09}-{letter * 64}.pt" for letter in "0f"]
    for path in bad:
        path.write_bytes(b"damaged")
    path = made.save(4, {"step": 4})
    assert made.newest() == (4, path) and made.load() == {"step": 4}
    assert not any(path.exists() for path in bad)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_state_that_cannot_be_read_is_no_reason_to_begin_anew(tiny, training, monkeypatch, inside):
    with killed_at(9, monkeypatch):
        run(tiny(), training(max_steps=10), every=2)
    newest = max(inside.glob(".work/pretrain/*/step-*"))
    with monkeypatch.context() as patch:
        real = sums.sha256
        patch.setattr(sums, "sha256", lambda path: real(Path("/nowhere") if path.name == newest.name else path))
        with pytest.raises(UserError, match=r"step-000000008-.* cannot be read \(No such file.*; run this again"):
            run(tiny(), training(max_steps=10), every=2)
    assert newest.exists()


def test_what_the_run_is_made_of_keeps_it_apart(tiny, training, monkeypatch, inside, capsys):
    with killed_at(5, monkeypatch):
        run(tiny(), training(max_steps=6), every=1, made_of={"train": {"lr": 1}, "data": ["a"]})
    capsys.readouterr()
    run(tiny(), training(max_steps=6), every=1, made_of={"train": {"lr": 2}, "data": ["a"]})
    err = capsys.readouterr().err
    assert "going on" not in err
    assert "starting afresh: " in err and "is after 5 steps of another run (train.lr)" in err
    run(tiny(), training(max_steps=6), every=1, made_of={"train": {"lr": 1}, "data": ["a"]})
    assert "going on after step 5" in capsys.readouterr().err


def test_code_and_libraries_are_part_of_a_fingerprint(tmp_path):
    """As a stage in a process of its own sees them."""
    shutil.copytree(ROOT / "nanogpt", tmp_path / "nanogpt")
    stage = "from nanogpt import train\nfrom nanogpt.resume.fingerprint import program\nimport json\n"
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "some.py").write_text(stage + "print(json.dumps(program()))\n")

    def found() -> dict:
        done = subprocess.run([sys.executable, "-m", "stages.some"], cwd=tmp_path, capture_output=True, check=True)
        return json.loads(done.stdout)

    before = found()
    assert {"__main__", "nanogpt.train", "nanogpt.model.base", "nanogpt.optim"} <= before["code"].keys()
    assert "nanogpt.lora" not in before["code"]
    assert before["libraries"]["torch"] == torch.__version__
    with (tmp_path / "nanogpt" / "optim.py").open("a") as file:
        file.write("# changed\n")
    (tmp_path / "stages" / "some.py").write_text(stage + "print(json.dumps(program()))  # changed\n")
    after = found()
    assert {name for name in before["code"] if before["code"][name] != after["code"][name]} == {
        "__main__", "nanogpt.optim",
    }  # fmt: skip


def test_choices_are_kept(tiny, training, monkeypatch):
    settings = training(max_steps=10, dtype="auto", threads="auto", compile="auto", device="auto")
    with monkeypatch.context() as other:
        other.setattr("nanogpt.hardware.usable", lambda: 3)
        other.setattr("nanogpt.hardware.dtype", lambda *_: torch.bfloat16)
        whole = run(tiny(), settings)
        with killed_at(6, monkeypatch):
            run(tiny(), settings)
    monkeypatch.setattr("nanogpt.hardware.usable", lambda: 1)
    monkeypatch.setattr("nanogpt.hardware.dtype", lambda *_: torch.float32)
    again = run(tiny(), settings)
    assert_same(again, whole)
    assert (again[1].machines[0]["threads"], again[1].dtype) == (3, "bfloat16")
    fresh = train.begin(tiny().config, settings)
    assert (fresh.threads, fresh.dtype) == (1, "float32")


def test_another_machine_is_named(tiny, training, monkeypatch, capsys):
    with killed_at(6, monkeypatch):
        run(tiny(), training(max_steps=10))
    monkeypatch.setattr("nanogpt.hardware.instruction_set", lambda: "another")
    _, record = run(tiny(), training(max_steps=10))
    assert [machine["instruction set"] == "another" for machine in record.machines] == [False, True]
    assert "this run began on another machine (instruction set)" in capsys.readouterr().err


def test_times_add_up_over_processes(tiny, training, monkeypatch):
    settings = training(max_steps=10, eval_every=2)
    with killed_at(7, monkeypatch):
        run(tiny(), settings, every=1)
    _, record = run(tiny(), settings, every=1)
    tokens = settings.step_sequences * 16
    assert record.timed_tokens == 8 * tokens  # of ten steps two were the first of a process
    assert 0 < record.busy_s < record.loop_s < record.wall_s
    assert record.tokens_per_s == record.timed_tokens / record.loop_s
    assert min(record.first_step_s, record.validation_s, record.saving_s) > 0


def test_a_state_is_a_checkpoint(tiny, training, byte, monkeypatch, inside):
    """A model can be looked at while it trains, and a run that went wrong gone on with from its last good state."""
    for arch in ("base", "optimized"):
        model = tiny(arch, vocab_size=320)
        windows, facts = Windows(DATA, 16, 1), checkpoint.about(model, byte)
        with (
            killed_at(4, monkeypatch),
            resume.work("pretrain", arch, {}, 2, facts, time.monotonic()) as work,
        ):
            train.train(model, windows, windows, training(max_steps=8), 1, work)
        (newest,) = (path for path in inside.glob(f".work/pretrain/{arch}-*/step-000000004-*"))
        loaded, tok = checkpoint.load(newest)
        assert tok.sha256 == byte.sha256
        ids = torch.arange(10)[None]
        assert torch.equal(loaded(ids), model.eval()(ids))


def test_a_full_disk_keeps_the_state_before(tiny, training, monkeypatch, inside):
    settings = training(max_steps=10)
    whole = run(tiny(), settings)
    saved, real = [], os.fsync

    def full(fd):
        saved.append(fd)
        if len(saved) >= 4:
            raise OSError(28, "No space left on device")
        return real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = (
            r"the state after 6 steps, \d+ MiB, could not be saved \(No space left on device; [\d,]+ MiB are free\); "
        )
        with pytest.raises(UserError, match=message + "the state after 4 steps is kept: make room and run the same"):
            run(tiny(), settings, every=2)
    (folder,) = inside.glob(".work/pretrain/*")
    assert sorted(path.name[:14] for path in folder.iterdir()) == [
        "lock", "made-of.json", "step-000000002", "step-000000004",
    ]  # fmt: skip
    assert_same(run(tiny(), settings, every=2), whole)


IN_LITTLE_ROOM = """
import sys
sys.path.insert(0, {root!r})
import torch
from nanogpt.errors import UserError
from nanogpt.resume.states import States
from pathlib import Path
states = States(Path({folder!r}))
states.save(1, {{"model": {{"a": torch.ones(200_000)}}}})
try:
    states.save(2, {{"model": {{"a": torch.ones(400_000)}}}})
except UserError as error:
    print(error)
assert states.load()["model"]["a"].shape == (200_000,)
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    (tmp_path / "disk").mkdir()
    code = IN_LITTLE_ROOM.format(root=str(ROOT), folder=str(tmp_path / "disk"))
    mount = f"mount -t tmpfs -o size=2m tmpfs '{tmp_path}/disk' && exec '{sys.executable}' -c \"$0\""
    try:
        words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, code]
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no file system of one's own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert (
        "the state after 2 steps, 2 MiB, could not be saved (No space left on device; 1 MiB are free); the"
        in done.stdout
    )
    assert "the state after 1 steps is kept: make room" in done.stdout


def test_too_little_space_is_known_before_the_run(tiny, training, monkeypatch):
    total, used, _ = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(total, used, 50_000))
    weights = sum(p.nbytes for p in tiny().parameters())
    needed = f"{(3 * 3 + 1) * weights / 2**20:,.0f}"
    with pytest.raises(
        UserError, match=rf"this run needs {needed} MiB for its saved states and its result, .* make room"
    ):
        run(tiny(), training())


def test_steps_that_are_not_finite_are_passed_over(tiny, training, capsys):
    model, calls = tiny(), []

    def poison(gradient):
        calls.append(1)
        return gradient * (float("nan") if len(calls) in (2, 5, 6) else 1)

    model.transformer.wte.weight.register_hook(poison)
    windows = Windows(DATA, 16, 1)
    record = train.train(model, windows, windows, training(max_steps=8, log_every=1), 1)
    assert (record.step, record.skipped, record.skipped_in_row) == (8, 3, 0)
    assert [bool(np.isnan(loss)) for _, loss, _ in record.train_rows] == [i in (1, 4, 5) for i in range(8)]
    assert all(p.isfinite().all() for p in model.parameters())
    assert capsys.readouterr().err.count("the loss or its gradient is not finite; skipped") == 3


def test_a_skipped_step_changes_nothing(tiny, training):
    """Not the weights, and not what AdamW remembers."""
    model = tiny()
    optimizer = optim.adamw(model, 0.1, (0.9, 0.95), 0.1)
    batch = Windows(DATA, 16, 1).batch(0, 4)
    cpu = torch.device("cpu")
    train.update(model, optimizer, [batch], 1.0, cpu, torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    remembered = [value["exp_avg"].clone() for value in optimizer.state.values()]
    hook = model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    assert np.isnan(train.update(model, optimizer, [batch], 1.0, cpu, torch.float32))
    hook.remove()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, b["exp_avg"]) for a, b in zip(remembered, optimizer.state.values(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_too_many_of_them_end_the_run_with_the_last_good_state(tiny, training, byte, inside):
    model, calls = tiny(vocab_size=320), []

    def poison(gradient):
        calls.append(1)
        return gradient * (float("nan") if len(calls) > 5 else 1)

    model.transformer.wte.weight.register_hook(poison)
    windows = Windows(DATA, 16, 1)
    message = (
        r"no loss and gradient were finite in the 10 steps up to step 15; lower the learning rate \(.*\): the state "
    )
    with (
        pytest.raises(UserError, match=message + r"after 15 steps is kept in .*\.pt"),
        resume.work("pretrain", "test", {}, 100, checkpoint.about(model, byte), time.monotonic()) as work,
    ):
        train.train(model, windows, windows, training(max_steps=30), 1, work)
    (kept,) = inside.glob(".work/pretrain/*/step-*")
    loaded, _ = checkpoint.load(kept)
    good = tiny(vocab_size=320)
    with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch:
        rate = optim.learning_rate
        patch.setattr(optim, "learning_rate", lambda s, **rest: rate(s, **rest) if s < 5 else stop())
        train.train(good, windows, windows, training(max_steps=30), 1)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), good.parameters(), strict=True))


def stop():
    raise Killed


def test_one_run_at_a_time(tmp_path, capsys):
    with lock.held(tmp_path):
        assert lock.is_held(tmp_path)
        with (
            pytest.raises(UserError, match=rf"is in use by process {os.getpid()}, since \d{{4}}-"),
            lock.held(tmp_path, 0.3),
        ):
            raise AssertionError("two at once")
    assert capsys.readouterr().err.count("waiting for process") == 1
    assert not lock.is_held(tmp_path)
    with lock.held(tmp_path, 0):
        pass


HOLDER = "import sys, time; from pathlib import Path; from nanogpt.resume import lock\n" + (
    "with lock.held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(float(sys.argv[2]))"
)


def holder(folder, seconds) -> subprocess.Popen:
    words = [sys.executable, "-c", HOLDER, str(folder), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_was_removed_is_held_by_nobody(tmp_path):
    """One waits for it, and meanwhile it is removed and made anew, and held by another."""
    folder = tmp_path / "run"
    folder.mkdir()
    first = holder(folder, 60)
    words = [sys.executable, "-c", HOLDER, str(folder), "0"]
    waits = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert "waiting for process" in waits.stderr.readline()
    shutil.rmtree(folder)
    folder.mkdir()
    with lock.held(folder):
        first.kill()
        assert "the same training ran elsewhere and has just ended" in waits.communicate(timeout=20)[1]
    first.wait()


def test_a_held_folder_is_not_removed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    process = holder(folder, 60)
    assert not resume.remove(folder) and folder.exists()
    process.kill()
    process.wait()
    assert resume.remove(folder) and not folder.exists()
    assert resume.remove(folder)  # gone already


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    process = holder(tmp_path, 60)
    with pytest.raises(UserError, match=f"in use by process {process.pid}"), lock.held(tmp_path, 0):
        pass
    process.kill()
    process.wait()
    with lock.held(tmp_path, 0):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_who_is_about_to_end_is_waited_for(tmp_path):
    process = holder(tmp_path, 0.5)
    with lock.held(tmp_path, 30):
        pass
    assert process.wait() == 0


@pytest.fixture
def finished(tiny, training, monkeypatch, inside):
    """The folder of a run that a stage under DVC has ended, before DVC has committed it."""
    monkeypatch.setenv("DVC_ROOT", str(inside))
    whole = run(tiny(), training(max_steps=4))
    (folder,) = inside.glob(".work/pretrain/*")
    return folder, whole


def test_what_dvc_has_not_committed_yet_is_kept(tiny, training, finished, inside, capsys):
    folder, whole = finished
    assert (folder / "done").exists()
    (inside / "dvc.lock").write_text("of an earlier stage")
    os.utime(inside / "dvc.lock", (1, 1))
    resume.sweep()
    assert_same(run(tiny(), training(max_steps=4)), whole)
    assert "going on after step 4" in capsys.readouterr().err


def test_what_dvc_has_committed_is_removed(finished, inside):
    folder, _ = finished
    (inside / "dvc.lock").write_text("with this stage in it")
    os.utime(inside / "dvc.lock", (time.time() + 5, time.time() + 5))
    with lock.held(folder):
        resume.sweep()
        assert folder.exists()
    resume.sweep()
    assert not folder.exists()


def test_what_another_experiment_commits_says_nothing_of_this_one(finished, inside, monkeypatch):
    """Its dvc.lock lies in a copy of its own, and both share .work. What is gone with its copy has ended."""
    folder, _ = finished
    later = time.time() + 5
    (inside / "copy").mkdir()
    (inside / "copy/dvc.lock").write_text("with another stage in it")
    os.utime(inside / "copy/dvc.lock", (later, later))
    monkeypatch.chdir(inside / "copy")
    resume.sweep()
    assert folder.exists()
    (folder / "done").write_text(str(inside / "gone/dvc.lock"))
    resume.sweep()
    assert not folder.exists()


def test_a_run_whose_settings_changed_is_not_done(tiny, training, inside, monkeypatch):
    """So that no dvc.lock that is written then has it removed."""
    monkeypatch.setenv("DVC_ROOT", str(inside))
    process.before_success(stop)
    with pytest.raises(Killed):
        run(tiny(), training(max_steps=4))
    (folder,) = inside.glob(".work/pretrain/*")
    assert not (folder / "done").exists()


def test_code_that_changes_under_a_run_ends_it(tiny, training, inside, monkeypatch):
    """Under DVC, which would take the result for one of the new code; put back, it goes on from its last step."""
    monkeypatch.setenv("DVC_ROOT", str(inside))
    found, real = fingerprint.program(), fingerprint.program
    with monkeypatch.context() as patch:
        edited = found | {"code": found["code"] | {"nanogpt.optim": "edited"}}
        programs = iter([found, edited])
        patch.setattr(fingerprint, "program", lambda: next(programs))
        with pytest.raises(UserError, match=r"^nanogpt\.optim changed while this stage ran"):
            run(tiny(), training(max_steps=4))
    assert real() == found
    (folder,) = inside.glob(".work/pretrain/*")
    assert not (folder / "done").exists()
    assert list(folder.glob("step-000000004-*"))


def test_what_a_state_holds_counts_as_free(tiny, training, monkeypatch):
    """It is in memory when the estimate is made, and will be what the estimate counts."""
    free = []
    monkeypatch.setattr("nanogpt.hardware.available_mib", lambda: 1e6)
    monkeypatch.setattr("nanogpt.estimate.check", lambda *given: free.append(given[-1]))
    with killed_at(6, monkeypatch):
        run(tiny(), training(max_steps=10))
    run(tiny(), training(max_steps=10))
    weights = sum(p.nbytes for p in tiny().parameters())
    assert free[0] == 1e6
    assert free[1] - 1e6 == pytest.approx(3 * weights / 2**20, rel=0.01)


def test_old_leftovers_are_named(tiny, training, monkeypatch, inside, capsys):
    with killed_at(5, monkeypatch):
        run(tiny(), training(max_steps=6), every=2)
    (folder,) = inside.glob(".work/pretrain/*")
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert resume.leftovers(days=1) == []
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (time.time() - 20 * 86400,) * 2)
    ((place, n_bytes, age),) = resume.leftovers(days=14)
    assert place.samefile(folder) and n_bytes == size and 19.9 < age < 20.1
    run(tiny("optimized"), training(max_steps=1, warmup_steps=0), made_of={"another": 1})
    assert ".work holds runs of more than 14 days ago" in capsys.readouterr().err


def test_a_work_folder_that_cannot_be_written(tiny, training, inside):
    (inside / ".work").write_text("a file")
    with pytest.raises(UserError, match=r"\.work: cannot be written \(.*\); make room there"):
        run(tiny(), training())


@pytest.mark.parametrize(
    ("value", "steps", "seconds"),
    [(1, 1, None), (500, 500, None), ("60s", None, 60), ("0.5 s", None, 0.5), ("10m", None, 600), ("1h", None, 3600)],
)
def test_how_often(value, steps, seconds):
    assert resume.parse(value) == resume.Every(steps, seconds)


@pytest.mark.parametrize("value", [0, -5, "", "s", "0s", "ten", "5d", "-3s", "1e3s", "500", "10 steps"])
def test_how_often_is_none_of_these(value, training):
    with pytest.raises(
        UserError, match=r"checkpoint_every = .*: neither steps nor a time; write 500 for steps, or 60s"
    ):
        training(checkpoint_every=value)


def test_when_a_save_is_due():
    steps, seconds = resume.parse(50), resume.parse("60s")
    assert [step for step in range(1, 151) if steps.due(step, since=1e9, cost=0)] == [50, 100, 150]
    assert not seconds.due(7, since=59, cost=0) and seconds.due(7, since=60, cost=1)
    assert not seconds.due(7, since=499, cost=10) and seconds.due(7, since=500, cost=10)  # 2% of a slow disk


def test_the_program_here():
    found = fingerprint.program()
    assert "nanogpt.train" in found["code"] and set(found["libraries"]) == {"numpy", "peft", "torch"}
