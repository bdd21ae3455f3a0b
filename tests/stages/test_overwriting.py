"""No script replaces what is not its own: files and folders of others, named as its output, stay byte for byte."""

import json
import shutil
from pathlib import Path

import pytest

FOLDER_SCRIPTS = {  # flags, what a folder of the script's kind holds, one of its inputs
    "prepare": ("--path own.txt --num-samples 30 --out", "data/finetune", "own.txt"),
    "pretrain": ("--max-steps 200 --out", "models/pretrain", "data/pretrain"),
    "lora_finetune": ("--max-steps 200 --out", "models/lora", "models/pretrain"),
    "merge": ("--output-dir", "models/pretrain", "models/pretrain"),
    "convert": ("--checkpoint models/pretrain --out", "models/pretrain", "models/pretrain"),
}
FILE_SCRIPTS = {
    "pretrain": "--max-steps 200 --out NAME.pt",
    "merge": "--output-dir NAME.pt",
    "convert": "--checkpoint models/pretrain --out NAME.pt",
    "sample": "--out NAME.md",
    "evaluate": "--out NAME.md",
    "seeds": "--seeds 2 --out NAME.md",
    "prepare_speed": "--path own.txt --out NAME.json",
    "benchmark": "--out NAME.json",
    "research": "--out NAME.json",
}


@pytest.mark.parametrize("script", FOLDER_SCRIPTS)
def test_folders(script, project, refuse):
    flags, kind, source = FOLDER_SCRIPTS[script]
    marker = {"data/finetune": "manifest.json", "models/lora": "adapter_config.json"}.get(kind, "config.json")
    # a folder of somebody else's of the same kind
    Path("theirs").mkdir()
    Path("theirs", marker).write_text(json.dumps({"model_type": "gpt2"}))
    Path("theirs", "vocab.json").write_text("{}")
    assert "theirs is not as this project wrote it" in refuse(script, f"{flags} theirs --overwrite")
    # one of ours with a file of the user's
    shutil.copytree(kind, "ours")
    assert "ours exists; add --overwrite" in refuse(script, f"{flags} ours")
    Path("ours", "notes.txt").write_text("mine")
    assert "notes.txt" in refuse(script, f"{flags} ours --overwrite")
    # another kind, an input, a folder that holds one
    assert "choose another name" in refuse(script, f"{flags} data --overwrite")
    assert "which this command reads" in refuse(script, f"{flags} {source} --overwrite")
    Path("link").symlink_to(source)
    assert "which this command reads" in refuse(script, f"{flags} link --overwrite")
    assert "/proc/x cannot be written" in refuse(script, f"{flags} /proc/x")


@pytest.mark.parametrize("script", FILE_SCRIPTS)
def test_files(script, project, refuse):
    flags = FILE_SCRIPTS[script]
    name = flags.split()[-1].replace("NAME", "theirs")
    Path(name).write_text("theirs")
    assert f"{name} exists; add --overwrite" in refuse(script, flags.replace("NAME", "theirs"))
    Path(name).unlink()
    Path(name).mkdir()
    assert "not a regular file" in refuse(script, f"{flags.replace('NAME', 'theirs')} --overwrite")


@pytest.mark.parametrize(
    ("script", "flags", "theirs"),
    [
        ("pretrain", "--max-steps 200 --out new", "new/pretrain-train.csv"),
        ("pretrain", "--max-steps 200 --out new.pt", "new/pretrain.json"),
        ("lora_finetune", "--max-steps 200 --out new", "new/lora-finetune-machine.json"),
        ("merge", "--output-dir new", "new.merge.json"),
        ("sample", "--out new.md", "new.json"),
        ("seeds", "--seeds 2 --out new.md", "new.json"),
    ],
)
def test_figures_beside_an_output(script, flags, theirs, refuse):
    Path(theirs).parent.mkdir(exist_ok=True)
    Path(theirs).write_text("theirs")
    assert f"{theirs} exists" in refuse(script, flags) or "holds other things" in refuse(script, flags)


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("merge", "--overwrite", "--overwrite is for --output-dir"),
        ("sample", "--overwrite", "--overwrite is for --out"),
        ("prepare", "--source stories --path own.txt --out new", "--path is for the source files, not for stories"),
        ("prepare", "--no-strict --out new", "--strict is for the source files, not for stories"),
        ("merge", "--output-dir m.pt --format safetensors", "--format is for a folder"),
        ("convert", "--checkpoint models/pretrain --out m.pt --format pt", "--format is for a folder"),
        ("sample", "--interactive --prompt once", "leave --prompt, --prompt-file and --json out"),
        ("sample", "--checkpoint models/pretrain --also models/lora", "are for one"),
        ("sample", "--checkpoint models/pretrain --base-checkpoint models/pretrain", "are for one"),
    ],
)
def test_flags_that_nothing_would_read_or_that_lack_an_output(script, flags, message, refuse):
    assert message in refuse(script, flags)


def test_flags_without_an_output_write_to_a_place_of_their_own(project, run_stage, refuse):
    before = Path("data/pretrain/manifest.json").read_bytes()
    assert not run_stage("prepare", "--path", "own.txt", "--role", "pretrain")
    assert Path("out/prepare/train.bin").is_file() and Path("data/pretrain/manifest.json").read_bytes() == before
    assert "out/prepare exists; add --overwrite" in refuse("prepare", "--path own.txt --role pretrain")


def test_one_model_is_sampled_with_its_adapter_and_for_prompts_of_the_terminal(project, run_stage, capsys, monkeypatch):
    def sample(*flags) -> str:
        words = ["--checkpoint", "models/pretrain", "--temperature", "0", "--max-tokens", "20"]
        assert not run_stage("sample", *words, "--num-samples", "1", *flags)
        return capsys.readouterr().out

    once = sample("--prompt", "once")
    assert once != sample("--prompt", "once", "--lora-checkpoint", "models/lora")
    typed = iter(["once", "", "never"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert sample("--interactive") == once
