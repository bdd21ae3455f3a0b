"""Marks for what a test needs and not every machine has."""

import pytest
import torch
from shared import SHARED

from nanogpt.hardware.compilation import can_compile

compiler = pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")
real_text = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here: set NANOGPT_SHARED")
