import subprocess
import sys
import tomllib
from importlib import import_module

import pytest
from imports import ROOT
from stage_help import SCRIPTS

from nanogpt.runtime.cli import Flags
from stages import __main__ as command


def test_the_installed_command_is_this_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["nanogpt"].partition(":")
    assert getattr(import_module(module), function) is command.main


@pytest.mark.parametrize("name", ["lora_finetune", "lora-finetune"])
def test_a_script_gets_its_flags(name, project, monkeypatch):
    seen = []
    monkeypatch.setattr(Flags, "parse_args", lambda self: seen.append((self.prog, sys.argv[1:])) or sys.exit(0))
    monkeypatch.setattr(sys, "argv", ["nanogpt", name, "--max-steps", "3"])
    with pytest.raises(SystemExit):
        command.main()
    assert seen == [("python -m stages.lora_finetune", ["--max-steps", "3"])]


def test_the_list_and_a_wrong_name():
    listed = subprocess.run([sys.executable, "-m", "stages"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in listed.stdout.splitlines()[2:]] == SCRIPTS
    wrong = subprocess.run([sys.executable, "-m", "stages", "smaple"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr.startswith(
        "error: there is no script smaple; choose one of ablation, "
    )
