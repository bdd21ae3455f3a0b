"""The Linux control groups around this process, through which a container is limited."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def enclosing_groups(controller: str, proc: Path, cgroups: Path) -> Iterator[tuple[Path, int]]:
    """Yield folder and version (1 or 2) of each control group around this process that may limit `controller`.

    Some of the folders may be missing. Sources: the kernel's admin-guide/cgroup-v2 and cgroup-v1.
    """
    for line in read_text(proc / "self" / "cgroup").splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        path = PurePosixPath(group.lstrip("/"))
        for mount in dict.fromkeys((controller, controllers) if controllers else [""]):
            for folder in (path, *path.parents):
                yield cgroups / mount / folder, 1 if controllers else 2


def read_text(path: Path) -> str:
    """The text of a file of the kernel; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
