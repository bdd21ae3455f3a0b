"""Which model a folder holds, told by its content: wherever it lies, whatever it is called."""

import hashlib
import os
from pathlib import Path

PARTS = ("config.json", "*.safetensors", "*.pt", "tokenizer.json")


def holds_checkpoint(path: Path | str) -> bool:
    """False for a folder without any file but a README.md, which `train.init_from` names by default."""
    path = Path(path)
    return not os.path.isdir(path) or any(file.name != "README.md" and file.name[0] != "." for file in path.iterdir())


def model_identity(path: Path | str) -> str:
    """SHA-256 of shape, weights and tokens: of the files of a folder that PARTS match, or of one file."""
    path = Path(path)
    files = sorted({file for part in PARTS for file in path.glob(part)}) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
