"""The parts that are exchanged, by properties of what they compute, and the table of their training."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from imports import ROOT
from ruamel.yaml import YAML

import stages.architecture
from nanogpt.model.config import ModelConfig
from nanogpt.research.architecture import PARTS

SHAPE = {"n_layer": 1, "n_head": 2, "n_kv_head": 1, "n_embd": 16, "block_size": 16}


def build(part: str, arch: str = "optimized", **changed):
    shape = SHAPE | {"dropout": 0.0, "tie_embeddings": True, "qk_norm": True, "vocab_size": 320} | changed
    torch.manual_seed(1)
    return PARTS[arch][part](ModelConfig(arch=arch, **shape))


def test_without_rotations_a_layer_knows_the_order_from_the_table_alone():
    model = build("learned positions for rotary ones")
    ids = torch.arange(10)[None]
    swapped = ids[:, [3, 1, 2, 0, 4, 5, 6, 7, 8, 9]]
    assert not torch.allclose(model.hidden(ids)[0, -1], model.hidden(swapped)[0, -1], atol=1e-5)
    torch.nn.init.zeros_(model.positions.weight)
    torch.testing.assert_close(model.hidden(ids)[0, -1], model.hidden(swapped)[0, -1])


def test_norms_after_the_sums_leave_the_stream_normalised():
    sizes = {}
    for part in ("whole", "norms after the sums"):
        model = build(part)
        model.model.norm = torch.nn.Identity()
        sizes[part] = model.hidden(torch.arange(10)[None]).square().mean(-1)
    torch.testing.assert_close(sizes["norms after the sums"], torch.ones(1, 10), atol=1e-4, rtol=0)
    assert (sizes["whole"] - 1).abs().min() > 0.01


def test_initial_weights():
    weights = dict(build("initial weights of 0.02", n_embd=256, n_head=4).named_parameters())
    assert weights["model.embed_tokens.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    table, other = (
        build(part, "base", n_embd=64).transformer.wpe.weight for part in PARTS["base"] if "0.02" not in part
    )
    assert torch.corrcoef(table)[0, 1] > 0.5 > torch.corrcoef(other)[0, 1].abs()  # neighbours resemble each other


def test_the_table(tmp_path, monkeypatch, write_bins, byte):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "data" / "own", "data/own")
    write_bins(tmp_path / "data" / "pretrain", byte, [f"once upon a time, {i}" for i in range(60)])
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    content["model"] |= SHAPE
    content["train"] |= {
        "batch_size": 2,
        "eval_every": 2,
        "eval_batches": 1,
        "max_minutes": 9.0,
        "dtype": "float32",
        "threads": 1,
    }
    yaml.dump(content, Path("params.yaml"))
    monkeypatch.setattr(sys, "argv", ["architecture.py", "--seeds", "2", "--max-steps", "2", "--out", "figures.json"])
    stages.architecture.main()
    found = json.loads(Path("figures.json").read_text())["architecture"]
    rows = {(arch, part): row for arch in PARTS for part, row in found[arch].items()}
    assert list(rows) == [(arch, part) for arch in PARTS for part in PARTS[arch]]
    assert len({row["loss_nats"] for row in rows.values()}) == len(rows) - 1  # base is there twice
    assert found["optimized"]["base"]["loss_nats"] == found["base"]["whole"]["loss_nats"]
    assert found["base"]["whole"]["percent"] == 0.0 < found["base"]["initial weights of 0.02"]["loss_nats_ci95"]
    ratio = found["optimized"]["base"]["loss_nats"] / found["optimized"]["whole"]["loss_nats"]
    assert found["optimized"]["base"]["percent"] == pytest.approx(100 * (ratio - 1), abs=0.05)
