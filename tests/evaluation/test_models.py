"""Models of other programs behind our interface, against transformers called directly."""

import json
import math

import pytest
import torch
from foreign_models import FOREIGN, gpt_neox, save_foreign
from sampling_settings import sampling
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.checkpoint.gguf_file import save_gguf
from nanogpt.evaluation.models import ForeignModel, OwnModel, open_model
from nanogpt.evaluation.text_score import score_texts, unknown_characters
from nanogpt.runtime.errors import UserError

TEXTS = ["the cat sat on the mat", "a dog and a cat " * 12, "dog"]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The folders of a GPT-2 and a GPT-NeoX with short blocks and tokenizers of their own."""
    root = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(1)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, **FOREIGN))
    save_foreign(root / "gpt2", gpt2)
    save_foreign(root / "neox", gpt_neox(), bos=None)
    return root


def nats_by_transformers(folder, text: str, block: int) -> float:
    """Of each token from the longest context that windows of half a block of overlap leave, one place at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tok = AutoTokenizer.from_pretrained(folder)
    start = tok.eos_token_id if tok.bos_token_id is None else tok.bos_token_id
    ids = [start, *tok.encode(text, add_special_tokens=False), tok.eos_token_id]
    nats, begin = 0.0, 0
    for place in range(1, len(ids)):
        if place - begin > block:  # the next window begins half a block before the end of this one
            begin += block - block // 2
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin:place]])).logits[0, -1].double()
        nats -= logits.log_softmax(-1)[ids[place]].item()
    return nats


@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_bits_per_byte_are_those_of_transformers(foreign, name):
    model = open_model(foreign / name)
    assert isinstance(model, ForeignModel)
    score = score_texts(model, TEXTS)
    expected = [nats_by_transformers(foreign / name, text, 16) for text in TEXTS]
    assert score.document_nats.tolist() == pytest.approx(expected, rel=1e-5)
    n_bytes = sum(map(len, TEXTS))
    assert score.bpb == pytest.approx(sum(expected) / math.log(2) / n_bytes, abs=1e-4) and score.n_bytes == n_bytes


def test_characters_that_become_the_unknown_token(foreign):
    model = open_model(foreign / "gpt2")
    assert unknown_characters(model, ["a cat", "a cow, a"]) == {"c": 1, "o": 1, "w": 1, ",": 1}
    assert not unknown_characters(model, ["a a"])


def test_texts_that_transformers_continues(foreign):
    model = open_model(foreign / "gpt2")
    drawn = model.write("the cat", sampling(num_samples=3, max_tokens=6, temperature=1.0), seed=1)
    assert len(drawn) == 3 and drawn == model.write(
        "the cat", sampling(num_samples=3, max_tokens=6, temperature=1.0), 1
    )
    assert drawn != model.write("the cat", sampling(num_samples=3, max_tokens=6, temperature=1.0), seed=2)
    [greedy] = set(model.write("the cat", sampling(num_samples=2, max_tokens=6, temperature=0.0), seed=1))
    net, tok = AutoModelForCausalLM.from_pretrained(foreign / "gpt2"), AutoTokenizer.from_pretrained(foreign / "gpt2")
    ids = [1, *tok.encode("the cat", add_special_tokens=False)]
    for _ in range(6):
        with torch.no_grad():
            ids.append(net(torch.tensor([ids])).logits[0, -1].argmax().item())
        if ids[-1] == 2:
            break
    assert greedy == tok.decode(ids[3:], skip_special_tokens=True)
    first = greedy.split()[0]
    assert model.write("the cat", sampling(num_samples=1, max_tokens=6, temperature=0.0, stop=[first]), 1) == [""]


def test_our_own_model_through_gguf(tiny, byte, tmp_path):
    model = tiny("optimized", block_size=32, n_embd=32, vocab_size=byte.vocab_size).eval()
    save_checkpoint(tmp_path / "own", model, byte)
    save_gguf(tmp_path / "m.gguf", model, byte, "float32")
    texts = ["a cat", "Été", "dogs " * 20]
    own, through = open_model(tmp_path / "own"), open_model(tmp_path / "m.gguf")
    assert isinstance(own, OwnModel) and isinstance(through, ForeignModel)
    expected, found = score_texts(own, texts), score_texts(through, texts)
    # the file has no rows for padding ids, to which the folder gives a little probability
    assert found.bpb == pytest.approx(expected.bpb, rel=0.05) and found.document_tokens.tolist() == [6, 6, 101]


def test_what_cannot_be_opened(tmp_path, tiny, byte, foreign):
    with pytest.raises(UserError, match=r"nothing\.gguf does not exist"):
        open_model(tmp_path / "nothing.gguf")
    with pytest.raises(UserError, match="nothing is not a model folder"):
        open_model(tmp_path / "nothing")
    folder = tmp_path / "code"
    save_checkpoint(folder, tiny(), byte)
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil"}))
    (folder / "evil.py").write_text("raise SystemExit('was run')")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="code: transformers cannot open this as a causal model"):
        open_model(folder)
    save_foreign(tmp_path / "endless", AutoModelForCausalLM.from_pretrained(foreign / "gpt2"), eos=None)
    with pytest.raises(UserError, match="no end-of-sequence token"):
        open_model(tmp_path / "endless")
    (foreign / "neox" / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="neox: transformers cannot open this"):
        open_model(foreign / "neox")


def test_a_text_ends_where_the_positions_do(foreign):
    model = open_model(foreign / "gpt2")
    (text,) = model.write("the cat", sampling(num_samples=1, max_tokens=100, temperature=0.0), seed=1)
    tok = AutoTokenizer.from_pretrained(foreign / "gpt2")
    assert len(tok.encode(text, add_special_tokens=False)) <= 16 - len(model.encode("the cat", end=False))
    with pytest.raises(UserError, match="the prompt has 26 tokens, and this model reads 16 with the answer"):
        model.write(" ".join(["cat"] * 25), sampling(num_samples=1), seed=1)
