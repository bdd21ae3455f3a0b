"""Fingerprint of the program: the code that computes a run's result, and the versions of the libraries it calls."""

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

from nanogpt.runtime.checksums import sha256

TRAINING_LIBRARIES = ("numpy", "peft", "torch")
# No value computed here reaches a result (the machine's cores, counted here, are recorded as `threads`): no training
# stage of dvc.yaml depends on it, and a run resumes after an edit.
NEVER_IN_RESULTS = ("nanogpt.runtime", "stages")


def fingerprint_program(libraries: Sequence[str] = TRAINING_LIBRARIES) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of each imported module of the package, and the versions of `libraries`.

    Modules of NEVER_IN_RESULTS are left out.
    """
    files = {
        name: Path(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.startswith("nanogpt.") and not name.startswith(NEVER_IN_RESULTS) and getattr(module, "__file__", None)
    }
    return {
        "code": {name: sha256(file) for name, file in files.items()},
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
    }
