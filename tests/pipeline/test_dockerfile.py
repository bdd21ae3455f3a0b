"""What the Dockerfile copies and runs; .ci/run takes its steps on a clean clone, without Docker."""

import re
import shutil

from imports import ROOT

STEPS = re.findall(r"^([A-Z]+) (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_its_steps_are_lines_that_ci_can_take():
    assert [kind for kind, _ in STEPS] == ["FROM", "RUN", "WORKDIR", "COPY", "ARG", "RUN", "RUN", "CMD"]
    assert not any(text.endswith("\\") for _, text in STEPS)
    assert re.fullmatch(r"python:3\.1[123]-slim", STEPS[0][1])
    assert "sed -n 's/^RUN //p' Dockerfile | grep -v '^apt-get '" in (ROOT / ".ci/run").read_text()


def test_its_packages_are_what_this_machine_works_with():
    packages = re.search(r"^apt-get update && apt-get install --yes --no-install-recommends ([\w+ -]+) &&", STEPS[1][1])
    assert all(shutil.which(package) for package in packages[1].split())  # each is named as its program


def test_no_cache_and_no_secret_is_copied():
    ignored = set((ROOT / ".dockerignore").read_text().splitlines())
    private = {f".dvc{line}" for line in (ROOT / ".dvc/.gitignore").read_text().splitlines()}
    assert private | {".venv", ".work", "models"} <= ignored
