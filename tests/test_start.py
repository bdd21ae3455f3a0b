import dataclasses

import pytest
import torch

from nanogpt import checkpoint, model, prepare
from nanogpt.errors import UserError
from nanogpt.model import ModelSettings
from nanogpt.start import start
from nanogpt.tokenizer import TokenizerSettings, train

SHAPE = ModelSettings("optimized", 1, 2, 1, 16, 16, 0.0, False)


@pytest.fixture
def saved(tiny, byte, tmp_path):
    """A folder with a small model that knows bytes, and the model."""
    net = tiny("optimized")
    checkpoint.save(tmp_path / "m", net, byte)
    return tmp_path / "m", net


def test_an_empty_folder_means_fresh_weights(byte, tmp_path):
    (tmp_path / "README.md").write_text("Put a model here.")
    fresh, wanted = start(SHAPE, tmp_path, byte, seed=3), model.new(SHAPE, byte.vocab_size, 3)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), wanted.parameters(), strict=True))
    assert not prepare.holds_checkpoint(tmp_path)
    assert prepare.own_tokenizer(tmp_path) is None


@pytest.mark.parametrize("name", ["m", "m.pt"])
def test_a_checkpoint_s_weights_with_the_dropout_of_params(saved, byte, tmp_path, name):
    _, net = saved
    if name.endswith(".pt"):
        checkpoint.save(tmp_path / name, net, byte)
    begun = start(dataclasses.replace(SHAPE, dropout=0.5), tmp_path / name, byte, seed=3)
    assert begun.config.dropout == 0.5
    assert begun.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in begun.state_dict().items())
    ids = torch.arange(10)[None]
    assert torch.equal(begun.eval()(ids), net.eval()(ids))
    assert not torch.equal(begun.train()(ids), net(ids))


def test_its_tokenizer_goes_with_it(saved, byte, char):
    folder, _ = saved
    assert prepare.own_tokenizer(folder).sha256 == byte.sha256
    with pytest.raises(UserError, match=r"it knows 257 tokens \(byte\), and the corpus is in others, .* \(char\)"):
        start(SHAPE, folder, char, seed=1)


def test_weights_without_a_tokenizer_need_rows_enough(tiny, byte, tmp_path):
    checkpoint.save(tmp_path / "m", tiny("optimized", vocab_size=257), byte)
    checkpoint.save(tmp_path / "n", tiny("optimized", vocab_size=300), byte)
    gpt2_like = train(TokenizerSettings("bpe", 300, "error"), ["abc abc " * 50, "the theme then"] * 3)
    for file in tmp_path.glob("?/tokenizer*"):
        file.unlink()
    assert start(SHAPE, tmp_path / "m", byte, seed=1).config.vocab_size == 257
    assert gpt2_like.n_tokens > 257
    assert start(SHAPE, tmp_path / "n", gpt2_like, seed=1).config.vocab_size == 300
    with pytest.raises(UserError, match=r"it knows 257 tokens at most"):
        start(SHAPE, tmp_path / "m", gpt2_like, seed=1)


def test_another_shape_names_the_settings_to_set(saved, byte):
    with pytest.raises(UserError, match=r"another shape .*; set -S model\.n_layer=1 -S model\.tie_embeddings=false$"):
        start(dataclasses.replace(SHAPE, n_layer=3, tie_embeddings=True), saved[0], byte, seed=1)
    with pytest.raises(UserError, match=r"-S model\.arch=optimized"):
        start(dataclasses.replace(SHAPE, arch="base"), saved[0], byte, seed=1)


def test_a_missing_checkpoint(byte, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        start(SHAPE, tmp_path / "nowhere", byte, seed=1)
