"""The page of `dvc plots show` in a real Chromium that has no network."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chromium import needs_chromium, open_page
from imports import ROOT

from nanogpt.report.plots_page import PAGE, write_plots_page

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


@needs_chromium
def test_all_charts_are_drawn_without_a_network(project, monkeypatch):
    monkeypatch.chdir(project)
    write_plots_page()
    subprocess.run([sys.executable, "-m", "dvc", "plots", "show", "--out", "page"], check=True, capture_output=True)
    page = project / "page" / "index.html"
    text = page.read_text("utf-8")
    titles = re.findall(r"^  - (.*):$", (ROOT / "dvc.yaml").read_text().partition("\nplots:\n")[2], re.MULTILINE)
    assert len(titles) >= 7 and not re.search(r'<(script|link|img)[^>]+(src|href)="?http', text)

    document = open_page(page, project)
    charts = re.findall(r'<svg [^>]*class="marks".*?</svg>', document, re.DOTALL)
    assert len(charts) == len(titles)
    for title, chart in zip(titles, charts, strict=True):
        marks = len(re.findall(r'aria-roledescription="(?:bar|line mark|point|symbol mark)[^"]*"', chart))
        assert marks > 0, title


def test_the_page_is_kept_and_needs_a_project(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    PAGE.write_text("mine {plot_divs}")
    write_plots_page()
    assert PAGE.read_text() == "mine {plot_divs}"
    PAGE.unlink()
    monkeypatch.chdir(tmp_path)
    write_plots_page()
    assert list(tmp_path.iterdir()) == []
