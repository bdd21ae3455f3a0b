"""`python -m stages.merge`, as it is called."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from adapters import fill, ids_of, settings

from nanogpt.checkpoint.folder import load_checkpoint, read_card, save_checkpoint
from nanogpt.lora.adapter import open_adapted, save_adapter
from nanogpt.lora.attach import attach_adapter
from nanogpt.runtime.errors import UserError


def test_once_and_onto_what_is_merged_already(project, run_stage):
    assert not run_stage("merge")
    adapted, _ = open_adapted("models/lora")
    model, _ = load_checkpoint("models/merged")
    with torch.no_grad():
        torch.testing.assert_close(model(ids_of(model)), adapted(ids_of(model)), rtol=0, atol=1e-4)
    figures = json.loads(Path("metrics/merge.json").read_text())
    assert len(figures) == 6 and figures["loss_change_nats"] < 1e-5
    message = run_stage("merge", "--base-checkpoint", "models/merged", "--output-dir", "models/twice")
    assert re.search(r"models/lora was trained on .* \(.{12}\), and models/merged is another model \(.{12}\)", message)
    assert not list(project.rglob("*twice*"))


def test_bfloat16(project, run_stage):
    assert not run_stage("merge", "--dtype", "bfloat16", "--output-dir", "half")
    figures = json.loads(Path("half.merge.json").read_text())
    assert figures["loss_change_nats"] < 1e-5 < figures["saved_max_abs_logit_difference"]
    model, _ = load_checkpoint("half")
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in model.state_dict().values())


def test_a_link_in_an_adapter_reveals_no_file(project, run_stage):
    """A model card's text is copied into the merged model, which may be published."""
    Path("secret").write_text("a private key")
    Path("models/lora/README.md").symlink_to(project / "secret")
    assert "README.md is a link out of its folder" in run_stage("merge")
    assert not Path("models/merged").exists()
    with pytest.raises(UserError, match="is a link out"):
        read_card("models/lora")


def test_a_merge_that_changes_the_model_writes_nothing(project, run_stage):
    """The weights of the head differ by less than bfloat16 can hold."""
    model, tok = load_checkpoint("models/pretrain")
    with torch.no_grad():
        model.lm_head.weight.copy_(4 + model.lm_head.weight / 100)
        model.transformer.ln_f.weight.mul_(100)
    save_checkpoint("models/pretrain", model, tok)
    save_adapter(fill(attach_adapter(model, settings(), 1)), "models/lora", "models/pretrain")
    message = run_stage("merge", "--dtype", "bfloat16", "--output-dir", "merged")
    assert re.search(r"in bfloat16 changed the loss by .* more than 0\.02; nothing .* in float32", message)
    assert not list(Path().glob("*merged*"))
    assert not run_stage("merge")


def test_a_model_with_all_weights_trained_goes_the_same_way(project, run_stage):
    assert not run_stage("lora_finetune", "--kind", "full", "--max-steps", "3", "--out", "whole")
    before, trained = (load_checkpoint(name)[0].state_dict() for name in ("models/pretrain", "whole"))
    assert not [name for name, tensor in trained.items() if torch.equal(tensor, before[name])]
    assert "fine-tuned from | models/pretrain" in read_card("whole")
    assert not run_stage("merge", "--lora-checkpoint", "whole", "--output-dir", "merged")
    merged = load_checkpoint("merged")[0].state_dict()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in trained.items())
    flags = "--lora-checkpoint whole --also merged --prompt once --max-tokens 2 --out page.md"
    assert not run_stage("sample", *flags.split())
    figures = json.loads(Path("page.json").read_text())
    domains = {name: {role: of[role] for role in ("pretrain", "finetune")} for name, of in figures.items()}
    assert domains["adapted"] == domains["merged"] != domains["pretrained"]


def test_a_file_is_for_a_model_and_not_for_an_adapter(project, run_stage):
    assert not run_stage("lora_finetune", "--kind", "full", "--max-steps", "2", "--out", "whole.pt")
    assert Path("whole/lora-finetune.json").is_file() and load_checkpoint("whole.pt")
    message = run_stage("lora_finetune", "--r", "2", "--max-steps", "2", "--out", "adapter.pt")
    assert "adapter.pt: an adapter is a folder" in message


def test_replay_needs_the_text_of_the_model(project, run_stage, capsys):
    shutil.copytree("models/pretrain", "other")
    flags = ["--base-checkpoint", "other", "--max-steps", "2", "--r", "2"]
    assert not run_stage("lora_finetune", *flags, "--out", "without")
    assert "no replay: what other was trained on is not known (--first-domain" in capsys.readouterr().err
    assert "replay: 0.0" in read_card("without")
    message = run_stage("lora_finetune", *flags, "--replay", "0.5", "--out", "with")
    assert "lora.replay = 0.5: the text that the model was trained on is not known" in message
    assert not run_stage("lora_finetune", *flags, "--replay", "0.5", "--first-domain", "data/pretrain", "--out", "with")
    assert "replay: 0.5" in read_card("with")
    assert not run_stage("lora_finetune", *flags, "--base-checkpoint", "models/pretrain/", "--out", "own")
    assert "replay: 0.125" in read_card("own")
