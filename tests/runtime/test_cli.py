import argparse
import sys
from dataclasses import dataclass, replace

import pytest

from nanogpt.runtime.cli import Flags, override, parse_seed
from nanogpt.runtime.errors import BadSetting, UserError


@dataclass(frozen=True)
class Settings:
    max_steps: int
    warmup_steps: int
    top_k: int | None
    prompts: list[str]
    max_minutes: float | None = None

    def __post_init__(self):
        if self.max_steps < 1:
            raise BadSetting("max_steps", self.max_steps, "must be at least 1", "choose a positive whole number")
        if self.warmup_steps >= self.max_steps:
            raise BadSetting("warmup_steps", self.warmup_steps, f"not below {self.max_steps}", "choose less")


SETTINGS = Settings(100, 10, None, ["a", "b"])


def parse(*args: str) -> argparse.Namespace:
    flags = Flags("A stage.")
    flags.add_length("train")
    flags.add_argument("--top-k", type=int)
    flags.add_argument("--prompt", action="append", dest="prompts")
    flags.add_argument("--seed", type=parse_seed)
    flags.add_argument("--arch", choices=["base", "optimized"])
    return flags.parse_args(list(args))


def test_dashes_and_underscores_are_alike_and_the_text_of_a_prompt_stays():
    for args in (["--max-steps", "5"], ["--max_steps", "5"], ["--max-steps=5"], ["--max_steps=5"]):
        assert parse(*args).max_steps == 5
    for text in ("--max_steps is a flag", "--a_b=c d", ""):
        assert parse("--prompt", text, "--max_steps", "5").prompts == [text]
    for text in ("--max_steps", "--max_steps=5", "-h"):
        assert parse(f"--prompt={text}").prompts == [text]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--no_such", "1"], "--no_such"),
        (["--max-steps", "5", "--max-minutes", "5"], "--max-minutes: not allowed with argument --max-steps"),
        (["--max"], "--max"),  # no abbreviations
        (["--max-steps", "many"], "--max-steps: invalid int value: 'many'"),
        (["--seed", "-5"], "--seed: -5 is not between 0 and 4294967295"),
        (["--seed=4294967296"], "--seed: 4294967296 is not between"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_flag_ends_with_1_and_one_line(args, named):
    with pytest.raises(SystemExit) as end:
        parse(*args)
    # what sys.exit does with a text: to stderr, and status 1
    assert isinstance(end.value.code, str)
    assert end.value.code.startswith("error: ") and named in end.value.code and "--help" in end.value.code
    assert "\n" not in end.value.code


def test_flags_that_were_given_override():
    assert override(SETTINGS, parse("--max_steps", "50", "--prompt", "x", "--prompt", "y")) == Settings(
        50, 10, None, ["x", "y"]
    )
    assert override(SETTINGS, parse("--top-k", "0", "--arch", "base")) == Settings(100, 10, 0, ["a", "b"])
    assert override(SETTINGS, parse()) == SETTINGS


def test_a_value_that_the_settings_refuse_names_the_flag_or_both():
    with pytest.raises(UserError, match=r"^--max-steps 0: must be at least 1; choose a positive whole number$"):
        override(SETTINGS, parse("--max-steps", "0"))
    expected = r"^--max-steps 5 does not go with params.yaml: warmup_steps = 10: not below 5; choose less$"
    with pytest.raises(UserError, match=expected):
        override(SETTINGS, parse("--max-steps", "5"))


def test_flags_that_change_the_result_get_an_output_of_their_own_except_in_dvc(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stages/merge.py"])
    flags = Flags("A stage.")
    flags.add_argument("--role")
    flags.add_argument("--top-k", type=int, default=5)
    flags.add_output("--output-dir")

    def output(*words: str) -> str | None:
        args = flags.parse_args(words)
        flags.choose_output(args)
        return args.output_dir

    assert output() is output("--role", "a") is output("--top-k", "5") is None
    assert output("--top-k", "0") == "out/merge"
    assert output("--top-k", "0", "--output-dir", "x", "--overwrite") == "x"
    with pytest.raises(SystemExit, match="--overwrite is for --output-dir"):
        output("--overwrite")
    monkeypatch.setenv("DVC_STAGE", "some")
    assert output("--top-k", "0") is None


def test_steps_on_the_command_line_are_in_place_of_minutes_in_the_file():
    timed = replace(SETTINGS, max_minutes=5.0)
    assert override(timed, parse("--max-steps", "20")) == replace(SETTINGS, max_steps=20)
    assert override(timed, parse("--max-minutes", "2")) == replace(SETTINGS, max_minutes=2.0)
