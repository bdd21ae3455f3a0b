import math
import os
import platform
import subprocess
import sys

import pytest
import torch
from containers import container

from nanogpt.hardware.cores import (
    ISA_LIMITS,
    _core_limits,
    describe_processor,
    instruction_set,
    processor_name,
    usable_cores,
)
from nanogpt.hardware.device import set_threads

X86_LINUX = sys.platform == "linux" and platform.machine() == "x86_64"
BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_auto_takes_the_cores_this_process_may_use():
    found = set_threads("auto")
    assert found == torch.get_num_threads() == usable_cores()
    assert 1 <= found <= os.cpu_count()
    if hasattr(os, "sched_setaffinity"):
        bound = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(bound)})
        try:
            assert set_threads("auto") == 1
            line = describe_processor()
            assert line == f"{processor_name()}, 1 core, {instruction_set()}, torch {torch.__version__}"
        finally:
            os.sched_setaffinity(0, bound)


V1 = "12:cpuset:/pod/app\n4:cpu,cpuacct:/pod/app\n1:name=systemd:/pod/app\n"
CONTAINERS = {
    "no /proc": ("", {}, None),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "its own group": ("0::/pod/app\n", {"pod/app/cpu.max": "150000 100000\n"}, 1.5),
    "the group above": ("0::/pod/app\n", {"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "70000 100000\n"}, 0.7),
    "a group out of sight": ("0::/../other\n", {"cpu.max": "80000 100000\n"}, 0.8),
    "another process's group": ("0::/pod/app\n", {"pod/other/cpu.max": "50000 100000\n"}, None),
    "v1": (V1, {"cpu/pod/app/cpu.cfs_quota_us": "60000", "cpu/pod/app/cpu.cfs_period_us": "50000\n"}, 1.2),
    "v1, no limit": (V1, {"cpu/pod/app/cpu.cfs_quota_us": "-1\n", "cpu/pod/app/cpu.cfs_period_us": "100000"}, None),
    "v1, by its full name": (
        V1,
        {"cpu,cpuacct/pod/app/cpu.cfs_quota_us": "9000", "cpu,cpuacct/pod/app/cpu.cfs_period_us": "10000"},
        0.9,
    ),
    "v1, its root": (V1, {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
    "v1 and v2": (
        "1:cpu:/\n0::/pod\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "pod/cpu.max": "90000 100000"},
        0.9,
    ),
    "words": ("0::/\n", {"cpu.max": "half of it"}, None),
}


@pytest.mark.parametrize(("lines", "files", "grant"), CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_limits_the_cores(tmp_path, lines, files, grant):
    proc, cgroups = container(tmp_path, lines, files)
    assert min(_core_limits(proc, cgroups), default=None) == grant
    assert usable_cores(proc, cgroups) == (min(BOUND, math.ceil(grant)) if grant else BOUND)


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
from nanogpt.hardware.cores import instruction_set
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
    done = subprocess.run(
        [sys.executable, "-c", SAYS.format(values=values)], capture_output=True, text=True, check=True
    )
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
    if "AVX10" in onednn or ("AVX-512" in onednn and "bfloat16" in onednn):
        return "AVX512-BF16"
    return "AVX512" if "AVX-512" in onednn else "AVX2" if "AVX2" in onednn else "plain"


def test_the_name_says_who_made_it():
    assert processor_name().strip()
    if X86_LINUX:
        assert torch.cpu.get_capabilities()["cpu_name"].split()[0] in processor_name()


def test_cores_are_counted_without_torch():
    code = "import sys, nanogpt.hardware.cores as cores; assert cores.usable_cores() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
