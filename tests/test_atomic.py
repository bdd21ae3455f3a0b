import os
import sys
import threading

import pytest

from nanogpt import atomic


def test_bytes_replace_the_old_file(tmp_path):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    atomic.write_text(tmp_path / "file", "é\r\n")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa9\r\n"


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
        with atomic.folder(path) as new:
            (new / name).write_text(name)
            assert not (path / name).exists()
        assert os.listdir(path) == [name]
        assert os.listdir(path.parent) == ["b"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_block_keeps_the_old_folder(tmp_path, error):
    with atomic.folder(tmp_path / "out") as new:
        (new / "old").write_text("old")
    with pytest.raises(error), atomic.folder(tmp_path / "out") as new:
        (new / "half").write_text("half")
        raise error
    assert os.listdir(tmp_path / "out") == ["old"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_failed_rename_brings_the_old_folder_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with atomic.folder(out) as new:
        (new / "old").write_text("old")
    rename, calls = type(out).rename, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)  # a system that cannot swap two folders
    monkeypatch.setattr(type(out), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic.folder(out):
        pass
    assert os.listdir(out) == ["old"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_linked_folder_is_replaced_behind_its_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with atomic.folder(tmp_path / "out") as new:
        (new / "file").write_text("text")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "file").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere two renames may take the place of a swap")
def test_there_is_always_a_folder_to_read(tmp_path):
    out, over, missing = tmp_path / "out", threading.Event(), []
    with atomic.folder(out) as new:
        (new / "file").write_text("0")

    def look():
        while not over.is_set():
            try:
                (out / "file").read_text()
            except FileNotFoundError as error:
                missing.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for i in range(200):
        with atomic.folder(out) as new:
            (new / "file").write_text(str(i))
    over.set()
    reader.join()
    assert not missing
    assert (out / "file").read_text() == "199"
