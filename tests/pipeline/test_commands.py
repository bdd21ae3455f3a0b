"""The commands of README and docs do what they say: each is run here, in a small project, or by a test named here."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clone import SMALL
from commands import PAGES, shown
from foreign_models import gpt_neox, save_foreign
from imports import ROOT
from small_project import Project

pytestmark = pytest.mark.slow

# (pattern, replacement): the same command with less to do
SHORTER = [
    (r"--max-steps 300", "--max-steps 3"),
    (r"--num-samples 3", "--num-samples 1"),
    (r"(models/\w+ --prompt .*|--prompt-file prompts.txt)", r"\1 --max-tokens 4"),
    (r"--path your/text .* --megabytes 1000", "--path notes.txt --kind byte --megabytes 1"),
    (r"--path TEXT", "--path notes.txt"),
]
# Commands that are not run here, and where they are, or why nowhere.
ELSEWHERE = {
    r"make (repro|test|quick|lint)": ".ci/run",
    r"make (torture|docs)": "their parts are tests/pipeline/test_crashes.py, test_docs.py",
    r"python tests/support/(torture|mutations|mutate)\.py.*": "the same, and tests/pipeline/test_mutations.py",
    r"(pip|git|docker) .*": "other programs",
    r"dvc .*": "tests/pipeline: test_pipeline.py, test_experiments.py, test_crashes.py, test_equal_time.py",
    r"torchrun .*": "tests/training: test_several_processes.py, test_process_faults.py",
    r"tensorboard .*": "tests/training/test_run_log.py reads its files",
    r"nanogpt .*": "tests/stages/test_command.py",
    r".*stages\.ablation .*": "tests/pipeline/test_equal_time.py",
    r".*stages\.shakespeare .*": "tests/research/test_shakespeare_time.py",
    r".*stages\.recipe .*": "tests/pipeline/test_recipe.py",
    r".*stages\.serve.*": "tests/inference/test_serve_process.py",
    r".*stages\.seeds .*": "tests/evaluation/test_seeds.py",
    r".*stages\.report .*": "tests/pipeline/test_experiments.py",
    r".*stages\.watch.*": "tests/stages/test_watch_stage.py",
    r".*stages\.scaling .*": "tests/training: test_several_processes.py, test_process_faults.py; minutes each",
    r".*stages\.(research|finetuning|decoding).*": "tests/research; minutes each",
    r".*stages\.benchmark.*": "tests/pipeline/test_pipeline.py, tests/benchmark",
    r".* --shards-only": "tests/data/prepare/test_shards.py",
    r".* --harness .*": "tests/evaluation/test_harness.py",
    r".*(…|NAME|PATH).*": "no whole command",
}


PIPELINE = ["check", "prepare", "pretrain", "lora_finetune", "merge"]
OTHER = "convert --checkpoint models/merged --out out/other"


@pytest.fixture
def project(tmp_path) -> Path:
    """Settings, and the files that the pages speak of."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    Project(tmp_path).set(**SMALL | {"model.n_embd": 32})
    (tmp_path / "data/own/model").mkdir(parents=True)
    text = "\n\n".join(f"In the {i}th year the ship of {i % 7} masts went home over a calm sea." for i in range(150))
    for name in ("book.txt", "notes.txt", "my.txt"):
        (tmp_path / name).write_text(text)
    chats = [{"prompt": f"What is {i} and 1?", "completion": f"It is {i + 1}."} for i in range(300)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    (tmp_path / "prompts.txt").write_text("Once\nWe study\n")
    save_foreign(tmp_path / "gpt2", gpt_neox())
    return tmp_path


def test_every_command_is_run_here_or_elsewhere():
    commands = [command for page in PAGES for command in shown(page)]
    for pattern in ELSEWHERE:
        assert any(re.fullmatch(pattern, command) for command in commands), f"no page has {pattern}"
    for pattern, _ in SHORTER:
        assert any(re.search(pattern, command) for command in commands), f"no page has {pattern}"
    named = [name for where in ELSEWHERE.values() for name in re.findall(r"\w+\.py", where)]
    assert named and all(any((ROOT / "tests").rglob(name)) for name in named)
    assert all(command.startswith("python -m stages.") for command in commands if not _elsewhere(command))


def test_the_commands_of_the_pages(project):
    """In their order, as a reader would."""
    commands = list(dict.fromkeys(command for page in PAGES for command in shown(page) if not _elsewhere(command)))
    jobs = [*PIPELINE, OTHER, *(_shorter(command).removeprefix("python -m stages.") for command in commands)]
    runner = [sys.executable, ROOT / "tests/support/run_commands.py", project]
    done = subprocess.run(runner, input=json.dumps(jobs), capture_output=True, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(jobs), done.stderr
    failed = {command: err for command, (status, _, err) in zip(jobs, results, strict=True) if status}
    assert not failed, "\n".join(f"{command}\n    {err}" for command, err in failed.items())


def _elsewhere(command: str) -> bool:
    return any(re.fullmatch(pattern, command) for pattern in ELSEWHERE)


def _shorter(command: str) -> str:
    for pattern, replacement in SHORTER:
        command = re.sub(pattern, replacement, command)
    return re.sub(r" > \S+$", "", command)
