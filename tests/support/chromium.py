"""A real Chromium that has no network."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=20000",
    "--dump-dom", "--host-resolver-rules=MAP * ~NOTFOUND",
]  # fmt: skip

needs_chromium = pytest.mark.skipif(not PROGRAM, reason="there is no Chromium on this machine")


def open_page(page: Path, folder: Path, *more: str) -> str:
    """The document of a page once its scripts have run: no error on the console, no request to another host."""
    log = folder / "net.json"
    command = [PROGRAM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", *more, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "ERROR:CONSOLE" not in done.stderr, done.stderr
    asked = set(re.findall(r'"url":"https?://([^/"]+)', log.read_text("utf-8")))
    assert {
        host for host in asked if not host.endswith("google.com")
    } == set()  # Chromium itself asks Google for the time
    return done.stdout
