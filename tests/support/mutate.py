"""Measure how many small faults the tests find: change one place of the code, run the tests that execute it, repeat.

`python tests/support/mutate.py --mutants 300` works on copies of the tree in a folder outside it; run again after an
interruption, it goes on. docs/testing.md explains the figures. The faults are those of cosmic-ray's operators. The
runner is written here because a test process that starts with torch imported, and runs only the tests that execute the
changed line, needs seconds where a whole test run needs minutes.
"""

import argparse
import ast
import contextlib
import difflib
import json
import mmap
import os
import platform
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cosmic_ray.ast import Visitor, ast_nodes, get_ast
from cosmic_ray.operators.provider import OperatorProvider

ROOT = Path(__file__).parents[2]
ROOMS = ("model", "data/tokens", "training", "lora", "checkpoint")
# Of these test folders: the rooms' own, and those of rooms that use them.
TESTS = (*ROOMS, "data/prepare", "hardware", "inference", "evaluation", "benchmark", "pipeline", "stages")
SKIPPED = {"tests/pipeline/test_makefile.py", "tests/pipeline/test_structure.py"}  # about files, not about values
# Without those that need arguments, and those that no test can tell from the original, such as `is` for `==`.
OPERATORS = {
    name: OperatorProvider()[name]
    for name in OperatorProvider()
    if not re.search(r"Variable|_Eq_Is|_NotEq_Is|_Is_Eq|_IsNot_NotEq", name)
}
NOT_SLOW = ["-m", "not slow"]
MEMORY_BYTES = 16 << 30  # of addresses, for each process
START_SECONDS = 120  # to import and to collect
TEST_SECONDS = 90  # for a test, besides ten times its seconds when it was recorded
RECORD_SECONDS = 3600  # for all tests of a file
NO_TESTS = 5  # pytest's status
OUTCOMES = {0: "survived", 1: "killed", 2: "killed", NO_TESTS: "survived", -signal.SIGALRM: "timeout"}


@dataclass(frozen=True)
class Mutant:
    """One change of one place: the `occurrence`-th position of an operator in a file, counted from 0."""

    file: str
    line: int
    operator: str
    occurrence: int

    @property
    def id(self) -> str:
        return f"{self.file}:{self.line}:{self.operator}:{self.occurrence}"


class Mutation(Visitor):
    """Applies an operator of cosmic-ray to one node of a syntax tree."""

    def __init__(self, operator, occurrence: int):
        self.operator, self.to_skip = operator, occurrence

    def visit(self, node):
        for index, _ in enumerate(self.operator.mutation_positions(node)):
            if self.to_skip == 0:
                node = self.operator.mutate(node, index)
            self.to_skip -= 1
        return node


def sample_mutants(root: Path, seed: int) -> list[Mutant]:
    """One mutant of each place in ROOMS that an operator can change, in random order, so that n are the first n."""
    draw, chosen = random.Random(seed), []
    for path in target_files(root):
        places: dict[tuple, list[Mutant]] = {}
        source = (root / path).read_text(encoding="utf-8")
        tree, ignored = get_ast(source), ignored_spans(source)
        for name, operator in OPERATORS.items():
            occurrence = 0
            for node in ast_nodes(tree):
                for start, _ in operator().mutation_positions(node):
                    if not is_trivial(name, node) and not any(first <= start < last for first, last in ignored):
                        kind = name.partition("_")[0]  # all that may stand in place of a `-` are one place
                        mutant = Mutant(path, start[0], name, occurrence)
                        places.setdefault((start, kind), []).append(mutant)
                    occurrence += 1
        chosen += [draw.choice(mutants) for mutants in places.values()]
    draw.shuffle(chosen)
    return chosen


def is_trivial(operator: str, node) -> bool:
    """Whether a mutant is an error for any test, `/` between paths, or for none, `@abstractmethod`."""
    path_joined = "_Div_" in operator and node.get_next_leaf().type in ("string", "fstring_start")
    return path_joined or (operator == "RemoveDecorator" and "abstractmethod" in node.get_code())


def ignored_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where a change means nothing at run time: annotations, and imports for type checkers alone."""
    nodes = []
    for node in ast.walk(ast.parse(source)):
        nodes += [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes.append(node)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes if n is not None]


def mutate(source: str, mutant: Mutant) -> str:
    """The source with one place changed."""
    return Mutation(OPERATORS[mutant.operator](), mutant.occurrence).walk(get_ast(source)).get_code()


def target_files(root: Path) -> list[str]:
    return sorted(
        path.relative_to(root).as_posix() for room in ROOMS for path in (root / "nanogpt" / room).glob("*.py")
    )


def test_files(root: Path) -> list[str]:
    files = [path.relative_to(root).as_posix() for room in TESTS for path in (root / "tests" / room).rglob("test_*.py")]
    return sorted(set(files) - SKIPPED)


def import_libraries() -> None:
    """Import what the tests import late: test processes are forks of this one, and need not wait for it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import torch._dynamo  # noqa: F401


