"""Measure how many small faults the tests find: change one place of the code, run the tests that execute it, repeat.

docs/testing.md explains it. The faults are those of cosmic-ray's operators. The runner is written here because a test
process that starts with torch imported, and runs only the tests that execute the changed line, needs seconds.
"""

import argparse
import ast
import contextlib
import difflib
import inspect
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

ROOT = Path(__file__).parents[2]
ROOMS = ("model", "data/tokens", "training", "lora", "checkpoint")
# Test folders of these rooms, of rooms that use them, and of runtime, which reads their settings.
TESTS = (*ROOMS, "data/prepare", "hardware", "inference", "evaluation", "benchmark", "pipeline", "stages", "runtime")
SKIPPED = {"test_makefile.py", "test_structure.py"}  # about files, not about values
# Without those that need arguments, and those that no test can tell from the original, such as `is` for `==`.
OPERATORS = {
    name: OperatorProvider()[name]
    for name in OperatorProvider()
    if not re.search(r"Variable|_Eq_Is|_NotEq_Is|_Is_Eq|_IsNot_NotEq", name)
}
SECONDS = 40  # of tests for each mutant
OUTCOMES = {0: "survived", 5: "survived", 1: "killed", 2: "killed", -signal.SIGALRM: "timeout"}  # 5: no test runs

Mutant = tuple[str, int, str, int]  # file, line, operator, and which of the operator's positions in the file
Tests = dict[str, list]  # seconds and "file:line"s of each test by its name


def target_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for room in ROOMS for path in (root / "nanogpt" / room).glob("*.py"))


def sample_mutants(root: Path, seed: int) -> list[Mutant]:
    """One mutant of each place in ROOMS that an operator can change, in random order, so that n are the first n."""
    draw, chosen = random.Random(seed), []
    for path in target_files(root):
        places: dict[tuple, list[Mutant]] = {}
        source = (root / path).read_text(encoding="utf-8")
        tree, ignored = get_ast(source), ignored_spans(source)
        for name, operator in OPERATORS.items():
            positions = [(node, at[0]) for node in ast_nodes(tree) for at in operator().mutation_positions(node)]
            for occurrence, (node, start) in enumerate(positions):
                path_joined = "_Div_" in name and "string" in node.get_next_leaf().type  # any other operator fails
                if not path_joined and not any(first <= start < last for first, last in ignored):
                    kind = name.partition("_")[0]  # all that may stand in place of a `-` are one place
                    places.setdefault((start, kind), []).append((path, start[0], name, occurrence))
        chosen += [draw.choice(mutants) for mutants in places.values()]
    draw.shuffle(chosen)
    return chosen


def ignored_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where a change means nothing at run time: annotations, and imports for type checkers alone."""
    nodes = []
    for node in ast.walk(ast.parse(source)):
        nodes += [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes.append(node)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes if n is not None]


class Recorder:
    """Pytest plugin: writes seconds and lines of each test that passes; lines of fixtures count for the whole file."""

    def __init__(self, root: Path, note: Path):
        self.files, self.note = {str(root / file): file for file in target_files(root)}, note
        self.tests, self.lines, self.shared = {}, set(), set()

    def trace(self, frame, event, arg):
        file = self.files.get(frame.f_code.co_filename)

        def trace_line(frame, event, arg):
            self.lines.add(f"{file}:{frame.f_lineno}")
            return trace_line

        # lines of a module or class are executed on import, by whichever test imports it first
        return trace_line if file and frame.f_code.co_flags & inspect.CO_OPTIMIZED else None

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        start, failed, self.lines = time.monotonic(), item.session.testsfailed, set()
        sys.settrace(self.trace)
        yield
        sys.settrace(None)
        if item.session.testsfailed == failed:
            self.tests[item.nodeid] = time.monotonic() - start, self.lines

    def pytest_runtest_call(self):
        self.shared |= self.lines

    def pytest_sessionfinish(self):
        tests = {name: [seconds, sorted(lines | self.shared)] for name, (seconds, lines) in self.tests.items()}
        self.note.write_text(json.dumps(tests))


class Selection:
    """Pytest plugin: the chosen tests in their order, each with a limit of time."""

    def __init__(self, chosen: list[str], seconds: dict[str, float]):
        self.order, self.seconds = {name: n for n, name in enumerate(chosen)}, seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        # a test that is not known has its name from a value that the mutant changed
        items[:] = [item for item in items if item.nodeid in self.order or item.nodeid not in self.seconds]
        items.sort(key=lambda item: self.order.get(item.nodeid, len(self.order)))

    def pytest_runtest_logstart(self, nodeid):
        signal.alarm(90 + int(10 * self.seconds.get(nodeid, 1)))


def copy_tree(work: Path) -> None:
    """Give a process of the pool a copy of the last commit."""
    global tree
    tree = Path(tempfile.mkdtemp(dir=work))
    subprocess.run(["git", "clone", "-q", ROOT, tree], check=True)


def run_pytest(files: list[str], plugin: object, seconds: int) -> int:
    """Run quick tests in a fork until one fails (Selection); return pytest's status, negative for a signal."""
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            os.chdir(tree)
            sys.stdout = sys.stderr = Path(f"{tree}.log").open("w", buffering=1)  # noqa: SIM115
            sys.path[0] = str(tree / "tests" / "support")
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(seconds)
            resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
            words = ["-m", "not slow", "-p", "no:cacheprovider", "--timeout=0", f"--basetemp={tree}-tmp"]
            os._exit(pytest.main(["-qx" if isinstance(plugin, Selection) else "-q", *words, *files], [plugin]))
        finally:
            os._exit(70)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        with contextlib.suppress(ProcessLookupError):  # what it left behind, and itself on an interruption
            os.killpg(pid, signal.SIGKILL)
        shutil.rmtree(f"{tree}-tmp", ignore_errors=True)


