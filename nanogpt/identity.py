"""Which model a folder holds, told by its content: wherever it lies, whatever it is called."""

import hashlib
from pathlib import Path

PARTS = ("config.json", "model.safetensors", "model.pt", "tokenizer.json")


def identity(path: Path | str) -> str:
    """SHA-256 of shape, weights and tokens: of those files PARTS that a folder has, or of one file."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in [path / name for name in PARTS] if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
