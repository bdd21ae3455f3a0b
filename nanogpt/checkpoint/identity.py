"""Identifies a model by SHA-256 of its content, not by its path."""

import hashlib
import os
from pathlib import Path

PARTS = ("config.json", "*.safetensors", "*.pt", "tokenizer.json")


def holds_checkpoint(path: Path | str) -> bool:
    """Whether `path` is more than a folder with at most a README.md, as the default of `train.init_from` is."""
    path = Path(path)
    return not os.path.isdir(path) or any(file.name != "README.md" and file.name[0] != "." for file in path.iterdir())


def model_identity(path: Path | str) -> str:
    """SHA-256 of a model's config, weights and tokenizer: a folder's regular files that match PARTS, or one file."""
    path = Path(path)
    files = sorted({file for part in PARTS for file in path.glob(part) if file.is_file()}) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
