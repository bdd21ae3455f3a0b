import shutil
import subprocess

import pytest

from nanogpt.runtime import atomic
from nanogpt.runtime.checksums import verify_checksums
from nanogpt.runtime.errors import UserError


@pytest.fixture
def folder(tmp_path):
    with atomic.replace_folder(tmp_path / "out", "a") as new:
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
    verify_checksums(folder, ["a", "b/two words", "README.md", "no such file"])
    (folder / "README.md").write_text("edited")
    verify_checksums(folder, ["README.md"])
    (folder / "SHA256SUMS").unlink()
    (folder / "a").write_text("of a folder from elsewhere")
    verify_checksums(folder, ["a"])


@pytest.mark.parametrize("change", [lambda file: file.write_text("One"), lambda file: file.unlink()])
def test_what_was_not_is_refused(folder, change):
    change(folder / "a")
    verify_checksums(folder, ["b/two words"])
    with pytest.raises(UserError, match=r"out/a: changed since it was written .* delete .*SHA256SUMS if"):
        verify_checksums(folder, ["a"])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"no sums at all\n" * 3])
def test_damaged_sums_are_no_traceback(folder, content):
    (folder / "SHA256SUMS").write_bytes(content)
    verify_checksums(folder, ["a"])