def record_tests(work: Path, file: str) -> Tests:
    """Record each test of a file that passes without a mutant, if it is not recorded already."""
    note = work / f"{file.replace('/', '-')}.json"
    if not note.exists():
        print(f"{file}: status {run_pytest([file], Recorder(tree, note), 3600)}", flush=True)
    return json.loads(note.read_text())


def choose_tests(mutant: Mutant, tests: Tests) -> list[str]:
    """Tests that execute the mutant's line: its room's first, then the fastest, for about SECONDS.

    Where no test executes it but on import, those that execute any line of the file, or the room's.
    """
    file, line, *_ = mutant
    room = f"tests/{Path(file).parent.relative_to('nanogpt')}/"
    chosen = [name for name, (_, lines) in tests.items() if f"{file}:{line}" in lines] or [
        name for name, (_, lines) in tests.items() if any(found.startswith(f"{file}:") for found in lines)
    ]
    chosen = chosen or [name for name in tests if name.startswith(room)]
    chosen.sort(key=lambda name: (not name.startswith(room), tests[name][0]))
    sums = itertools.accumulate((tests[name][0] for name in chosen), initial=0)
    chosen = [name for name, before in zip(chosen, sums, strict=False) if before < SECONDS]
    files = [name.partition("::")[0] for name in chosen]
    return sorted(chosen, key=lambda name: files.index(name.partition("::")[0]))  # fixtures of a file are made once


def run_mutant(number: int, mutant: Mutant, chosen: list[str], seconds: dict[str, float]) -> dict:
    """Run the chosen tests on a mutant."""
    path = tree / mutant[0]
    source = path.read_text("utf-8")
    mutated = mutate_code(source, OPERATORS[mutant[2]](), mutant[3])
    path.write_text(mutated, "utf-8")
    os.utime(path, (number, number))  # Python caches bytecode by a file's time and size
    files = list(dict.fromkeys(name.partition("::")[0] for name in chosen))
    status = run_pytest(files, Selection(chosen, seconds), SECONDS) if files else 5
    path.write_text(source, "utf-8")
    diff = list(difflib.unified_diff(source.splitlines(), mutated.splitlines(), lineterm="", n=0))[3:]
    outcome = OUTCOMES.get(status, "killed" if status < 0 else "error")
    return {"outcome": outcome, "place": f"{mutant[0]}:{mutant[1]}", "diff": diff}


def share_killed(results: list[dict], place: str = "") -> float:
    """A timeout counts as killed, and an error of pytest itself is not counted."""
    outcomes = [result["outcome"] for result in results if result["place"].startswith(place)]
    return round(1 - outcomes.count("survived") / max(1, len(outcomes) - outcomes.count("error")), 4)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--mutants", type=int, default=300, metavar="N", help="how many (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=1, metavar="N", help="which ones (default: %(default)s)")
    flags.add_argument("--workers", type=int, default=2, metavar="N", help="at once (default: %(default)s)")
    flags.add_argument("--out", type=Path, default="docs/figures/mutation.json", help="default: %(default)s")
    args = flags.parse_args()
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    if git(["git", "diff", "--quiet", "HEAD", "--", "nanogpt", "tests"]).returncode:
        sys.exit("error: nanogpt/ or tests/ has changes; commit them first, as copies of the last commit are tested")
    commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    work = Path(tempfile.gettempdir(), "nanogpt-mutation", f"{commit}-{args.seed}")
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import pandas  # noqa: F401  what tests import late: test processes are forks, and need not wait for it
    import peft  # noqa: F401
    import torch._dynamo  # noqa: F401

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    paths = [path for room in TESTS for path in (ROOT / "tests" / room).rglob("test_*.py") if path.name not in SKIPPED]
    mutants = sample_mutants(ROOT, args.seed)[: args.mutants]
    with (
        (work / "mutants.jsonl").open("a+") as results,
        ProcessPoolExecutor(args.workers, multiprocessing.get_context("fork"), copy_tree, (work,)) as pool,
    ):
        recorded = pool.map(partial(record_tests, work), sorted({str(path.relative_to(ROOT)) for path in paths}))
        tests = {name: (seconds, set(lines)) for file in recorded for name, (seconds, lines) in file.items()}
        seconds = {name: seconds for name, (seconds, _) in tests.items()}
        results.seek(0)
        found = [json.loads(line) for line in results][: len(mutants)]
        waiting = [(n, m, choose_tests(m, tests), seconds) for n, m in enumerate(mutants) if n >= len(found)]
        for result in pool.map(run_mutant, *zip(*waiting, strict=True)) if waiting else []:
            found.append(result)
            print(json.dumps(result), file=results, flush=True)
            print(len(found), result, flush=True)
    sys.path.insert(0, str(ROOT))  # not before, as the test processes import a copy
    from nanogpt.hardware.processor import describe_processor

    outcomes = Counter(result["outcome"] for result in found)
    figures = {
        "machine": describe_processor(),
        "command": f"python tests/support/mutate.py --mutants {args.mutants} --seed {args.seed}",
        "mutants": len(found),
        **{key: outcomes[key.removesuffix("s")] for key in ("killed", "survived", "timeouts", "errors")},
        "share_killed": share_killed(found),
        "share_killed_by_room": {room: share_killed(found, f"nanogpt/{room}/") for room in ROOMS},
        "survivors": [result for result in found if result["outcome"] == "survived"],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
