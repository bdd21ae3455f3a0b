"""What a module imports, read from its source: the static closure, imports inside functions included."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A room imports only from itself and from those before it.
ROOMS = [
    "runtime", "hardware", "data/tokens", "data/sources", "data/prepare", "model", "checkpoint", "training", "lora",
    "inference", "evaluation/grammar", "evaluation", "report", "benchmark", "pipeline", "research",
]  # fmt: skip


def file_of(module: str) -> Path | None:
    """The source file of a module of this project, relative to its root; None for anything else."""
    base = Path(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if module.split(".")[0] in ("nanogpt", "stages") and (ROOT / candidate).is_file():
            return candidate
    return None


@cache
def imported(file: Path) -> set[Path]:
    """The project's files that one file imports, packages on the way included.

    Imports under `if TYPE_CHECKING` do not run and do not count.
    """
    found: set[Path] = set()
    for node in _running(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            packages = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
            found |= {path for path in map(file_of, packages) if path}
    return found


def closure(file: Path) -> set[Path]:
    """A file and all that it imports, directly or not."""
    done: set[Path] = set()
    waiting = {file, *_packages(file)}
    while waiting:
        path = waiting.pop()
        done.add(path)
        waiting |= imported(path) - done
    return done


def _packages(file: Path) -> set[Path]:
    return {parent / "__init__.py" for parent in file.parents if (ROOT / parent / "__init__.py").is_file()}


def _running(tree: ast.AST):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _running(node)
