import json
import os
import subprocess
import sys
from pathlib import Path

import needs
import pytest
import torch
from imports import ROOT

from nanogpt.hardware.compilation import WORTH_COMPILING, can_compile, compile_cached, should_compile
from nanogpt.hardware.device import autocast, use_deterministic_algorithms
from nanogpt.model.loss import head_loss
from nanogpt.runtime.errors import BadSetting
from nanogpt.training.step import compile_loss

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def compiler(tmp_path, monkeypatch) -> Path:
    """A PATH with nothing but a C++ compiler on it."""
    file = tmp_path / "bin" / "g++"
    file.parent.mkdir()
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(file.parent))
    return file


@pytest.fixture
def no_compiler(compiler):
    compiler.unlink()


@pytest.mark.parametrize("flops", [0.0, 1e30])
@pytest.mark.parametrize("device", [CPU, CUDA, MPS], ids=str)
def test_as_wanted(compiler, flops, device):
    assert should_compile("on", flops, device) is True
    assert should_compile("off", flops, device) is False


def test_auto_compiles_long_runs(compiler):
    for device in (CPU, CUDA):
        assert should_compile("auto", WORTH_COMPILING, device) is True
        assert should_compile("auto", 0.99 * WORTH_COMPILING, device) is False
    assert should_compile("auto", 1e30, MPS) is False


def test_without_a_compiler(no_compiler):
    assert not can_compile(CPU) and can_compile(CUDA)
    assert should_compile("auto", 1e30, CPU) is False
    assert should_compile("off", 1e30, CPU) is False
    with pytest.raises(BadSetting, match=r"there is no C\+\+ compiler here; install g\+\+, or choose off") as caught:
        should_compile("on", 1e30, CPU)
    assert (caught.value.key, caught.value.value) == ("train.compile", "on")


@pytest.mark.parametrize("name", ["c++", "clang++"])
def test_other_compilers_will_do(compiler, name):
    compiler.rename(compiler.with_name(name))
    assert can_compile(CPU)


def test_a_cache_that_the_user_chose(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    compile_cached(torch.sin)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")


def test_the_compiled_loss_reads_the_head_and_leaves_it_alone(tiny, tmp_path, monkeypatch):
    """The head's loss is no part of what is compiled; without compiling, the loss is the model's own."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    model = tiny("optimized")
    ids, targets = torch.randint(320, (2, 3, 16))
    with torch.compiler.set_stance("force_eager"):
        loss = compile_loss(model)(ids, targets)
    torch.testing.assert_close(loss, head_loss(model.lm_head, model.hidden(ids), targets))


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
def test_what_was_compiled_waits_in_work_for_the_next_process(tmp_path):
    env = {key: value for key, value in os.environ.items() if key not in ("TORCHINDUCTOR_CACHE_DIR", "DVC_ROOT")}

    def compile_it() -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-c", COMPILE],
            cwd=tmp_path, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    counts = compile_it()
    assert counts["fxgraph_cache_miss"] == 1
    (cache,) = (tmp_path / ".work" / "compiled").iterdir()
    assert any(path.suffix == ".so" for path in cache.rglob("*"))
    counts = compile_it()
    assert counts["fxgraph_cache_hit"] == 1 and not counts.get("fxgraph_cache_miss")


@pytest.mark.slow
@needs.compiler
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_compiled_kernels_add_in_one_order(tiny, tmp_path, monkeypatch, arch):
    """Each of 40 tokens is there a dozen times, so that both threads add to the same rows of the embedding's gradient.

    Without `use_deterministic_algorithms`, four times gave four sets of bits.
    """
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.set_num_threads(2)
    use_deterministic_algorithms()
    model = tiny(arch, n_embd=128, block_size=64, n_layer=2)
    ids = torch.randint(40, (8, 64))
    loss_of, found = compile_loss(model), []
    for _ in range(6):
        with autocast(CPU, torch.bfloat16):
            loss_of(ids, ids).backward()
        found.append([p.grad for p in model.parameters()])
        model.zero_grad()
    for gradients in found[1:]:
        assert all(map(torch.equal, found[0], gradients))
