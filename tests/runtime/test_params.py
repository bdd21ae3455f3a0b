import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from imports import ROOT

from nanogpt.pipeline.sections import SECTIONS
from nanogpt.runtime import params
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.yaml_file import find_value
from nanogpt.training.settings import TrainSettings

FILE = ROOT / "params.yaml"
DELETED = "(deleted)"


def load_all(path: Path, **sections: type):
    with params.read_document(path) as document:
        return params.convert_document(document, sections)


def line_of(lines: list[str], key: str) -> int:
    """Index of a dotted key's line, found by its indentation."""
    start = 0
    for depth, part in enumerate(key.split(".")):
        start = next(i for i in range(start, len(lines)) if lines[i].startswith("  " * depth + part + ":"))
    return start


def changed(folder: Path, **edits: str) -> tuple[Path, list[str]]:
    """params.yaml with some keys (dots as __) set to other YAML, deleted, or replaced by a whole `name: x`."""
    lines = FILE.read_text().splitlines()
    for key, value in edits.items():
        index = line_of(lines, key.replace("__", "."))
        head = re.match(r" *", lines[index]).group()
        name = key.rpartition("__")[2]
        lines[index : index + 1] = [] if value == DELETED else [head + (value if ":" in value else f"{name}: {value}")]
    path = folder / "params.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path, lines


def complaint(path: Path, **sections: type) -> str:
    with pytest.raises(UserError) as caught:
        load_all(path, **sections or SECTIONS)
    assert type(caught.value) is UserError
    return str(caught.value)


def test_the_real_file_loads():
    everything = load_all(FILE, **SECTIONS)
    assert set(vars(everything)) == set(SECTIONS)
    # by hand, from the file's text
    lines = FILE.read_text().splitlines()
    for key, value in (
        ("seed", everything.seed),
        ("train.lr", everything.train.lr),
        ("data.finetune.num_samples", everything.data.finetune.num_samples),
    ):
        assert float(lines[line_of(lines, key)].split(":")[1].split("#")[0]) == value


def test_a_stage_takes_only_what_it_uses(tmp_path):
    path, _ = changed(tmp_path, model__n_embd="wide")
    assert vars(params.load(path, seed=int, train=TrainSettings)).keys() == {"seed", "train"}


