"""Control groups as a container's process sees them, as files in a folder."""

from pathlib import Path


def container(root: Path, lines: str, files: dict[str, str | bytes]) -> tuple[Path, Path]:
    """A /proc and a /sys/fs/cgroup of a process whose /proc/self/cgroup says `lines`."""
    proc, cgroups = root / "proc", root / "cgroup"
    for path, text in {proc / "self/cgroup": lines, **{cgroups / name: text for name, text in files.items()}}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return proc, cgroups
