"""README and docs: their links, commands, flags, settings, and the figures that they take from metrics."""

import json
import math
import re
from functools import cache

import pytest
from commands import PAGES, of_scripts
from imports import ROOT
from ruamel.yaml import YAML
from stage_help import PAGE, SCRIPTS, page, parser_of

from nanogpt.report.charts import write_curves

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
PLACEHOLDER = re.compile(r"…|\bNAME\b")


@cache
def flags(script: str) -> dict[str, bool]:
    """The flags of a script, and whether each takes a value."""
    return {name: action.nargs != 0 for action in parser_of(script)._actions for name in action.option_strings}


def keys(value: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, item in value.items():
        found |= {prefix + key} | (keys(item, f"{prefix}{key}.") if isinstance(item, dict) else set())
    return found


PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
KEYS = keys(PARAMS)


def test_the_readme_is_short_and_has_a_picture():
    text = PAGES[0].read_text("utf-8")
    assert len(text.splitlines()) <= 150 and re.search(r"!\[.+\]\(docs/\w+\.svg\)", text)


@each_page
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if not target.startswith("http"):
            file, _, heading = target.partition("#")
            found = (path.parent / file).resolve() if file else path
            assert found.exists(), target
            titles = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.MULTILINE) if heading else [""]
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@each_page
def test_commands_name_scripts_and_flags_that_are_there(path):
    for script, *words in of_scripts(path):
        name = script.removeprefix("stages.")
        if PLACEHOLDER.search(name):
            continue
        assert name in SCRIPTS, script
        for word in words:
            if word.startswith("--") and not PLACEHOLDER.search(word):
                assert word.partition("=")[0] in flags(name), f"{script} {word}"


@each_page
def test_settings_are_keys_of_params_yaml(path):
    sections = "|".join(key for key, value in PARAMS.items() if isinstance(value, dict))
    named = re.findall(rf"`((?:{sections})\.[a-z_][a-z_.]*)", path.read_text("utf-8"))
    files = re.compile(r"\.(bin|py|safetensors|json|csv|md|pt|yaml|gguf|svg|jsonl)$")
    assert {name for name in named if not files.search(name)} <= KEYS | {f"{key}." for key in KEYS}


def test_stages_md_lists_every_flag():
    assert PAGE.read_text("utf-8") == page(), "run `make docs`"


def test_the_picture_is_of_the_committed_figures(tmp_path):
    write_curves(ROOT / "metrics", tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_bytes() == (ROOT / "docs" / "curves.svg").read_bytes(), "run `make docs`"


def test_the_readmes_figures_are_those_of_the_committed_metrics():
    text = PAGES[0].read_text("utf-8")
    figures = json.loads((ROOT / "metrics" / "evaluate.json").read_text())
    for domain, title in (("pretrain", "stories"), ("finetune", "abstracts")):
        assert f"{title} (floor {figures['grammar'][domain]['bpb']:.3f})" in text
    for model in ("pretrained", "adapted"):
        row = " | ".join(f"{figures[model][domain]['bpb']:.3f}" for domain in ("pretrain", "finetune"))
        assert f"| {model} | {row} |" in text


def test_curves_in_bits_per_byte(tmp_path):
    """Of a run whose loss halves a byte's bits: the line's points lie where the axis says."""
    for run, token_bytes in (("pretrain", 2), ("lora-finetune", 4)):
        figures = {"val": {"loss_nats": math.log(2) * token_bytes * 1.5, "bpb": 1.5}}
        figures |= {"floor": {"bpb": 0.5}} if run == "pretrain" else {}
        (tmp_path / f"{run}.json").write_text(json.dumps(figures))
        (tmp_path / f"{run}-val.csv").write_text("step,val_loss\n0,5.545177\n10,2.772589\n")  # 8 and 4 bits a token
    write_curves(tmp_path, tmp_path / "curves.svg")
    svg = (tmp_path / "curves.svg").read_text()
    labels = re.findall(r'aria-label="step: (\d+); bits per byte: ([\d.]+); run: ([\w-]+)"', svg)
    assert {(int(s), round(float(b), 4), r) for s, b, r in labels} >= {
        (0, 4.0, "pretraining"), (10, 2.0, "pretraining"), (0, 2.0, "fine-tuning"), (10, 1.0, "fine-tuning"),
    }  # fmt: skip
    assert len(re.findall(r'stroke-dasharray="5,4"', svg)) == 1  # the floor that is known
