import dataclasses
import json
import re

import pytest
import torch
from safetensors.torch import save_file

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.checkpoint.identity import holds_checkpoint
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import load_from_checkpoint
from nanogpt.model.build import new_model
from nanogpt.model.config import ModelSettings
from nanogpt.runtime.errors import UserError
from nanogpt.training.init_from import check_init_from, describe_origin, initial_model

AUTO = TokenizerSettings("auto", 300, "error")
SHAPE = ModelSettings("optimized", 1, 2, 1, 16, 16, 0.0, False, False)


@pytest.fixture
def saved(tiny, byte, tmp_path):
    """A folder with a small model that knows bytes, and the model."""
    net = tiny("optimized")
    save_checkpoint(tmp_path / "m", net, byte)
    return tmp_path / "m", net


def test_an_empty_folder_means_fresh_weights(byte, tmp_path):
    (tmp_path / "README.md").write_text("Put a model here.")
    assert describe_origin(tmp_path) == "fresh weights"
    fresh, wanted = initial_model(SHAPE, tmp_path, byte, seed=3), new_model(SHAPE, byte.vocab_size, 3)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), wanted.parameters(), strict=True))
    (tmp_path / ".DS_Store").touch()
    assert not holds_checkpoint(tmp_path)
    assert load_from_checkpoint(tmp_path) is None
    check_init_from(SHAPE, AUTO, tmp_path)


@pytest.mark.parametrize("name", ["m", "m.pt"])
def test_a_checkpoint_s_weights_with_the_dropout_of_params(saved, byte, tmp_path, name):
    _, net = saved
    assert re.fullmatch(r"the checkpoint [0-9a-f]{12}", describe_origin(tmp_path / "m"))
    if name.endswith(".pt"):
        save_checkpoint(tmp_path / name, net, byte)
    initial = initial_model(dataclasses.replace(SHAPE, dropout=0.5), tmp_path / name, byte, seed=3)
    assert initial.config.dropout == 0.5
    assert initial.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in initial.state_dict().items())
    ids = torch.arange(10)[None]
    assert torch.equal(initial.eval()(ids), net.eval()(ids))
    assert not torch.equal(initial.train()(ids), net(ids))


def test_its_tokenizer_goes_with_it(saved, byte, char, tiny, tmp_path):
    folder, _ = saved
    assert load_from_checkpoint(folder).sha256 == byte.sha256
    with pytest.raises(UserError, match=r"it knows the 257 tokens of a byte tokenizer, .* others \(char\)"):
        initial_model(SHAPE, folder, char, seed=1)
    check_init_from(SHAPE, AUTO, folder)
    save_checkpoint(tmp_path / "c.pt", tiny("optimized"), char)
    with pytest.raises(UserError, match=r"stages\.convert --checkpoint .*c\.pt --out NEW"):
        check_init_from(SHAPE, AUTO, tmp_path / "c.pt")


def test_a_tokenizer_that_we_cannot_read(saved):
    folder, _ = saved
    (folder / "tokenizer.json").write_text("[" * 100_000)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"train\.init_from = .*its tokenizer cannot be used here.*--tokenizer FOLDER"):
        check_init_from(SHAPE, AUTO, folder)


def test_weights_without_a_tokenizer(tiny, byte, tmp_path):
    net = tiny("optimized", vocab_size=256)  # bytes alone, without an end token
    save_checkpoint(tmp_path / "m", tiny("optimized"), byte)
    save_file({name: t.contiguous() for name, t in net.state_dict().items()}, tmp_path / "m" / "model.safetensors")
    config = json.loads((tmp_path / "m" / "config.json").read_text()) | {"vocab_size": 256}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    for file in [*(tmp_path / "m").glob("tokenizer*"), tmp_path / "m" / "SHA256SUMS"]:
        file.unlink()
    initial = initial_model(SHAPE, tmp_path / "m", byte, seed=1)
    assert initial.config.vocab_size == 257
    assert torch.equal(initial.lm_head.weight[:256], net.lm_head.weight)
    assert initial.lm_head.weight[256].std() > 0
    ids = torch.arange(10)[None]
    torch.testing.assert_close(initial.eval()(ids)[..., :256], net.eval()(ids))
    for kind in ("auto", "bpe"):
        with pytest.raises(UserError, match=r"holds no tokenizer.*set tokenizer\.kind"):
            check_init_from(SHAPE, TokenizerSettings(kind, 300, "error"), tmp_path / "m")
    check_init_from(SHAPE, TokenizerSettings("byte", 300, "error"), tmp_path / "m")
    with pytest.raises(UserError, match="holds no tokenizer"):
        initial_model(SHAPE, tmp_path / "m", train_tokenizer(TokenizerSettings("bpe", 300, "error"), ["abc"]), seed=1)


def test_another_shape_names_the_settings_to_set(saved, byte):
    with pytest.raises(UserError, match=r"another shape .*; set model\.n_layer: 1, model\.tie_embeddings: false$"):
        initial_model(dataclasses.replace(SHAPE, n_layer=3, tie_embeddings=True), saved[0], byte, seed=1)
    with pytest.raises(UserError, match=r"set model\.arch: optimized"):
        initial_model(dataclasses.replace(SHAPE, arch="base"), saved[0], byte, seed=1)


def test_a_missing_checkpoint(byte, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        initial_model(SHAPE, tmp_path / "nowhere", byte, seed=1)
