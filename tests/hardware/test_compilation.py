import json
import os
import subprocess
import sys

import needs
import pytest
import torch

from nanogpt.hardware.compilation import compile_cached, missing_for_compile, should_compile
from nanogpt.hardware.device import autocast, use_deterministic_algorithms
from nanogpt.runtime.errors import BadSetting
from nanogpt.training.step import compile_loss

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A function that puts empty programs on a PATH where nothing else is."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for key in ("CC", "CXX"):
        monkeypatch.delenv(key, raising=False)

    def install(*names: str) -> None:
        for name in names:
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)

    return install


CXX = "clang++" if sys.platform == "darwin" else "g++"


def test_auto_compiles_long_runs(programs, monkeypatch):
    """Of ten minutes at 500 GFLOP/s on a CPU, of five at 100 TFLOP/s under CUDA."""
    programs(CXX, "gcc")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert should_compile("on", 0.0, CPU) is should_compile("on", 0.0, MPS) is True
    assert should_compile("off", 1e30, CPU) is False
    for device, flops in ((CPU, 3e14), (CUDA, 3e16)):
        assert should_compile("auto", flops, device) is True
        assert should_compile("auto", 0.99 * flops, device) is False
    assert should_compile("auto", 1e30, MPS) is False


def test_without_a_compiler(programs, monkeypatch):
    monkeypatch.setenv("CXX", "my-compiler")
    programs(CXX)
    assert should_compile("auto", 1e30, CPU) is False
    with pytest.raises(BadSetting, match=r"a C\+\+ compiler \(.*\) is missing here; install it, or") as caught:
        should_compile("on", 1e30, CPU)
    assert (caught.value.key, caught.value.value) == ("train.compile", "on")
    programs("my-compiler")
    assert not missing_for_compile(CPU)


@pytest.mark.parametrize("triton", [True, False])
def test_cuda_needs_triton_and_a_c_compiler(programs, monkeypatch, triton):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if triton else None)
    assert missing_for_compile(CUDA) == ("a C compiler (gcc)" if triton else "the package triton")
    programs("clang")
    assert not missing_for_compile(CUDA) or not triton
    monkeypatch.setenv("CC", "another")
    assert missing_for_compile(CUDA)


def test_a_cache_that_the_user_chose(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    compile_cached(torch.sin)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")


# As in training: torch's AdamW, which is made before, gives TORCHINDUCTOR_CACHE_DIR a value of its own.
COMPILE = """
import json, torch
from nanogpt.hardware import device
from nanogpt.hardware.compilation import compile_cached
torch.optim.AdamW([torch.ones(1)])
double = compile_cached(lambda x: (2 * x.sin()).exp())
x = torch.linspace(-1, 1, 64)
torch.testing.assert_close(double(x), (2 * x.sin()).exp())
from torch._dynamo.utils import counters
print(json.dumps(counters["inductor"]))
"""


@pytest.mark.slow
@needs.compiler
def test_the_next_process_reads_what_was_compiled(tmp_path, monkeypatch):
    for key in ("TORCHINDUCTOR_CACHE_DIR", "DVC_ROOT"):
        monkeypatch.delenv(key, raising=False)

    def compile_it() -> dict[str, int]:
        done = subprocess.run([sys.executable, "-c", COMPILE], cwd=tmp_path, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    counts = compile_it()
    assert counts["fxgraph_cache_miss"] == 1
    (cache,) = (tmp_path / ".work" / "compiled").iterdir()
    assert any(path.suffix == ".so" for path in cache.rglob("*"))
    counts = compile_it()
    assert counts["fxgraph_cache_hit"] == 1 and not counts.get("fxgraph_cache_miss")


@pytest.mark.slow
@needs.compiler
def test_compiled_kernels_sum_in_one_order(tiny):
    """Each of 40 tokens is there a dozen times, so that both threads add to the same rows of the embedding's gradient.

    Without `use_deterministic_algorithms`, four times gave four sets of bits.
    """
    torch.set_num_threads(2)
    use_deterministic_algorithms()
    model = tiny("optimized", n_embd=128, block_size=64)
    ids = torch.randint(40, (8, 64))
    found = []
    for loss_of in (model, *[compile_loss(model)] * 6):
        with autocast(CPU, torch.bfloat16):
            loss_of(ids, ids).backward()
        found.append([p.grad for p in model.parameters()])
        model.zero_grad()
    eager, first, *others = found
    assert all((ours - exact).norm() < 0.03 * exact.norm() for ours, exact in zip(first, eager, strict=True))
    for gradients in others:
        assert all(map(torch.equal, first, gradients))
