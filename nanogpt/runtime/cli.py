"""Command lines of the stage scripts: every flag is optional and overrides params.yaml."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import NoReturn

from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.runtime.outputs import check_outputs
from nanogpt.runtime.ranges import SEEDS


class Flags(argparse.ArgumentParser):
    """A parser that takes dashes and underscores alike and ends with status 1 on a wrong flag."""

    def __init__(self, description: str):
        prog = f"python -m stages.{Path(sys.argv[0]).stem}"
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.output = self.suffix = ""

    def add_output(self, flag: str, **options) -> None:
        """Add the flag that names what is written, and --overwrite; a `metavar` like PATH.md requires that ending."""
        self.output = self.add_argument(flag, **options).dest
        self.suffix = Path(options.get("metavar", "")).suffix
        self.add_argument("--overwrite", action="store_true", help=f"replace what an earlier run wrote to {flag}")

    def changes(self, args: argparse.Namespace) -> list[str]:
        """The flags that were given and that change what is made: all but the output, --overwrite and --role."""
        neutral = (self.output, "overwrite", "role")
        given = (name for name, value in vars(args).items() if name not in neutral and value != self.get_default(name))
        return [f"--{name.replace('_', '-')}" for name in given]

    def add_length(self, section: str) -> None:
        """Add --max-steps and --max-minutes, of which one may be given, in place of both settings of `section`."""
        group = self.add_mutually_exclusive_group()
        help = f"in place of {section}.max_steps and max_minutes"
        group.add_argument("--max-steps", type=int, metavar="N", help=help)
        group.add_argument("--max-minutes", type=float, metavar="M", help=help)

    def add_series(self, seeds: int) -> None:
        """Add --seeds, `seeds` by default and at least 2, --max-steps and --data, for several trainings on one text."""
        self.add_argument(
            "--seeds", type=int, default=seeds, metavar="N", help="how many, from 1 on (default: %(default)s)"
        )
        self.add_argument("--max-steps", type=int, metavar="N", help="in place of train.max_steps")
        self.add_argument("--data", default="data/pretrain", help="folder of bins and tokenizer (default: %(default)s)")

    def choose_output(self, args: argparse.Namespace) -> None:
        """Where no output is named, choose `out/<script>` if flags change what is made, else what params.yaml makes.

        Only the latter is replaced without --overwrite. A stage of dvc.yaml writes its own outs, whatever its flags.
        """
        if vars(args)[self.output] is None:
            if self.changes(args) and "DVC_STAGE" not in os.environ:
                setattr(args, self.output, f"out/{self.prog.rpartition('.')[2]}")
            else:
                self._refuse_overwrite(args)
                args.overwrite = True

    def check_files(self, args: argparse.Namespace, *inputs: str) -> None:
        """Raise UserError where the output flag names a file, and it or the .json beside it may not be written."""
        if output := vars(args)[self.output]:
            files = (Path(output), Path(output).with_suffix(".json"))
            check_outputs(dict.fromkeys(files), inputs, args.overwrite)
        else:
            self._refuse_overwrite(args)

    def parse_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None):
        """As argparse does, after turning `--num_samples` into `--num-samples`."""
        given = sys.argv[1:] if args is None else args
        parsed = super().parse_args([self._dashed(arg) for arg in given], namespace)
        seeds = vars(parsed).get("seeds", 2)
        if seeds < 2:
            self.error(f"--seeds {seeds}: an interval needs at least 2")
        output = vars(parsed).get(self.output)
        if output and self.suffix and Path(output).suffix != self.suffix:
            self.error(f"--{self.output} {output}: choose a name that ends in {self.suffix}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """One line and exit status 1: a wrong flag is a mistake like any other."""
        sys.exit(f"error: {message}; `{self.prog} --help` lists the flags")

    def _refuse_overwrite(self, args: argparse.Namespace) -> None:
        if args.overwrite:
            self.error(f"--overwrite is for --{self.output.replace('_', '-')}, which is missing")

    def _dashed(self, arg: str) -> str:
        name, equals, value = arg.partition("=")
        dashed = name.replace("_", "-")
        return dashed + equals + value if dashed in self._option_string_actions else arg


def override(settings, flags: argparse.Namespace):
    """The settings with every flag that was given and that they have a field for; --max-steps resets `max_minutes`.

    Raises UserError, naming the flag, for a value that the settings refuse.
    """
    fields = {field.name for field in dataclasses.fields(settings)}
    given = {name: value for name, value in vars(flags).items() if name in fields and value is not None}
    reset = {"max_minutes": None} if "max_steps" in given and "max_minutes" in fields else {}
    try:
        return dataclasses.replace(settings, **given | reset)
    except BadSetting as bad:
        if bad.key in given:
            raise UserError(f"{_flag(bad.key, bad.value)}: {bad.reason}; {bad.remedy}") from None
        flags = " ".join(_flag(name, value) for name, value in given.items())
        raise UserError(f"{flags} does not go with params.yaml: {bad}") from None


def parse_seed(text: str) -> int:
    """Convert the text of a flag --seed (`add_argument(type=parse_seed)`), with the bounds of `seed` in params.yaml."""
    if not (text.isdecimal() and SEEDS.test(int(text))):
        raise argparse.ArgumentTypeError(f"{text} is {SEEDS.reason}; {SEEDS.remedy}")
    return int(text)


def _flag(name: str, value: object) -> str:
    return f"--{name.replace('_', '-')} {value}"
