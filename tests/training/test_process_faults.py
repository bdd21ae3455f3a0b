"""Processes that are killed, that hang, and hosts that vanish, in real runs of the pretrain stage."""

import contextlib
import os
import re
import shutil
import signal

import pandas as pd
import psutil
import pytest

from nanogpt.research.hosts import missing_for_hosts, two_hosts
from nanogpt.research.process_faults import measure_faults
from nanogpt.research.process_runs import SMALL, ProcessRuns, kill
from nanogpt.runtime.checksums import sha256
from nanogpt.runtime.metrics_file import read_metrics

pytestmark = pytest.mark.slow
TWO = ("--processes", "2")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> ProcessRuns:
    """A run of two processes that nobody disturbs, in `whole`, by the short command."""
    runs = ProcessRuns.make(tmp_path_factory.mktemp("original"), model=SMALL["model"], train=SMALL["train"])
    python, option, _, *flags = runs.command("whole", *TWO)
    assert runs.finish([python, option, "stages", "pretrain", *flags]) == 0, log(runs)
    return runs


@pytest.fixture
def runs(original, tmp_path) -> ProcessRuns:
    """The same folder again, for runs of its own, with the rates that decide which kernels compute."""
    folder = tmp_path / "copy"
    shutil.copytree(original.folder, folder, ignore=shutil.ignore_patterns("log", ".work"))
    shutil.copytree(original.folder / ".work" / "rates", folder / ".work" / "rates")
    return ProcessRuns(folder)


def log(runs: ProcessRuns) -> str:
    return (runs.folder / "log").read_text("utf-8")


def weights(runs: ProcessRuns, out: str) -> str:
    return sha256(runs.folder / out / "model.safetensors")


def test_killed_processes_begin_again_and_end_in_the_same_bits():
    """The same command, and torchrun."""
    assert measure_faults(2, seed=2, kills_a_run=1) == {"kills": 2, "different_results": 0, "left_running": 0}


def test_a_signal_ends_all_after_a_step_and_the_same_command_goes_on(runs):
    command = runs.command("out", *TWO)
    with runs.start(command) as running:
        runs.wait_for_state(20, running)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 130
    assert runs.left_running() == []
    assert log(runs).count("stopping after this step") == log(runs).count("interrupted: ") == 1, log(runs)
    assert "Traceback" not in log(runs)
    stopped = runs.newest_state()
    assert stopped >= 20
    assert runs.finish(command) == 0
    assert f"resuming after step {stopped}," in log(runs)
    assert weights(runs, "out") == weights(runs, "whole")


def test_a_process_that_hangs_ends_the_run(runs):
    with (runs.folder / "params.yaml").open() as file:
        text = file.read()
    (runs.folder / "params.yaml").write_text(re.sub(r"timeout_s: 20\b", "timeout_s: 10", text))
    command = runs.command("out", *TWO)
    with runs.start(command) as running:
        runs.wait_for_state(20, running)
        runs.workers()[1].suspend()
        assert running.wait(90) == 1
    assert runs.left_running() == []
    assert "error: another process of this run ended or does not answer; the state after " in log(runs)
    assert "Traceback" not in log(runs)
    assert runs.finish(command) == 0
    assert weights(runs, "out") == weights(runs, "whole")


def test_nothing_outlives_the_process_that_started_it(runs):
    with runs.start(runs.command("out", *TWO)) as running:
        runs.wait_for_state(20, running)
        kill(psutil.Process(running.pid))
    assert runs.left_running(40) == []


def test_one_mistake_is_one_line(runs):
    assert runs.finish(runs.command("out", *TWO, "--init-from", "nowhere")) == 1
    assert re.fullmatch(r"error: train\.init_from = nowhere does not exist; [^\n]+\n", log(runs))


@pytest.mark.skipif(missing_for_hosts() is not None, reason=f"two hosts cannot be made here: {missing_for_hosts()}")
def test_a_host_goes_on_when_the_link_to_the_other_is_cut(tmp_path):
    """Elastic: one host or two. It ends in the loss of an undisturbed run by one."""
    settings = SMALL["train"] | {"timeout_s": 10, "max_steps": 150}
    runs = ProcessRuns.make(tmp_path, model=SMALL["model"] | {"dropout": 0.0}, train=settings)
    assert runs.finish(runs.command("whole")) == 0, log(runs)
    _, *command = runs.command("out")
    flags = ["--nnodes", "1:2", "--max-restarts", "3"]
    with two_hosts() as hosts, contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(runs.start(host.torchrun(*flags, *command))) for host in hosts)
        runs.wait_for_state(30, first)
        assert len(runs.workers()) == 2
        hosts[0].cut()
        assert first.wait(120) == 0, log(runs)
        os.killpg(second.pid, signal.SIGKILL)  # told to end, torchrun may wait minutes for a host that is gone
        second.wait(60)
        assert runs.left_running(40) == []
    curves = [pd.read_csv(runs.folder / out / "pretrain-train.csv").train_loss for out in ("whole", "out")]
    assert (curves[1] / curves[0] - 1).abs().max() < 1e-3
    found = [read_metrics(runs.folder / out / "pretrain.json")["val"]["bpb"] for out in ("whole", "out")]
    assert found[1] == pytest.approx(found[0], rel=1e-3)
