"""Marks for what a test needs and not every machine has."""

import pytest
import torch
from shared import SHARED

from nanogpt.hardware.compilation import missing_for_compile

compiler = pytest.mark.skipif(bool(missing_for_compile(torch.device("cpu"))), reason="needs a C++ compiler")
real_text = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here: set NANOGPT_SHARED")