MISTAKES = [
    # edits, key complained of, value shown, reason, remedy
    ({"model__dropout": "dropuot: 0.0"}, "model.dropuot", "0.0", "unknown key", r"did you mean dropout\?"),
    ({"train__lr": "zzz: [1]"}, "train.zzz", r"\[1\]", "unknown key", r"known here: max_steps, .*, timeout_s"),
    ({"train__lr": DELETED}, "train.lr", "None", "this key is missing", "add it; .*"),
    # whole numbers
    ({"train__max_steps": '"100"'}, "train.max_steps", "'100'", "this is text, not a number", "write it without q.*"),
    ({"train__max_steps": "1e3"}, "train.max_steps", "1000.0", "not a whole number", "write one, like 100"),
    ({"train__max_steps": "&t true"}, "train.max_steps", "True", "not a whole number", "write one, like 100"),
    ({"seed": "-1"}, "seed", "-1", "not between 0 and 4294967295", "choose .*"),
    # numbers
    ({"train__lr": '"1e-05"'}, "train.lr", "'1e-05'", "this is text, not a number", "write it without quotes, .*"),
    ({"train__lr": ".inf"}, "train.lr", "inf", "not a finite number", "write an ordinary number"),
    # the other types
    ({"model__tie_embeddings": "yes"}, "model.tie_embeddings", "'yes'", "not true or false", "write true or false"),
    ({"data__pretrain__path": "3"}, "data.pretrain.path", "3", "not text", "put it in quotes"),
    ({"train__threads": "all"}, "train.threads", "'all'", ".*not a number", "write it without .* or choose auto"),
    ({"train__threads": "0"}, "train.threads", "0", "not between 1 and 4096", "choose auto or .*"),
    ({"sample__prompts": "hello"}, "sample.prompts", "'hello'", "not a list", r"write it as \[one, another\]"),
    ({"sample__prompts": "[one, 2]"}, r"sample.prompts\[1\]", "2", "not text", "put it in quotes"),
    ({"lora__target_modules": "x"}, "lora.target_modules", "'x'", ".*choices", r"choose all-linear \| all, or .*"),
    ({"lora__target_modules": "[]"}, "lora.target_modules", r"\[\]", "names no module", "write all-linear"),
    # right types, wrong values
    ({"model__n_head": "4", "model__n_embd": "190"}, "model.n_embd", "190", "4 heads do not divide it", "try 192"),
    ({"model__n_head": "4", "model__n_kv_head": "3"}, "model.n_kv_head", "3", "it does not .* 4 h.*", r".*\[1, 2, 4\]"),
    ({"model__dropout": "1"}, "model.dropout", "1.0", "not a probability below 1", "choose .*"),
    ({"train__warmup_steps": "-1"}, "train.warmup_steps", "-1", "not between 0 .*", "a twentieth .*"),
    ({"train__lr": "0"}, "train.lr", "0.0", "not between 0 and 1", "choose .*"),
    ({"train__lr": "0.001", "train__min_lr": "0.01"}, "train.min_lr", "0.01", "not .* lr = 0.001", "choose 0, .*"),
    ({"train__min_lr": "-0.1"}, "train.min_lr", "-0.1", "not between 0 .*", "choose 0, .*"),
    ({"train__max_steps": "5", "train__warmup_steps": "5"}, "train.warmup_steps", "5", "not .* max_steps = 5", "a .*"),
    ({"train__max_minutes": "0"}, "train.max_minutes", "0.0", "must be above 0", "choose .*"),
    ({"train__patience": "0"}, "train.patience", "0", "must be at least 1", "choose .*"),
    ({"train__beta1": "-0.1"}, "train.beta1", "-0.1", "not between 0 and 1", ".* usual"),
    ({"train__beta2": "1.0"}, "train.beta2", "1.0", "not between 0 and 1", ".* usual"),
    ({"train__grad_clip": "0"}, "train.grad_clip", "0.0", "must be above 0", ".*"),
    ({"train__weight_decay": "-0.1"}, "train.weight_decay", "-0.1", "is negative", "choose .*"),
    ({"lora__alpha": "0"}, "lora.alpha", "0.0", "must be above 0", ".*"),
    ({"lora__lr": "0.001", "lora__min_lr": "0.01"}, "lora.min_lr", "0.01", "not .* lr = 0.001", "choose 0, .*"),
    ({"sample__prompts": "[]"}, "sample.prompts", r"\[\]", "names no prompt", "write .*"),
    ({"benchmark__num_iters": "0"}, "benchmark.num_iters", "0", "must be at least 1", "choose .*"),
    ({"benchmark__n_embd": "33"}, "benchmark.n_embd", "33", "5 heads do not divide it", "try .*"),
    ({"tokenizer__kind": "bpe", "tokenizer__vocab_size": "9"}, "tokenizer.vocab_size", "9", "bpe needs 257 .*", "ch.*"),
]


@pytest.mark.parametrize(
    ("edits", "key", "value", "reason", "remedy"), MISTAKES, ids=[f"{case[1]}={case[2]}" for case in MISTAKES]
)
def test_a_mistake_is_one_message_with_its_line(tmp_path, edits, key, value, reason, remedy):
    path, lines = changed(tmp_path, **edits)
    plain = re.sub(r"\\\[.*", "", key)
    there = plain if edits[list(edits)[-1]] != DELETED else plain.rpartition(".")[0]  # missing: where its section is
    pattern = rf"{re.escape(str(path))}, line {line_of(lines, there) + 1}: {key} = {value}: {reason}; {remedy}"
    message = complaint(path)
    assert re.fullmatch(pattern, message), message


@dataclass(frozen=True)
class Floats:
    x: float


