import re
import subprocess
import sys
import tomllib
from importlib import import_module

import pytest
from imports import ROOT
from small_project import Project
from stage_help import SCRIPTS

from nanogpt.runtime.cli import Flags
from nanogpt.runtime.process import OPTIONAL
from stages import __main__ as command


def test_the_installed_command_is_this_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["nanogpt"].partition(":")
    assert getattr(import_module(module), function) is command.main


def test_the_extras_are_the_files_of_requirements():
    """And requirements.txt installs all of them but lm_eval, as one file of pinned versions."""
    dynamic = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    files = {name: spec["file"] for name, spec in dynamic["optional-dependencies"].items()}
    assert files == {name: [f"requirements/{name}.txt"] for name in files}
    assert {path.stem for path in (ROOT / "requirements").iterdir()} == {"core", *files}
    assert dynamic["dependencies"]["file"] == ["requirements/core.txt"]
    included = re.findall(r"^-r requirements/(.*)\.txt$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert {*included, "lm-eval"} == {"core", *files}
    pins = [line for path in (ROOT / "requirements").iterdir() for line in path.read_text().splitlines()]
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", line) for line in pins) and len(pins) == len(set(pins))


NEEDED = {  # by package: what needs it, and what imports it
    "gguf": ("convert --checkpoint models/pretrain --format gguf --out out.gguf", "nanogpt.checkpoint.gguf_file"),
    "lm_eval": ("evaluate --checkpoint models/pretrain --text own.txt --harness blimp", "nanogpt.evaluation.harness"),
    "starlette": ("serve --checkpoint models/pretrain", "nanogpt.inference.server"),
    "tensorboard": ("pretrain --max-steps 3 --out models/own", "torch.utils.tensorboard"),
    "uvicorn": ("serve --checkpoint models/pretrain", "nanogpt.inference.server"),
}


@pytest.mark.parametrize("package", sorted(OPTIONAL))
def test_a_package_that_is_not_installed(package, project, run_stage, monkeypatch):
    """Each feature as on a machine with the core alone."""
    command, module = NEEDED[package]
    small = {"model.n_layer": 1, "model.n_head": 2, "model.n_embd": 16, "model.block_size": 16}
    Project(project).set(**small | {"train.tensorboard": True, "train.compile": "off"})
    for name in [name for name in sys.modules if name == module or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)  # that another test has imported
    monkeypatch.setitem(sys.modules, package, None)
    install = f"pip install -r requirements/{OPTIONAL[package]}.txt"
    assert run_stage(*command.split()) == f"error: this needs the package {package}, which is not installed: {install}"
    assert f"{package}==" in (ROOT / "requirements" / f"{OPTIONAL[package]}.txt").read_text()


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
