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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from imports import ROOT
from ruamel.yaml import YAML

sys.path.append(str(ROOT))  # where this file is run and not imported

from damage import at, damage, places
from forked import LIMIT_SECONDS, Done, run
from other_readers import anything, as_read, as_written, nothing_else
from small_project import INTERRUPTED, VARIANTS, Project

# Settings at the edge of what they may be, for the stage that uses them

STAGE_OF = {"data": "prepare", "tokenizer": "prepare", "lora": "lora_finetune", "sample": "sample"}
UNUSED = {"benchmark", "tinystories", "scientific_papers", "arxiv_api", "shakespeare"}
WORK = {  # more of these is more work, and no mistake
    "max_steps", "batch_size", "grad_accum", "n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "vocab_size",
    "num_samples", "max_tokens", "r",
}  # fmt: skip
EDGES = {
    bool: (True, False),
    int: (0, -1, 1, 2, 2**31, 2**32, 2**63, 10**30, 10**400),
    float: (0.0, -1.0, 5e-324, 1e-300, 1e-30, 0.5, 1 - 2**-53, 1, 1e30, 1e308),
    str: ("", "x", "\0", "x" * 5000, "two\nlines", "..", "/", "é", "\ud83d", "1s", "auto", "9" * 400 + "s", "0.1 s"),
    list: ([], [""], ["x"], ["\0"], ["Once", "Once"], ["text", "title"], ["head", "lm_head"], ["é" * 300], ["\ud83d"]),
    type(None): (1, 0.5, 0, 10**30, 5e-324),
}


def edge(random: Random, project: Project) -> tuple[str, str]:
    """Give a setting a value at the edge; which, and the stage that uses it."""
    document = YAML(typ="safe").load(project.folder / "params.yaml")
    found = [path for path in places(document) if not UNUSED & set(path) and all(isinstance(key, str) for key in path)]
    path = random.choice([path for path in found if not isinstance(at(document, path), dict)])
    new = random.choice((0, -1, 1, 2, 3) if path[-1] in WORK else EDGES[type(at(document, path))])
    project.set(**{".".join(path): new})
    return f"{'.'.join(path)} = {new!r:.60}", STAGE_OF.get(path[0], "pretrain")


# What is damaged, and what reads it


@dataclass(frozen=True)
class Kind:
    """Files, one of which is damaged, and commands, one of which reads it then.

    `other` says what is wrong with another result than the undamaged gives, "" where it is right. `without` are files
    that are removed before; with `interrupted` there are runs to resume.
    """

    name: str
    files: tuple[str, ...]
    commands: tuple[str, ...]
    other: Callable[[Project, Path, str], str] = nothing_else
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
    Kind("params.yaml", ("params.yaml",), ("check",), as_read),
    Kind("settings in use", ("params.yaml",), (), anything),
    Kind("bins", (*BINS, "data/*/SHA256SUMS"), READ_BINS),
    Kind("tokenizer", TOKENS, ("pretrain", "prepare --role finetune")),
    Kind("bins without sums", (*BINS, *TOKENS), (*READ_BINS, FINETUNE), anything, "data/*/SHA256SUMS"),
    Kind("model", MODEL, READ_MODEL),
    Kind("model without sums", MODEL, READ_MODEL, anything, "models/pretrain/SHA256SUMS"),
    Kind("model as .pt file", ("models/one.pt",), (*READ_FILE, f"lora_finetune --base-checkpoint {{}} {NEW}")),
    Kind("adapter", ADAPTER, READ_ADAPTER),
    Kind("adapter without sums", ADAPTER, READ_ADAPTER, anything, "models/lora/SHA256SUMS"),
    Kind("saved state", (".work/pretrain/*/*",), ("pretrain", "pretrain", OTHER_SEED), interrupted=True),
    Kind("saved adapter state", (".work/lora-finetune/*/*",), ("lora_finetune", OTHER_RANK), interrupted=True),
    Kind("measured rates", (".work/rates/*/*",), ("pretrain",), anything),
    Kind("fetched pages", (".work/corpora/*/*",), (FETCHED,)),
    *(
        Kind(f"own {ending}", (f"own/*.{ending}",), (PREPARE, f"{PREPARE} --no-strict")[:ways], as_written)
        for ending, ways in {"txt": 2, "jsonl": 2, "csv": 1, "gz": 1, "zst": 1, "parquet": 1}.items()
    ),
)  # fmt: skip


# Cases

RIGHT = ("refused", "same", "other")


@dataclass(frozen=True)
class Result:
    """A case: what was damaged how, what read it, how that ended, and one of RIGHT or else what is wrong."""

    kind: str
    damaged: str
    command: str
    done: Done
    verdict: str


class Cases:
    """Makes the projects that cases begin with in a folder, and runs them there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[tuple, dict] = {}
        for variant in VARIANTS:
            Project(folder / variant).make(variant)

    def run(self, seed: int, number: int, keep: bool = False) -> Result:
        """One case; `keep` leaves its folder, `case`."""
        random, kind = Random(f"{seed} {number}"), KINDS[number % len(KINDS)]
        variant = random.choice(list(VARIANTS))
        project = self._copy("case", variant, kind)
        if kind.commands:
            files = [file for pattern in kind.files for file in [sorted(project.folder.glob(pattern))] if file]
            path = random.choice(random.choice(files))
            name = path.relative_to(project.folder).as_posix()
            command = random.choice(kind.commands).format(name)
            damaged = f"{name}: {damage(random, path)}"
        else:
            path, name = project.folder / "params.yaml", "params.yaml"
            damaged, command = edge(random, project)
        before = project.files()
        done = run(project.folder, command)
        verdict = judge(done, before, project.files(done.out), self._undamaged(variant, kind, command), name)
        if verdict.startswith("another result"):
            verdict = f"{wrong}: {verdict}" if (wrong := kind.other(project, path, command)) else "other"
        if not keep:
            shutil.rmtree(project.folder)
        return Result(kind.name, f"{variant}, {damaged}", command, done, verdict)

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
        counts[result.kind, result.verdict if result.verdict in RIGHT else "wrong"] += 1
        if result.verdict not in RIGHT:
            how = f"--seed {args.seed} --case {number}: {result.command}, {result.damaged}"
            print(f"{how}: {result.verdict}", flush=True)
    if args.case is None:
        shutil.rmtree(folder)
        for kind in KINDS:
            print(f"{kind.name:20}" + "".join(f"{counts[kind.name, how]:5} {how}" for how in (*RIGHT, "wrong")))
    else:
        print(*(f"{name}: {value}" for name, value in vars(result).items()), f"in {folder / 'case'}", sep="\n")
    sys.exit(any(how == "wrong" for _, how in counts))


if __name__ == "__main__":
    main()
