from pathlib import Path

import pytest

from nanogpt.checkpoint.folder import save_checkpoint


@pytest.fixture(params=["base", "optimized"])
def folder(request, tiny, byte, tmp_path) -> Path:
    """A model without its SHA256SUMS, which would tell of any change before the file itself is read."""
    save_checkpoint(tmp_path / "m", tiny(request.param), byte)
    (tmp_path / "m" / "SHA256SUMS").unlink()
    return tmp_path / "m"
