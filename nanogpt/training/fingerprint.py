"""The program as a part of what makes a run: the code that computes its result, and the libraries that it calls."""

import importlib.metadata
import sys
from pathlib import Path

from nanogpt.runtime.checksums import sha256

LIBRARIES = ("numpy", "peft", "torch")
# No value that these compute reaches a result: no stage of dvc.yaml depends on them, and a run resumes after they were
# edited.
NEVER_IN_RESULTS = ("nanogpt.runtime", "stages")


def fingerprint_program() -> dict[str, dict[str, str]]:
    """SHA-256 of every module of the package that this process has imported, and the versions of LIBRARIES.

    Modules of NEVER_IN_RESULTS are left out.
    """
    files = {
        name: Path(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.startswith("nanogpt.") and not name.startswith(NEVER_IN_RESULTS) and getattr(module, "__file__", None)
    }
    return {
        "code": {name: sha256(file) for name, file in files.items()},
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
