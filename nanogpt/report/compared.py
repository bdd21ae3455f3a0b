"""Other runs beside the one of a report: folders of metrics, experiments of DVC, revisions of git."""

import contextlib
import io
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from nanogpt.runtime.errors import UserError
from nanogpt.runtime.yaml_file import read_yaml, to_plain


@contextlib.contextmanager
def open_run(name: str) -> Iterator[Path]:
    """The folder of a run's metrics: `name` itself or `metrics` in it, or in the block what git has of that revision.

    `name` may be that of an experiment. Raises UserError where there is no such run, or it has no metrics.
    """
    if Path(name).is_dir():
        inner = Path(name, "metrics")
        folder = inner if inner.is_dir() else Path(name)
        if not any((folder / f"{stage}.json").exists() for stage in ("pretrain", "lora-finetune")):
            raise UserError(f"--also {name}: no metrics of a run there (pretrain.json, lora-finetune.json)")
        yield folder
        return
    revision = _resolve(name)
    packed = _run_git("archive", "--format=zip", revision, "metrics", "params.yaml")
    if packed is None:
        raise UserError(f"--also {name}: this revision has no metrics; name one after `dvc repro` was committed")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(io.BytesIO(packed)) as files:
            files.extractall(folder)
        yield Path(folder, "metrics")


def _resolve(name: str) -> str:
    """The commit of a revision or experiment."""
    if found := _run_git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"):
        return found.decode().split()[-1]
    experiments = _run_git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or b""
    for line in experiments.decode().splitlines():
        commit, reference = line.split(" ", 1)
        if reference.rpartition("/")[2] == name:
            return commit
    raise UserError(f"--also {name}: neither a folder, nor an experiment (`dvc exp list`), nor a revision of git")


def _run_git(*words: str) -> bytes | None:
    """Return what git prints, None where it fails."""
    try:
        return subprocess.run(["git", *words], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def differing_settings(metrics: Path, other: Path) -> str:
    """List the settings of params.yaml beside the folder `other` that params.yaml beside `metrics` has not so.

    That is not known where there is none, or where both folders lie beside the same.
    """
    one, two = (_read_settings(folder.parent / "params.yaml") for folder in (metrics, other))
    if not one or not two or (metrics.parent.resolve() == other.parent.resolve() and not metrics.samefile(other)):
        return "not known"
    changed = [f"{key}: {value}" for key, value in two.items() if key not in one or one[key] != value]
    return ", ".join([*changed, *(f"no {key}" for key in one.keys() - two.keys())]) or "the same"


def _read_settings(path: Path) -> dict[str, object]:
    return dict(_walk(to_plain(read_yaml(path)))) if path.exists() else {}


def _walk(value: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _walk(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
