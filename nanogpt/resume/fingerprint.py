"""The program as a part of what makes a run: the code that it runs, and the libraries that compute for it."""

import importlib.metadata
import sys
from pathlib import Path

from nanogpt.runtime.checksums import sha256

LIBRARIES = ("numpy", "peft", "torch")


def program() -> dict[str, dict[str, str]]:
    """SHA-256 of every module of the project that this process has imported, and the versions of LIBRARIES."""
    stage = "__main__" if sys.modules["__main__"].__package__ == "stages" else "stages"
    files = {
        name: Path(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] in ("nanogpt", stage) and getattr(module, "__file__", None)
    }
    return {
        "code": {name: sha256(file) for name, file in files.items()},
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