NO_SETTINGS = {
    "no name": (b"a: {x: 1}\n? [a, b]\n: x\n", ".*unknown key"),
    "missing": (b"", " holds no settings; "),
    "a list": (b"- 1\n", " holds no settings; "),
    "no section": (b"b: 1\n", ", line 1: b = 1: unknown key; "),
    "a value": (b"# first\na: 5\n", ", line 2: a = 5: not a section; it needs the keys x"),
    "open bracket": (b"a: [1\n", r", line \d: not valid YAML \(.+\)"),
    "given twice": (b"a: 1\na: 2\n", r", line \d: not valid YAML \(.+\)"),
    "no UTF-8": (b"a: \xff\n", r": not valid YAML \(.+\)"),
    "no date": (b"a: 2021-02-31\n", r": not valid YAML \(.+\)"),
}


@pytest.mark.parametrize(("content", "message"), NO_SETTINGS.values(), ids=NO_SETTINGS)
def test_a_file_that_does_not_hold_the_section(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert re.match(re.escape(str(path)) + message, complaint(path, a=Floats))


def test_a_missing_file_and_a_missing_section(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^params\.yaml does not exist; run from the project's folder"):
        params.load(seed=int)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"^params\.yaml: train = None: this key is missing; "):
        params.load(seed=int, train=TrainSettings)


@dataclass(frozen=True)
class Several:
    choice: Literal["on", "off"] | None
    flag: bool
    count: int | Literal["auto"]
    words: Literal["all"] | list[str]
    text: str
    number: float


def test_every_kind_arrives_as_its_plain_type(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: {choice: on, flag: &f false, count: 010, words: [x, 'y'], text: 'null', number: 1e-05}\n")
    assert params.load(path, a=Several).a == Several("on", False, 10, ["x", "y"], "null", 0.00001)
    path.write_text("a: {choice: null, flag: true, count: auto, words: all, number: 3, text: two\n  lines}\n")
    found = params.load(path, a=Several).a
    assert found == Several(None, True, "auto", "all", "two lines", 3.0)
    assert [type(value) for value in vars(found).values()] == [type(None), bool, str, str, str, float]


def test_a_mistake_behind_a_merge_key(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("b: &b {x: fast}\na:\n  <<: *b\n")
    with pytest.raises(UserError, match=r"line 2: a\.x = 'fast': this is text"):
        params.load(path, a=Floats)


END = """
from pathlib import Path
from nanogpt.runtime import params, process
def main():
    params.load(seed=int)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace({old!r}, {new!r}))
    print("done")
process.run_stage(main)
"""


@pytest.mark.slow
def test_the_settings_are_those_that_dvc_records(monkeypatch):
    import dvc.api

    monkeypatch.chdir(ROOT)
    for stage in ("prepare@finetune", "pretrain"):
        shown, recorded = dvc.api.params_show(stages=stage), params.recorded_values(stage)
        assert {key: find_value(shown, key) for key in recorded} == recorded
        assert shown.keys() == {key.partition(".")[0] for key in recorded}


@pytest.mark.parametrize(
    ("stage", "old", "new", "key"),
    [
        ("pretrain", "grad_accum: 1", "grad_accum: 2", "train.grad_accum"),
        ("pretrain", "checkpoint_every: 2m", "checkpoint_every: 3m", ""),  # which changes no result
        (None, "\nseed: 1", "\nseed: 2", ""),
    ],
)
def test_a_change_while_a_stage_runs_is_an_error_at_its_end(tmp_path, monkeypatch, stage, old, new, key):
    """DVC would record the settings as they are then, and take the result for theirs."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    assert old in (tmp_path / "params.yaml").read_text()
    monkeypatch.setenv("DVC_STAGE", stage) if stage else monkeypatch.delenv("DVC_STAGE", raising=False)
    code = END.format(old=old, new=new)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "done\n"
    assert done.returncode == bool(key)
    assert done.stderr.startswith(f"error: params.yaml: {key} changed while this stage ran") if key else not done.stderr
