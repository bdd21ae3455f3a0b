"""The steps of the Dockerfile, without Docker: as a shell runs them on a copy of the tree, with no environment yet."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from imports import ROOT

pytestmark = pytest.mark.slow


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line]


def test_its_steps_lead_to_a_pipeline_that_runs(tmp_path):
    folder, programs = tmp_path / "nanogpt", tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys._base_executable)
    path = [entry for entry in os.environ["PATH"].split(os.pathsep) if not entry.startswith(sys.prefix)]
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env["PATH"] = os.pathsep.join([str(programs), *path])
    cwd, kinds = Path("/"), []
    for kind, rest in instructions():
        kinds.append(kind)
        if kind == "FROM":
            assert re.fullmatch(r"python:3\.1[123]-slim", rest)
        elif kind == "WORKDIR":
            cwd = folder
            cwd.mkdir()
        elif kind == "COPY":
            assert rest == ". ."
            listed = subprocess.run(
                ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
            )
            for name in filter(None, listed.stdout.decode().split("\0")):
                if (ROOT / name).is_file():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / name, folder / name)
            subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        elif kind == "ARG":
            name, _, value = rest.partition("=")
            env[name] = value.strip('"')
        elif kind == "RUN" and rest.startswith("apt-get update"):
            packages = re.search(r"install --yes --no-install-recommends ([\w+ -]+) &&", rest)[1].split()
            assert all(shutil.which(package, path=env["PATH"]) for package in packages)  # each is named as its program
        elif kind == "RUN":
            done = subprocess.run(["sh", "-c", rest], cwd=cwd, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            assert kind == "CMD"
            command = [*json.loads(rest), "TARGET=check"]
            done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
            assert done.returncode == 0 and (folder / "data" / "checked").exists(), done.stdout + done.stderr
    assert kinds == ["FROM", "RUN", "WORKDIR", "COPY", "ARG", "RUN", "RUN", "CMD"]
    shutil.rmtree(folder)  # pytest would keep it


def test_no_cache_and_no_secret_is_copied():
    ignored = set((ROOT / ".dockerignore").read_text().splitlines())
    private = {f".dvc{line}" for line in (ROOT / ".dvc/.gitignore").read_text().splitlines()}
    assert private | {".venv", ".work", "models"} <= ignored
