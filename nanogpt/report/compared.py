"""Other runs beside the one of a report: folders of metrics, experiments of DVC, revisions of git."""

import contextlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from nanogpt.runtime.errors import UserError


@contextlib.contextmanager
def open_run(name: str) -> Iterator[Path]:
    """The folder of a run's metrics: `name` itself or `metrics` in it, or in the block what git has of that revision.

    `name` may be that of an experiment. Raises UserError where there is no such run, or it has no metrics.
    """
    if Path(name).is_dir():
        inner = Path(name, "metrics")
        yield inner if inner.is_dir() else Path(name)
        return
    revision = _resolve(name)
    packed = _git("archive", "--format=tar", revision, "metrics", "params.yaml")
    if packed is None:
        raise UserError(f"--also {name}: this revision has no metrics; name one after `dvc repro` was committed")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder, "metrics")


def _resolve(name: str) -> str:
    """The commit of a revision or experiment."""
    if found := _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"):
        return found.decode().split()[-1]
    experiments = _git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or b""
    for line in experiments.decode().splitlines():
        commit, reference = line.split(" ", 1)
        if reference.rpartition("/")[2] == name:
            return commit
    raise UserError(f"--also {name}: neither a folder, nor an experiment (`dvc exp list`), nor a revision of git")


def _git(*words: str) -> bytes | None:
    """What git prints; None where it fails."""
    try:
        return subprocess.run(["git", *words], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def differing_settings(metrics: Path, other: Path) -> str:
    """The settings in which params.yaml beside one folder of metrics differs from that of another, as the other's."""
    one, two = (_settings(folder.parent / "params.yaml") for folder in (metrics, other))
    if not one or not two:
        return "not known"
    changed = [f"{key}: {value}" for key, value in two.items() if key not in one or one[key] != value]
    return ", ".join([*changed, *(f"no {key}" for key in one.keys() - two.keys())]) or "the same"


def _settings(path: Path) -> dict[str, object]:
    return dict(_leaves(YAML(typ="safe").load(path))) if path.exists() else {}


def _leaves(value: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
