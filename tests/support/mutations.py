"""Damaged inputs, each through a real stage: refused in one line, or the result that the undamaged one gives.

    python tests/support/mutations.py --cases 300 --seed 1    # a table; status 1 where a case went wrong
    python tests/support/mutations.py --seed 1 --case 17      # that one again, its folder kept

A case is a function of seed and number.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import NamedTuple

import pandas as pd
import torch
from imports import ROOT

sys.path.append(str(ROOT))  # where this file is run and not imported

from damage import damage
from forked import LIMIT_SECONDS, Done, run
from small_project import INTERRUPTED, VARIANTS, Project


class Kind(NamedTuple):
    """Files, one of which is damaged, and commands, one of which reads it then.

    `valid`: damage can be another valid input, with another result. `without` are files that are removed before; with
    `interrupted` there are runs to resume.
    """

    name: str
    files: tuple[str, ...]
    commands: tuple[str, ...]
    valid: bool = False
    without: str = ""
    interrupted: bool = False


TOKENS = ("data/pretrain/tokenizer/*",)
OTHER_SEED, OTHER_RANK = "pretrain --seed 2 --out models/new", "lora_finetune --r 1 --out models/new"
BINS = ("data/*/*.bin", "data/*/manifest.json", "data/*/manifest.json")
READ_BINS = ("pretrain", "lora_finetune", "merge", "sample")
MODEL, NEW = ("models/pretrain/*",), "--out models/new"
READ_FILE = ("sample --checkpoint {}", f"convert --checkpoint {{}} {NEW}", f"pretrain --init-from {{}} {NEW}")
READ_MODEL = ("lora_finetune", "merge", "sample", *(command.format("models/pretrain") for command in READ_FILE))
ADAPTER = ("models/lora/*",)
READ_ADAPTER = (
    "merge",
    "merge --base-checkpoint models/pretrain --output-dir models/new",
    "sample",
    "sample --also models/lora",
)
FETCHED = "prepare --source tinystories --num-samples 30 --out data/new"
PREPARE = "prepare --path {} --out data/new"
FINETUNE = "prepare --role finetune --tokenizer data/pretrain/tokenizer --out data/new"
KINDS = (
    Kind("params.yaml", ("params.yaml",), ("check",), True),
    Kind("bins", (*BINS, "data/*/SHA256SUMS"), READ_BINS),
    Kind("tokenizer", TOKENS, ("pretrain", "prepare --role finetune")),
    Kind("bins without sums", (*BINS, *TOKENS), (*READ_BINS, FINETUNE), True, "data/*/SHA256SUMS"),
    Kind("model", MODEL, READ_MODEL),
    Kind("model without sums", MODEL, READ_MODEL, True, "models/pretrain/SHA256SUMS"),
    Kind("model as .pt file", ("models/one.pt",), (*READ_FILE, f"lora_finetune --base-checkpoint {{}} {NEW}")),
    Kind("adapter", ADAPTER, READ_ADAPTER),
    Kind("adapter without sums", ADAPTER, READ_ADAPTER, True, "models/lora/SHA256SUMS"),
    Kind("saved state", (".work/pretrain/*/*",), ("pretrain", "pretrain", OTHER_SEED), interrupted=True),
    Kind("saved adapter state", (".work/lora-finetune/*/*",), ("lora_finetune", OTHER_RANK), interrupted=True),
    Kind("measured rates", (".work/rates/*/*",), ("pretrain",), True),
    Kind("fetched pages", (".work/corpora/*/*",), (FETCHED,)),
    Kind("own text", ("own/*",), (PREPARE, f"{PREPARE} --no-strict"), True),
)

RIGHT = ("refused", "same", "other")


class Cases:
    """Makes the projects that cases begin with in a folder, and runs cases there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[tuple, dict] = {}
        for variant in VARIANTS:
            Project(folder / variant).make(variant)

    def run(self, seed: int, number: int, keep: bool = False) -> dict[str, object]:
        """One case: what was damaged, what read it, how that ended, a verdict; `keep` leaves its folder, `case`."""
        random, kind = Random(f"{seed} {number}"), KINDS[number % len(KINDS)]
        variant = random.choice(list(VARIANTS))
        project = self._copy("case", variant, kind)
        files = [file for pattern in kind.files for file in [sorted(project.folder.glob(pattern))] if file]
        path = random.choice(random.choice(files))
        name = path.relative_to(project.folder).as_posix()
        command = random.choice(kind.commands).format(name)
        damaged = f"{variant}, {name}: {damage(random, path)}"
        before = project.files()
        done = run(project.folder, command)
        verdict = judge(done, before, project.files(done.out), self._undamaged(variant, kind, command), name)
        if kind.valid and verdict.startswith("another result"):
            verdict = "other"
        if not keep:
            shutil.rmtree(project.folder)
        return {"kind": kind.name, "damaged": damaged, "command": command, "done": done, "verdict": verdict}

    def _copy(self, name: str, variant: str, kind: Kind) -> Project:
        project = Project(self.folder / name)
        shutil.copytree(self.folder / variant, project.folder)
        if kind.interrupted:
            shutil.rmtree(project.folder / ".work")
            (project.folder / INTERRUPTED).rename(project.folder / ".work")
        for path in project.folder.glob(kind.without) if kind.without else ():
            path.unlink()
        return project

    def _undamaged(self, variant: str, kind: Kind, command: str) -> dict[str, object]:
        key = (variant, kind.without, kind.interrupted, command)
        if key not in self._known:
            project = self._copy("undamaged", variant, kind)
            done = run(project.folder, command)
            assert done.status == 0, f"{command}: {done.err}"
            self._known[key] = project.files(done.out)
            shutil.rmtree(project.folder)
        return self._known[key]


