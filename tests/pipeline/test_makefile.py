"""`make` where Python is missing or of a version that the requirements do not support."""

import shutil
import subprocess

import pytest
from imports import ROOT


@pytest.mark.parametrize("python", ["", "exit 1"], ids=["missing", "3.14"])
def test_make_says_which_versions_do(tmp_path, python):
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    other = tmp_path / "python3.14"  # what the version check of the Makefile runs
    other.write_text(f"#!/bin/sh\n{python}\n")
    other.chmod(0o755 if python else 0o644)
    done = subprocess.run(["make", "install", f"PYTHON={other}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "error: Python 3.11, 3.12 or 3.13 is needed" in done.stdout
    assert not (tmp_path / ".venv").exists()
