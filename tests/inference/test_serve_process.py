import contextlib
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import requests
from loopback import wait_until
from malformed_requests import GOOD, malformed, post, send
from served import health, long_stream, process, wait_until_idle

from nanogpt.inference.open_writer import open_writers
from nanogpt.inference.server import GRACE_SECONDS, describe_start, listen
from nanogpt.runtime.errors import UserError


def test_the_address(alone):
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        line = describe_start(alone, listening)
        assert line.startswith(
            f"serving small, adapter, chatty, letters, broken at http://127.0.0.1:{port}/v1; try: curl "
        )
        with pytest.raises(UserError, match=f"127.0.0.1 port {port}: Address already in use; choose another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"192.0.2.1 port 0: .*; choose another --port or --host"):
        listen("192.0.2.1", 0)


def test_the_pipelines_model_before_the_pipeline_made_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"models/merged does not exist; make it with `dvc repro merge`"):
        open_writers(None, [], "auto")


def test_two_models_of_one_name(folders):
    with pytest.raises(UserError, match="two models are called adapter; rename"):
        open_writers(None, [folders["adapter"]] * 2, "auto")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_server(folders, tmp_path, number):
    with process(folders, tmp_path) as served:
        command = served.line.partition("try: ")[2]
        done = subprocess.run(["curl", "-s", *shlex.split(command)[1:]], capture_output=True, text=True)
        assert json.loads(done.stdout)["model"] == "small"
        with long_stream(served, max_tokens=60) as lines:
            served.child.send_signal(number)
            assert list(lines)[-2:] == [b"data: [DONE]", b""]  # it may end
        assert served.child.wait(20) == 0
        assert served.err.read_text() == ""
        with pytest.raises(requests.ConnectionError):
            health(served)


@pytest.mark.slow
def test_requests_that_run_too_long_end_with_an_error(folders, tmp_path):
    with process(folders, tmp_path) as served, contextlib.ExitStack() as stack:
        lines = stack.enter_context(long_stream(served, n=8))
        stalled = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
        stalled.sendall(post(json.dumps(GOOD).encode())[:-3])  # and the rest never comes
        start = time.monotonic()
        served.child.send_signal(signal.SIGTERM)
        *_, last, end = lines
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stopping" and end == b""
        assert served.child.wait(40) == 0 and time.monotonic() - start > 4
        assert "Traceback" not in served.err.read_text()


def _answers(served) -> bool:
    try:
        return bool(health(served))
    except requests.ConnectionError:
        return False


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(folders, tmp_path):
    with process(folders, tmp_path) as served, long_stream(served, n=8) as lines:
        start = time.monotonic()
        served.child.send_signal(signal.SIGINT)
        wait_until(lambda: not _answers(served))  # it has seen the first
        served.child.send_signal(signal.SIGINT)
        assert b"the server is stopping" in list(lines)[-2]
        assert time.monotonic() - start < GRACE_SECONDS - 1
        assert served.child.wait(20) == 0
        assert served.err.read_text() == ""


@pytest.mark.slow
def test_a_port_in_use_is_one_line(folders, tmp_path):
    with listen("127.0.0.1", 0) as listening:
        port = str(listening.getsockname()[1])
        command = [sys.executable, "-m", "stages.serve", "--checkpoint", "no/such/model", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True)
    message = f"error: 127.0.0.1 port {port}: Address already in use; choose another --port or --host\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.mark.parametrize("flags", [["--port", "70000"], ["--max-queue", "-1"], ["--port", "x"], ["--dtype", "fp4"]])
def test_wrong_flags(flags):
    done = subprocess.run([sys.executable, "-m", "stages.serve", *flags], capture_output=True, text=True)
    assert done.returncode == 1 and re.fullmatch(r"error: .*\n", done.stderr) and flags[0] in done.stderr


@pytest.mark.slow
def test_malformed_requests_leave_no_memory_behind(folders, tmp_path):
    def memory() -> int:
        return psutil.Process(served.child.pid).memory_info().rss

    with process(folders, tmp_path) as served:
        for request in malformed(200, seed=1):
            send(served.port, *request)
        before = memory()
        statuses = {send(served.port, *request) for request in malformed(1000, seed=2)}
        assert statuses <= {None, 200, 400, 404, 405, 408, 413, 415}
        wait_until_idle(served)
        assert memory() < 1.05 * before
        served.child.send_signal(signal.SIGTERM)
        assert served.child.wait(20) == 0
        assert served.err.read_text() == ""
