"""Where work in progress lies: `.work`, beside DVC's outs, which outlives a stage that failed."""

import hashlib
import json
import os
from pathlib import Path


def root() -> Path:
    """`.work` of the repository, also where DVC runs an experiment in a copy of it (DVC_ROOT)."""
    return Path(os.environ.get("DVC_ROOT", ""), ".work")


def folder(kind: str, name: str, identity: dict) -> Path:
    """The folder for what `identity` (JSON values) describes, made if missing: `.work/<kind>/<name>-<digest>`.

    Raises OSError where the disk cannot be written.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = root() / kind / f"{name}-{digest}"
    path.mkdir(parents=True, exist_ok=True)
    return path
