"""Where real text lies that is no part of the project."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("NANOGPT_SHARED", Path(__file__).parents[3] / "shared")).resolve()