def judge(done: Done, before: dict, after: dict, expected: dict, damaged: str) -> str:
    """refused, same, or what is wrong."""
    lines = done.err.splitlines()
    if done.status == -signal.SIGKILL:
        return f"no end after {LIMIT_SECONDS} s"
    if "Traceback" in done.err or done.status not in (0, 1):
        return f"status {done.status}: {lines[-1] if lines else ''}"
    errors = [line for line in lines if line.startswith("error: ")]
    if done.status:
        if changed := _differing(before, after | {"stdout": ""}):
            return f"refused, and changed {', '.join(changed)}"
        one = len(errors) == 1 and errors == lines[-1:] and errors[0].isprintable()
        return "refused" if one else f"refused, and not in one line: {done.err[-500:]!r}"
    if errors:
        return f"status 0 after {errors}"
    changed = [name for name in _differing(expected, after) if not f"{name}/".startswith(f"{damaged}/")]
    if damaged.endswith("README.md"):  # anyone may edit it, and what is merged quotes it
        changed = [name for name in changed if not name.endswith(("README.md", "SHA256SUMS"))]
    if damaged.endswith(".pt"):  # the hash of the whole file stands in these
        changed = [name for name in changed if not name.endswith(("README.md", "SHA256SUMS", "base.json"))]
    return f"another result: {', '.join(changed)}" if changed else "same"


def _differing(one: dict, other: dict) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cases", type=int, default=300, help="how many, from number 0 on (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    flags.add_argument("--case", type=int, help="this number alone, and all about it")
    args = flags.parse_args()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    folder = Path(tempfile.mkdtemp(prefix="mutations."))
    cases, counts = Cases(folder), Counter()
    for number in range(args.cases) if args.case is None else [args.case]:
        result = cases.run(args.seed, number, keep=args.case is not None)
        right = result["verdict"] in RIGHT
        counts[result["kind"], result["verdict"] if right else "wrong"] += 1
        if not right:
            print(f"--seed {args.seed} --case {number}: {result}", flush=True)
    if args.case is None:
        shutil.rmtree(folder)
    else:
        print(*(f"{name}: {value}" for name, value in result.items()), f"in {folder / 'case'}", sep="\n")
    print(pd.Series(counts).unstack(fill_value=0))
    sys.exit(any(how == "wrong" for _, how in counts))


if __name__ == "__main__":
    main()
