import shutil
import subprocess

import pytest

from nanogpt import atomic, sums
from nanogpt.errors import UserError


@pytest.fixture
def folder(tmp_path):
    with atomic.folder(tmp_path / "out", "a") as new:
        (new / "a").write_text("one")
        (new / "b").mkdir()
        (new / "b" / "two words").write_text("two")
        (new / "README.md").write_text("anyone may edit this")
    return tmp_path / "out"


def test_sha256sum_reads_them(folder):
    assert [line[66:] for line in (folder / "SHA256SUMS").read_text().splitlines()] == ["a", "b/two words"]
    program = next(filter(shutil.which, ["sha256sum", "shasum"]))
    done = subprocess.run([program, "--check", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "a: OK\nb/two words: OK\n"


def test_what_was_written_passes(folder):
    sums.check(folder, ["a", "b/two words", "README.md", "no such file"])
    (folder / "README.md").write_text("edited")
    sums.check(folder, ["README.md"])
    (folder / "SHA256SUMS").unlink()
    (folder / "a").write_text("of a folder from elsewhere")
    sums.check(folder, ["a"])


@pytest.mark.parametrize("change", [lambda file: file.write_text("One"), lambda file: file.unlink()])
def test_what_was_not_is_refused(folder, change):
    change(folder / "a")
    sums.check(folder, ["b/two words"])
    with pytest.raises(
        UserError, match=r"out/a: not what was written there .* delete .*SHA256SUMS if the change was meant"
    ):
        sums.check(folder, ["a"])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no sums at all\n" * 3])
def test_damaged_sums_are_no_traceback(folder, content):
    (folder / "SHA256SUMS").write_bytes(content)
    sums.check(folder, ["a"])
