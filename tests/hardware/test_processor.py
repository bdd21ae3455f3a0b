import os
import platform
import subprocess
import sys

import pytest
import torch

from nanogpt.hardware.device import set_threads
from nanogpt.hardware.processor import ISA_LIMITS, describe_processor, instruction_set, processor_name
from nanogpt.runtime.cores import usable_cores

X86_LINUX = sys.platform == "linux" and platform.machine() == "x86_64"


def test_auto_takes_the_cores_this_process_may_use():
    found = set_threads("auto")
    assert found == torch.get_num_threads() == usable_cores()
    if hasattr(os, "sched_setaffinity"):
        bound = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(bound)})
        try:
            assert set_threads("auto") == 1
            line = describe_processor()
            assert line == f"{processor_name()}, 1 core, {instruction_set()}, torch {torch.__version__}"
        finally:
            os.sched_setaffinity(0, bound)


def test_the_instruction_set_is_what_the_processor_says(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    has = torch.cpu.get_capabilities()  # asks the processor itself
    if platform.machine() in ("arm64", "aarch64"):
        assert instruction_set() == "NEON" or has["sve"]
    elif platform.machine() in ("x86_64", "AMD64") and sys.platform == "linux":
        best = "AMX" if has["amx_bf16"] else "AVX512-BF16" if has["avx512_bf16"] else "AVX512"
        assert instruction_set() == (best if has["avx512_f"] else "AVX2" if has["avx2"] else "plain")


SAYS = """
import os, torch
from nanogpt.hardware.processor import instruction_set
os.environ["ONEDNN_VERBOSE"] = "1"
for value in {values}:
    if os.fork() == 0:
        os.environ["ONEDNN_MAX_CPU_ISA"] = value
        print("=", value, "=", instruction_set(), flush=True)
        torch.ones(4, 4).to_mkldnn()  # oneDNN reads its settings on first use, and says what it found
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not X86_LINUX, reason="oneDNN names x86's instruction sets")
def test_the_instruction_set_is_what_onednn_uses():
    values = ["", "default", "ALL", "no such set", *ISA_LIMITS, "AVX512_CORE", "Avx2", "AVX512_CORE_AMX"]
    code = SAYS.format(values=values)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answers = done.stdout.split("= ")[1:]
    answers = dict(zip(answers[::2], answers[1::2], strict=True))
    assert [value.strip() for value in answers] == values
    for value, answer in answers.items():
        ours, said = answer.split("\n", 1)
        onednn = next(line.split("isa:")[1] for line in said.splitlines() if "cpu,isa:" in line)
        assert ours == in_our_words(onednn), f"ONEDNN_MAX_CPU_ISA={value}: {onednn}"


def in_our_words(onednn: str) -> str:
    if "AMX" in onednn:
        return "AMX"
    if "AVX10" in onednn.replace(" ", "") or ("AVX-512" in onednn and "bfloat16" in onednn):
        return "AVX512-BF16"
    return "AVX512" if "AVX-512" in onednn else "AVX2" if "AVX2" in onednn else "plain"
