import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
import torch
from safetensors.torch import save_file

from nanogpt.runtime import atomic

MARKER = "old"


def test_text_replaces_the_old_file_in_utf8_with_its_own_line_ends(tmp_path):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")
    atomic.write_text(path, "é\r\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a" / "b"
    for name in ("first", "second"):
        with atomic.replace_folder(path, MARKER) as new:
            (new / name).write_text(name)
            (new / MARKER).touch()
            assert not (path / name).exists()
        assert sorted(os.listdir(path)) == sorted([name, MARKER, "SHA256SUMS"])
        assert os.listdir(path.parent) == ["b"]


def test_a_failed_block_or_rename_keeps_the_old_folder(tmp_path, monkeypatch):
    out, rename = tmp_path / "out", Path.rename
    with atomic.replace_folder(out, MARKER) as new:
        (new / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic.replace_folder(out, MARKER) as new:
        (new / "half").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["out"]

    def fail_for_new(self, target):
        if self.suffix == ".tmp":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(KeyboardInterrupt), atomic.replace_folder(out, MARKER):
        pass
    assert (out / "old").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_linked_folder_is_replaced_behind_its_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with atomic.replace_folder(tmp_path / "out", MARKER) as new:
        (new / "file").write_text("text")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "file").exists()


@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_between_the_renames_loses_nothing(tmp_path, renames):
    """The next write restores the old folder, or deletes it where the new one is in place; its own failure keeps it."""
    out = tmp_path / "out"
    write = "import os\nfrom pathlib import Path\nfrom nanogpt.runtime import atomic\n"
    write += "with atomic.replace_folder('out', 'old') as new:\n    (new / 'old').write_text(text)\n"
    kill = "rename, left = Path.rename, [0]\ndef count(self, to):\n    rename(self, to)\n    left[0] += 1\n"
    kill += f"    if left[0] == {renames}:\n        os._exit(9)\nPath.rename = count\n"
    for program in ("text = 'first'\n" + write, "text = 'second'\n" + write.replace("with", kill + "with")):
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path)
    assert out.exists() == (renames == 2)
    with pytest.raises(ValueError), atomic.replace_folder(out, MARKER):
        raise ValueError
    assert (out / MARKER).read_text() == ("first" if renames == 1 else "second")
    assert os.listdir(tmp_path) == ["out"]


def test_what_safetensors_says_of_the_disk_is_the_systems_error(tmp_path):
    """Its own exception, of a real write that fails: the folder is removed under it."""
    with pytest.raises(FileNotFoundError) as caught, atomic.replace_folder(tmp_path / "model", MARKER) as new:
        save_file({"a": torch.ones(3)}, new / "gone" / "model.safetensors")
    assert caught.value.filename == str(tmp_path / "model")
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from nanogpt.runtime import atomic
with getattr(atomic, f"replace_{sys.argv[1]}")(*sys.argv[2:]) as new:
    print(new if sys.argv[1] == "folder" else new.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL if sys.stdin.readline() == "die" else signal.SIGSTOP)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path, kind):
    words = [kind, str(tmp_path / "out"), *(["old"] if kind == "folder" else [])]
    started = [
        subprocess.Popen([sys.executable, "-c", KILLED, *words], stdin=PIPE, stdout=PIPE, text=True) for _ in range(2)
    ]
    dead, alive = (Path(process.stdout.readline().strip()) for process in started)
    started[0].communicate("die")
    try:
        assert dead.exists() and alive.exists()
        replace = atomic.replace_folder if kind == "folder" else atomic.replace_file
        with replace(*words[1:]):
            assert not dead.exists() and alive.exists()
    finally:
        started[1].kill()
        started[1].communicate()
    assert sorted(os.listdir(tmp_path)) == sorted([alive.name, "out"])


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_removed_before_it_was_locked_is_created_again(tmp_path, monkeypatch, kind):
    lock, removed = atomic._lock, []

    def lock_late(fd: int) -> None:
        if not removed:  # what another process does that takes it for a killed one's
            removed.extend(tmp_path.glob(".out.*.tmp"))
            removed[0].unlink() if kind == "file" else removed[0].rmdir()
        lock(fd)

    monkeypatch.setattr(atomic, "_lock", lock_late)
    if kind == "file":
        atomic.write_text(tmp_path / "out", "new")
    else:
        with atomic.replace_folder(tmp_path / "out", MARKER) as folder:
            (folder / MARKER).write_text("new")
    assert len(removed) == 1 and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" if kind == "file" else tmp_path / "out" / MARKER).read_text() == "new"
