"""The check stage: mistakes that settings, sources and machine show are found before any other stage runs."""

import re

import pytest
import torch
from imports import ROOT
from ruamel.yaml import YAML

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.pipeline.check import check_project
from nanogpt.runtime.errors import UserError

EIGHT_GIB = 8192.0
MISTAKES = {
    "seed": ({"seed": -1}, r"seed = -1: not between 0"),
    "rank": ({"lora.r": 400}, r"lora\.r = 400: above the model's width of 256; choose 4 to 64"),
    "targets": ({"lora.target_modules": ["q_proj"]}, r"lora\.target_modules = .*base has no module 'q_proj'; choose"),
    "device": ({"train.device": "cuda"}, r"train\.device = 'cuda': torch finds none on this machine"),
    "compiler": ({"train.compile": "on"}, r"train\.compile = 'on': a C\+\+ compiler .* is missing here"),
    "batch": ({"train.batch_size": 10**9}, r"train\.batch_size = 1000000000: training needs at least .* choose less"),
    "lora batch": ({"lora.batch_size": 10**9}, r"lora\.batch_size = 1000000000: .*; choose less than \d+; "),
    "benchmark batch": ({"benchmark.batch_size": 10**7}, r"benchmark\.batch_size = 10000000: "),
    "width": ({"model.n_embd": 2**20}, r"the model of section train is too large .* smaller n_embd"),
    "vocabulary": ({"tokenizer.vocab_size": 10**6, "model.n_embd": 768}, r"section train is too large.* vocabulary$"),
    "own output": ({"train.init_from": "models/pretrain"}, r"train\.init_from = .*writes models itself.*data/own/pret"),
    "own data": ({"data.finetune.path": "data/pretrain"}, r"data\.finetune\.path = 'data/pretrain': .*writes data/pre"),
    "shape": ({"train.init_from": "model"}, r"train\.init_from = model: a model of another shape .*model\.n_layer: 2"),
    "prompt": ({"sample.prompts": ["Once", ""]}, r"sample\.prompts = .*: a text is empty; "),
    "warm-up": ({"train.warmup_steps": 1.5}, r"train\.warmup_steps = 1\.5: not a share between 0 and 1"),
    "interval": ({"train.checkpoint_every": "often"}, r"train\.checkpoint_every = 'often': neither steps nor a time"),
    "source": ({"data.pretrain.source": "files", "data.pretrain.path": "nowhere"}, r"nowhere"),
}


@pytest.fixture
def project(tmp_path, monkeypatch, tiny, byte):
    """A folder with params.yaml on a machine of 8 GiB without GPU and compiler; a function changes settings there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("nanogpt.hardware.memory.available_mib", lambda: EIGHT_GIB)
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    (tmp_path / "data/own/model").mkdir(parents=True)
    save_checkpoint(tmp_path / "model", tiny(n_layer=2), byte)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")

    def change(settings: dict) -> None:
        for key, value in settings.items():
            section = params
            for name in key.split(".")[:-1]:
                section = section[name]
            section[key.rpartition(".")[2]] = value
        yaml.dump(params, tmp_path / "params.yaml")

    return change


@pytest.mark.parametrize(("settings", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found_with_its_place_and_nothing_is_written(project, tmp_path, settings, message):
    project(settings)
    with pytest.raises(UserError, match=message) as caught:
        check_project()
    assert not (tmp_path / "data/checked").exists()
    if match := re.match(r"params\.yaml, line (\d+): ([\w.]+) = ", str(caught.value)):
        line = (tmp_path / "params.yaml").read_text().splitlines()[int(match[1]) - 1]
        assert line.split(":")[0].strip() == match[2].rpartition(".")[2]


@pytest.mark.parametrize("settings", [{}, {"model.arch": "optimized", "lora.target_modules": ["q_proj"]}], ids=str)
def test_what_can_run_passes(project, tmp_path, settings):
    project(settings | {"data.pretrain.num_samples": 300, "data.finetune.num_samples": 300})
    assert "stories and abstracts" in check_project()
    assert (tmp_path / "data/checked").read_text() == "params.yaml and the sources were read without complaint\n"
    assert (tmp_path / "data/tokenizer-text").read_text() == "none\n"
