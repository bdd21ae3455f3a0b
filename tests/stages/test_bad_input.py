"""Mistakes at the keyboard: one message that says what to do, exit status 1, earlier results untouched."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from imports import ROOT


def test_a_corpus_shorter_than_a_block(project, refuse):
    message = r"train\.bin of .*own\.txt has \d+ tokens.*model\.block_size = 5000.*smaller model\.block_size"
    settings = Path("params.yaml").read_text()
    Path("params.yaml").write_text(settings.replace("block_size: 256  ", "block_size: 5000 ", 1))
    assert re.search(message, refuse("pretrain", ""))


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("prepare", "--path missing.txt --out new", r"missing\.txt: no such file or folder; set data\.<role>\.path"),
        ("sample", "--checkpoint models/pretrain --prompt ünd", "ü"),
        ("sample", "--checkpoint models/pretrain --temperature -1", r"--temperature -1\.0: .*choose 0 \(greedy\)"),
        ("sample", "--checkpoint models/nothing", r"config\.json"),
        ("sample", "--checkpoint models/pretrain --prompt=", "--prompt '': it is empty"),
        ("benchmark", "--what plan --out x.json", "--out is not of --what plan"),
        ("benchmark", "--what plan --dtype float32", "--dtype is not of --what plan"),
        ("evaluate", "--checkpoint models/nothing", "models/nothing is not a model folder"),
        ("evaluate", "--checkpoint models/pretrain --text missing.txt", r"missing\.txt: no such file or folder"),
        ("evaluate", "--checkpoint models/lora --checkpoint models/lora", "models/lora is given twice"),
        ("report", "--metrics nowhere --out out/r.html", r"nowhere/evaluate\.json does not exist.*`dvc repro`"),
        ("picture", "--metrics nowhere --out out/r.svg", r"nowhere/pretrain\.json does not exist.*`dvc repro`"),
        ("merge", "--lora-checkpoint models/nothing --output-dir new", r"adapter_config\.json"),
    ],
)
def test_wrong_flags(refuse, script, flags, message):
    assert re.search(message, refuse(script, flags))


def test_outside_the_project_as_it_is_called(project):
    os.unlink("params.yaml")
    done = subprocess.run([sys.executable, "-m", "stages.pretrain"], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"error: params.yaml does not exist; run from the project's folder.*\n", done.stderr)


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "stages").glob("[!_]*.py")))
def test_help_imports_no_library_that_takes_long(script):
    code = f"import sys; sys.argv[1:] = ['--help']; from stages import {script}\ntry: {script}.main()\n"
    code += "except SystemExit: print({'torch', 'numpy', 'pandas', 'ruamel.yaml'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("usage: ") and done.stdout.endswith("\nset()\n"), done
