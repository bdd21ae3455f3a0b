"""The page of `dvc plots show` in a real Chromium that has no network."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from imports import ROOT

from nanogpt.pipeline.plots_page import PAGE, write_plots_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom --host-resolver-rules="
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project of DVC's with this one's plots and committed figures."""
    folder = tmp_path_factory.mktemp("plots")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "metrics", folder / "metrics")
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=folder, check=True)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    return folder


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
def test_all_charts_are_drawn_without_a_network(project, monkeypatch):
    monkeypatch.chdir(project)
    write_plots_page()
    subprocess.run([sys.executable, "-m", "dvc", "plots", "show", "--out", "page"], check=True, capture_output=True)
    page = project / "page" / "index.html"
    text = page.read_text("utf-8")
    titles = re.findall(r"^  - (.*):$", (ROOT / "dvc.yaml").read_text().partition("\nplots:\n")[2], re.MULTILINE)
    assert len(titles) >= 7 and not re.search(r'<(script|link|img)[^>]+(src|href)="?http', text)

    log = project / "net.json"
    flags = [*FLAGS.split(), f"--user-data-dir={project / 'profile'}", f"--log-net-log={log}"]
    flags[flags.index("--host-resolver-rules=")] = "--host-resolver-rules=MAP * ~NOTFOUND"
    done = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "ERROR:CONSOLE" not in done.stderr, done.stderr
    charts = re.findall(r'<svg [^>]*class="marks".*?</svg>', done.stdout, re.DOTALL)
    assert len(charts) == len(titles)
    for title, chart in zip(titles, charts, strict=True):
        marks = len(re.findall(r'aria-roledescription="(?:bar|line mark|point|symbol mark)[^"]*"', chart))
        assert marks > 0, title
    asked = set(re.findall(r'"url":"https?://([^/"]+)', log.read_text("utf-8")))
    assert {
        host for host in asked if not host.endswith("google.com")
    } == set()  # Chromium itself asks Google for the time


def test_the_page_is_kept_and_needs_a_project(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    PAGE.write_text("mine {plot_divs}")
    write_plots_page()
    assert PAGE.read_text() == "mine {plot_divs}"
    PAGE.unlink()
    monkeypatch.chdir(tmp_path)
    write_plots_page()
    assert list(tmp_path.iterdir()) == []