class LineRecord:
    """Which lines of the target files run, in this process and its forks: a byte of shared memory for each line."""

    def __init__(self, root: Path):
        self.start, size = {}, 0
        for file in target_files(root):
            self.start[str(root / file)] = size
            size += (root / file).read_text(encoding="utf-8").count("\n") + 2
        self.names = dict(zip(self.start.values(), target_files(root), strict=True))
        self.memory = mmap.mmap(-1, size)

    def trace(self, frame, event, arg):
        start = self.start.get(frame.f_code.co_filename)
        if start is None:
            return None

        def line(frame, event, arg):
            self.memory[start + frame.f_lineno] = 1
            return line

        return line

    def read_and_clear(self) -> list[str]:
        """The lines as "file:number" that ran since the last call."""
        memory, self.memory[:] = self.memory[:], bytes(len(self.memory))
        starts = sorted(self.names)
        found, place = [], memory.find(1)
        while place >= 0:
            start = max(start for start in starts if start <= place)
            found.append(f"{self.names[start]}:{place - start}")
            place = memory.find(1, place + 1)
        return found


class Recorder:
    """Pytest plugin: outcome, seconds and lines of each test. Lines of a wider fixture count for the whole file."""

    def __init__(self, lines: LineRecord):
        self.lines, self.shared, self.tests, self.current = lines, set(), {}, {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self.lines.read_and_clear()
        start = time.monotonic()
        self.current = self.tests[item.nodeid] = {"passed": True, "lines": []}
        yield
        self.current["lines"] += self.lines.read_and_clear()
        self.current["seconds"] = time.monotonic() - start

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        self.current["lines"] += self.lines.read_and_clear()
        yield
        if fixturedef.scope != "function":
            self.shared.update(self.lines.read_and_clear())

    def pytest_runtest_logreport(self, report):
        if report.outcome != "passed":
            self.tests[report.nodeid]["passed"] = False


class Selection:
    """Pytest plugin: the chosen tests in their order, each with a limit of time; notes the first that fails."""

    def __init__(self, chosen: dict[str, float], known: set[str], note: Path):
        self.chosen, self.known, self.note = chosen, known, note

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        # a test that is not known has its name from a value that the mutant changed
        items[:] = [item for item in items if item.nodeid in self.chosen or item.nodeid not in self.known]
        order = {name: place for place, name in enumerate(self.chosen)}
        items.sort(key=lambda item: order.get(item.nodeid, len(order)))

    def pytest_runtest_logstart(self, nodeid):
        self.note.write_text(nodeid)
        signal.alarm(TEST_SECONDS + int(10 * self.chosen.get(nodeid, 1)))

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.note.write_text(f"{report.nodeid}: {report.longreprtext.strip().splitlines()[-1]}")


class Runner:
    """Runs test processes, one at a time in each copy of the tree."""

    def __init__(self, work: Path, workers: int):
        self.work, self.original, self.running = work, work / "original", {}
        self.free = [work / f"tree-{n}" for n in range(workers)]
        if not self.original.exists():
            copy_tree(self.original)
        for tree in self.free:
            if not tree.exists():
                subprocess.run(["git", "clone", "-q", self.original, tree], check=True)
            restore(tree)

    def start(self, run: Callable[[Path], int], finish: Callable[[Path, int], None]) -> None:
        """Call `run(tree)` in a fork, and `finish(tree, status)` when that has ended."""
        while not self.free:
            self.wait()
        tree = self.free.pop()
        pid = os.fork()
        if not pid:
            _be_test_process(tree, run)
        self.running[pid] = tree, finish

    def wait(self) -> None:
        """Wait for one process, and end what it left behind."""
        pid, status = os.wait()
        tree, finish = self.running.pop(pid)
        kill_session(pid)
        finish(tree, os.waitstatus_to_exitcode(status))
        restore(tree)
        self.free.append(tree)

    def wait_for_all(self) -> None:
        while self.running:
            self.wait()


def kill_session(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _be_test_process(tree: Path, run: Callable[[Path], int]) -> None:
    status = 70
    try:
        os.setsid()
        os.chdir(tree)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        out = os.open(f"{tree}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tree.with_name("compiled"))  # else each mutant compiles anew
        sys.path[0] = str(tree / "tests" / "support")
        signal.alarm(START_SECONDS)
        status = run(tree)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_pytest(tree: Path, words: list[str], plugin: object) -> int:
    return int(pytest.main(["-q", "-p", "no:cacheprovider", f"--basetemp={tree}-tmp", *words], plugins=[plugin]))


def copy_tree(folder: Path) -> None:
    """Copy what git knows of the working tree into a repository of its own."""
    shutil.rmtree(f"{folder}-part", ignore_errors=True)
    part = Path(f"{folder}-part")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, part / name, follow_symlinks=False)
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Copy"]):
        subprocess.run([*git, *command], cwd=part, check=True)
    part.rename(folder)


def restore(tree: Path) -> None:
    """Take back what a test process changed in its copy of the tree."""
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=tree, check=True)
    subprocess.run(["git", "clean", "-ffdxq", "-e", "__pycache__"], cwd=tree, check=True)
    shutil.rmtree(f"{tree}-tmp", ignore_errors=True)


def record_tests(runner: Runner, slow: bool) -> dict[str, dict]:
    """Outcome, seconds and lines of each test without a mutant; files that are recorded already are read."""
    folder, marked = runner.work / "tests", [] if slow else NOT_SLOW
    folder.mkdir(exist_ok=True)
    notes = {file: folder / f"{file.replace('/', '-')}.json" for file in test_files(runner.original)}

    def record(file: str) -> None:
        def run(tree: Path) -> int:
            signal.alarm(RECORD_SECONDS)
            lines = LineRecord(tree)
            recorder = Recorder(lines)
            threading.settrace(lines.trace)
            sys.settrace(lines.trace)
            run_pytest(tree, [file, *marked], recorder)
            sys.settrace(None)
            for found in recorder.tests.values():
                found["lines"] = sorted({*found["lines"], *recorder.shared})
            notes[file].write_text(json.dumps(recorder.tests))
            return 0

        def finish(tree: Path, status: int) -> None:
            if not notes[file].exists():
                raise SystemExit(f"error: {file} ended with status {status}; see {tree}.log")
            tests = json.loads(notes[file].read_text()).values()
            failed, seconds = sum(not test["passed"] for test in tests), sum(test["seconds"] for test in tests)
            print(f"{file}: {len(tests)} tests in {seconds:.0f} s, {failed} did not pass", flush=True)

        runner.start(run, finish)

    for file, note in notes.items():
        if not note.exists():
            record(file)
    runner.wait_for_all()
    tests = {name: test for note in notes.values() for name, test in json.loads(note.read_text()).items()}
    return {name: test | {"lines": set(test["lines"])} for name, test in tests.items()}


def choose_tests(root: Path, mutant: Mutant, tests: dict[str, dict], seconds: float) -> dict[str, float]:
    """Tests that execute the mutant's statement, and their seconds: its room's first, then the fastest, up to a sum.

    Where no test executes it, as on import, those that execute any line of the file.
    """
    room = f"tests/{Path(mutant.file).parent.relative_to('nanogpt').as_posix()}/"
    passed = {name: test for name, test in tests.items() if test["passed"]}
    lines = {f"{mutant.file}:{line}" for line in statement_lines((root / mutant.file).read_text("utf-8"), mutant.line)}
    chosen = [name for name, test in passed.items() if lines & test["lines"]] or [
        name for name, test in passed.items() if any(line.startswith(f"{mutant.file}:") for line in test["lines"])
    ]
    chosen.sort(key=lambda name: (not name.startswith(room), passed[name]["seconds"]))
    within, total = [], 0.0
    for name in chosen:
        if not within or total + passed[name]["seconds"] <= seconds:
            within.append(name)
            total += passed[name]["seconds"]
    files = list(dict.fromkeys(file_of_test(name) for name in within))  # so that fixtures of a file are made once
    return {name: passed[name]["seconds"] for file in files for name in within if file_of_test(name) == file}


def file_of_test(name: str) -> str:
    return name.partition("::")[0]


def statement_lines(source: str, line: int) -> range:
    """Lines of the innermost statement that a line belongs to; of one with a block those before the block."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):  # outer nodes come before inner ones
        if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno:
            body = getattr(node, "body", None)
            if line < (end := body[0].lineno if body else node.end_lineno + 1):
                found = range(node.lineno, end)
    return found


def run_mutants(
    runner: Runner, mutants: list[Mutant], tests: dict[str, dict], seconds: float, slow: bool
) -> list[dict]:
    """The outcome of each mutant: "killed", "timeout", "survived" or "error"; those that are known already are read."""
    notes = runner.work / "mutants.jsonl"
    known = {found["id"]: found for found in map(json.loads, notes.read_text().splitlines())} if notes.exists() else {}

    def test(number: int, mutant: Mutant) -> None:
        chosen = choose_tests(runner.original, mutant, tests, seconds)
        files = list(dict.fromkeys(map(file_of_test, chosen)))
        source = (runner.original / mutant.file).read_text("utf-8")
        mutated = mutate(source, mutant)

        def run(tree: Path) -> int:
            (tree / mutant.file).write_text(mutated, "utf-8")
            os.utime(tree / mutant.file, (number, number))  # Python caches bytecode by a file's time and size
            selection = Selection(chosen, set(tests), Path(f"{tree}.test"))
            return run_pytest(tree, ["-x", *files, *([] if slow else NOT_SLOW)], selection) if files else NO_TESTS

        def finish(tree: Path, status: int) -> None:
            outcome = OUTCOMES.get(status, "killed" if status < 0 else "error")
            diff = difflib.unified_diff(source.splitlines(), mutated.splitlines(), lineterm="", n=0)
            last = Path(f"{tree}.test")
            found = {"id": mutant.id, "outcome": outcome, "status": status, "place": f"{mutant.file}:{mutant.line}"}
            found |= {"diff": list(diff)[3:], "tests": len(chosen), "last": last.read_text() if last.exists() else None}
            last.unlink(missing_ok=True)
            known[mutant.id] = found
            with notes.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(f"{len(known)} {outcome}: {mutant.id}, {found['last']}", flush=True)

        runner.start(run, finish)

    for number, mutant in enumerate(mutants):
        if mutant.id not in known:
            test(number, mutant)
    runner.wait_for_all()
    return [known[mutant.id] for mutant in mutants]


def summarize(results: list[dict], command: str) -> dict:
    """What docs/figures/mutation.json says."""
    sys.path.insert(0, str(ROOT))  # not before, as the test processes import another copy
    from nanogpt.hardware.cores import describe_processor

    outcomes = Counter(found["outcome"] for found in results)
    detected = outcomes["killed"] + outcomes["timeout"]
    rooms: dict[str, Counter] = {}
    for found in results:
        room = Path(found["place"]).parent.relative_to("nanogpt").as_posix()
        rooms.setdefault(room, Counter())[found["outcome"]] += 1
    return {
        "machine": f"{describe_processor()}, Python {platform.python_version()}",
        "command": command,
        "mutants": len(results),
        "killed": outcomes["killed"],
        "timeouts": outcomes["timeout"],
        "errors": outcomes["error"],
        "share_killed": round(detected / (len(results) - outcomes["error"]), 4),
        "rooms": {room: dict(counts) for room, counts in sorted(rooms.items())},
    } | {
        key: [{"place": found["place"], "diff": found["diff"]} for found in results if found["outcome"] == outcome]
        for key, outcome in (("timed_out", "timeout"), ("survived", "survived"))
    }


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--mutants", type=int, default=300, metavar="N", help="how many (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=1, metavar="N", help="which ones (default: %(default)s)")
    flags.add_argument("--slow", action="store_true", help="run tests marked slow too")
    flags.add_argument("--seconds", type=float, default=120, help="of tests for each mutant (default: %(default)s)")
    flags.add_argument("--workers", type=int, default=2, metavar="N", help="processes at once (default: %(default)s)")
    flags.add_argument("--work", type=Path, default=Path("/tmp/nanogpt-mutation"), help="default: %(default)s")
    flags.add_argument("--out", type=Path, metavar="PATH.json", help="write the figures here (default: print them)")
    args = flags.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    import_libraries()
    runner = Runner(args.work.resolve(), args.workers)
    if any((ROOT / file).read_bytes() != (runner.original / file).read_bytes() for file in target_files(ROOT)):
        sys.exit(f"error: {args.work} holds another state of the code; delete it, or choose another --work")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tests = record_tests(runner, args.slow)
        mutants = sample_mutants(runner.original, args.seed)[: args.mutants]
        results = run_mutants(runner, mutants, tests, args.seconds, args.slow)
    finally:
        for pid in runner.running:
            kill_session(pid)
    command = f"python tests/support/mutate.py --mutants {args.mutants} --seed {args.seed}{' --slow' * args.slow}"
    text = json.dumps(summarize(results, f"{command} --seconds {args.seconds:g}"), indent=2) + "\n"
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
