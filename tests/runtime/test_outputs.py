import os
import shutil
from pathlib import Path

import pytest

from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.outputs import check_outputs

MARKER = "config.json"


@pytest.fixture
def ours(inside) -> Path:
    """A folder that the project wrote: a marker and a file in a folder of its own."""
    with atomic.replace_folder("ours", MARKER) as folder:
        (folder / MARKER).write_text("{}")
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "a.json").write_text("a")
    return Path("ours")


def refusal(*args, **rest) -> str:
    with pytest.raises(UserError) as caught:
        check_outputs(*args, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_new_paths_and_empty_folders_pass(inside):
    Path("empty").mkdir()
    check_outputs({"empty": MARKER, "new/deep": MARKER, "new/file.md": None})
    assert os.listdir() == ["empty"]


def test_a_folder_of_ours_and_a_file_pass_with_overwrite_alone(ours):
    Path("file").write_text("text")
    (ours / "README.md").write_text("notes of the user")
    for path, marker in ((ours, MARKER), ("file", None)):
        assert "add --overwrite" in refusal({path: marker})
        check_outputs({path: marker}, overwrite=True)


def change(path: Path) -> None:
    (path / "tokenizer" / "a.json").write_text("b")


def add_hidden(path: Path) -> None:
    (path / ".git").mkdir()
    (path / ".git" / "HEAD").touch()


DAMAGES = {
    "tokenizer/a.json": change,
    "tokenizer/added": lambda path: (path / "tokenizer" / "added").touch(),
    "empty": lambda path: (path / "empty").mkdir(),
    "pipe": lambda path: os.mkfifo(path / "pipe"),
    "link": lambda path: (path / "link").symlink_to("/"),
    ".git/HEAD": add_hidden,
    "tokenizer/": lambda path: (path / "tokenizer" / "a.json").unlink(),
    "tokenizer": lambda path: shutil.rmtree(path / "tokenizer") or (path / "tokenizer").touch(),
    MARKER: lambda path: (path / "SHA256SUMS").unlink(),
}


@pytest.mark.parametrize("stray", DAMAGES)
def test_a_folder_that_is_not_as_it_was_written_is_never_replaced(ours, stray):
    DAMAGES[stray](ours)
    message = refusal({ours: MARKER}, overwrite=True)
    assert f"is not as this project wrote it: {stray.rstrip('/')} was" in message and "--overwrite" not in message


def test_other_outputs_of_the_command_may_lie_in_the_folder(ours):
    (ours / "metrics.json").touch()
    check_outputs({ours: MARKER, ours / "metrics.json": None}, overwrite=True)
    assert "metrics.json" in refusal({ours: MARKER}, overwrite=True)


def test_a_folder_of_another_kind_is_never_replaced(ours):
    assert "holds other things (no manifest.json)" in refusal({ours: "manifest.json"}, overwrite=True)


def test_an_input_is_never_an_output(ours):
    Path("link").symlink_to("ours")
    for source in ("ours", "link", "ours/tokenizer", "link/tokenizer/a.json"):
        for out in ("ours", "link"):
            assert "which this command reads" in refusal({out: MARKER}, [source], overwrite=True)
    check_outputs({"ours": MARKER}, ["ours2", "."], overwrite=True)  # a longer name, and a folder around it


def test_folders_around_the_working_folder_and_what_is_no_file(ours, monkeypatch):
    os.mkfifo("pipe")
    for out, marker, reason in (
        (".", MARKER, "contains the working folder"),
        ("..", MARKER, "contains the working folder"),
        ("pipe", MARKER, "is a file, and a folder"),
        ("pipe", None, "not a regular file"),
        ("ours", None, "not a regular file"),
        ("/dev/null", None, "not a regular file"),
    ):
        assert reason in refusal({out: marker}, overwrite=True)


@pytest.mark.parametrize("path", ["file/new", "file/new/deeper", "x" * 300, "y/" + "x" * 300, "/proc/new", "loop"])
def test_a_place_where_nothing_can_be_created(inside, path):
    Path("file").touch()
    Path("loop").symlink_to("loop")
    for marker in (None, MARKER):
        assert "choose another" in refusal({path: marker}, overwrite=True)
    assert sorted(os.listdir()) == ["file", "loop"]
