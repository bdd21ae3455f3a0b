import math
from pathlib import Path

import pytest
import torch

from nanogpt import checkpoint, compare, lora
from nanogpt.compare import SampleSettings
from nanogpt.errors import BadSetting, UserError
from nanogpt.evaluate import Score, score_bin
from nanogpt.generate import generate
from nanogpt.tokens import Bin, Counts, Windows
from nanogpt.train import train


def settings(**changed) -> SampleSettings:
    values = {"prompts": ["The cat", "tea\n\nand"], "num_samples": 2, "max_tokens": 12, "temperature": 1.0}
    return SampleSettings(**values | {"top_k": None, "top_p": None} | changed)


def test_texts_begin_with_the_prompt_and_are_those_of_generate(tiny, byte):
    model = tiny().eval()
    found = compare.texts(model, byte, "The cat", settings(top_k=50, top_p=0.9), 3)
    rows = generate(
        model, list(b"The cat"), num_samples=2, max_tokens=12, temperature=1.0, top_k=50, top_p=0.9, seed=3,
        n_tokens=257, eot=256,
    )  # fmt: skip
    assert found == [(b"The cat" + bytes(row)).decode(errors="replace") for row in rows]
    assert all(text.startswith("The cat") and len(text) > len("The cat") for text in found)


def test_the_seed_decides(tiny, byte):
    model = tiny().eval()
    assert compare.texts(model, byte, "The", settings(), 1) == compare.texts(model, byte, "The", settings(), 1)
    assert compare.texts(model, byte, "The", settings(), 1) != compare.texts(model, byte, "The", settings(), 2)
    first, second = compare.texts(model, byte, "The", settings(temperature=0), 1)
    assert first == second


def test_characters_that_the_tokenizer_lacks(tiny, char):
    model = tiny(vocab_size=char.vocab_size).eval()
    assert compare.texts(model, char, "", settings(), 1)
    with pytest.raises(UserError, match=r"does not know: 'Ω' U\+03A9, 'щ' U\+0449"):
        compare.texts(model, char, "The Ω and щ", settings(), 1)


def test_the_page_holds_everything():
    domains = {role: Bin(f"{role} source", "val", None, 0, Counts()) for role in ("pretrain", "finetune")}
    results = {
        model: {"pretrain": Score(8 * bits * math.log(2), 8, 16), "finetune": Score(16 * math.log(2), 8, 16)}
        for model, bits in (("first", 1), ("second", 3))
    }
    samples = {
        prompt: {model: [f"{prompt} by {model}\n\nline {i}" for i in range(2)] for model in results}
        for prompt in ("One", "Two\nlines", "")
    }
    page = compare.markdown(results, samples, domains)
    lines = page.splitlines()
    assert "| model | pretrain source (pretrain) | finetune source (finetune) |" in lines
    assert "|---|---|---|" in lines
    assert "| first | 0.500 (2.00) | 1.000 (4.00) |" in lines
    assert "| second | 1.500 (8.00) | 1.000 (4.00) |" in lines
    assert [line for line in lines if line.startswith("## ")] == ["## One", "## Two lines", "## (no prompt)"]
    assert [line for line in lines if line.startswith("### ")] == ["### first", "### second"] * 3
    # a text is its quoted lines: none is lost, none runs into another's
    quoted = [part for part in page.split("\n\n") if part.startswith(">")]
    texts = ["\n".join(line.removeprefix(">").removeprefix(" ") for line in part.splitlines()) for part in quoted]
    assert texts == [text for by_model in samples.values() for written in by_model.values() for text in written]


def test_the_figures():
    scores = {"pretrain": Score(16 * math.log(2), 8, 16)}
    assert compare.figures(scores) == {"pretrain": {"bpb": pytest.approx(1.0), "perplexity": pytest.approx(4.0)}}


@pytest.fixture(scope="module", params=["base", "optimized"])
def project(request, tmp_path_factory, tiny, byte, training, write_bins) -> Path:
    """A project's folder with data for both roles, a model, an adapter and the two merged."""
    root = tmp_path_factory.mktemp(request.param)
    write_bins(root / "data" / "pretrain", byte, name="cats")
    write_bins(root / "data" / "finetune", byte, texts=["WE STUDY A THING. " * 5] * 8, name="loud")
    own = lora.LoraSettings(4, 8.0, 0.0, "all-linear", 30, 4, 0.02, 0.002, 3)
    model = tiny(request.param)
    pretrain, finetune = (
        Windows(Bin.open(root / "data" / role, "train", byte), 16, 1) for role in ("pretrain", "finetune")
    )
    train(model, pretrain, pretrain, training(max_steps=30), 1)
    checkpoint.save(root / "models" / "pretrain", model, byte)
    adapted = lora.attach(model, own, 1)
    train(model, finetune, finetune, own.training(training()), 1)
    lora.save(adapted, root / "models" / "lora", "models/pretrain")
    merged, _ = lora.merge(lora.load(root / "models" / "lora", checkpoint.load(root / "models" / "pretrain")[0]))
    checkpoint.save(root / "models" / "merged", merged, byte)
    return root


def test_the_comparison(project, byte, monkeypatch):
    monkeypatch.chdir(project)
    arguments = ("models/pretrain", "models/lora", "models/merged", settings(), 1, "float32")
    page, figures = compare.compare(*arguments)
    assert list(figures) == ["pretrained", "adapted", "merged"]
    for role in ("pretrain", "finetune"):
        base, _ = checkpoint.load("models/pretrain")
        alone = score_bin(base, Bin.open(f"data/{role}", "val", byte), byte.byte_lengths(), "float32")
        assert figures["pretrained"][role] == {
            "bpb": pytest.approx(alone.bpb, rel=1e-6), "perplexity": pytest.approx(alone.perplexity, rel=1e-6),
        }  # fmt: skip
        for figure in ("bpb", "perplexity"):
            assert figures["merged"][role][figure] == pytest.approx(figures["adapted"][role][figure], rel=1e-4)
        assert figures["adapted"][role]["bpb"] != pytest.approx(figures["pretrained"][role]["bpb"], rel=1e-2)
    assert figures["adapted"]["finetune"]["bpb"] < 0.9 * figures["pretrained"]["finetune"]["bpb"]
    assert "cats (pretrain)" in page and "loud (finetune)" in page
    for prompt in settings().prompts:
        for path, model in (("models/pretrain", "pretrained"), ("models/merged", "merged")):
            assert f"\n### {model}\n" in page
            for text in compare.texts(checkpoint.load(path)[0], byte, prompt, settings(), 1):
                quoted = "\n".join("> " + line if line else ">" for line in text.splitlines())
                assert f"\n{quoted}\n" in page
    assert compare.compare(*arguments) == (page, figures)
    assert compare.compare(*arguments[:4], 2, "float32")[0] != page


def test_a_comparison_of_two(project, monkeypatch):
    monkeypatch.chdir(project)
    page, figures = compare.compare("models/pretrain", "models/lora", None, settings(), 1, "float32")
    assert list(figures) == ["pretrained", "adapted"]
    assert "merged" not in page


def test_data_in_other_tokens(project, char, write_bins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = [str(project / "models" / name) for name in ("pretrain", "lora")]
    with pytest.raises(UserError, match=r"data/pretrain/manifest\.json does not exist"):
        compare.compare(*models, None, settings(), 1, "float32")
    for role in ("pretrain", "finetune"):
        write_bins(tmp_path / "data" / role, char)
    with pytest.raises(UserError, match=r"data/pretrain: its tokens are of another tokenizer \(char\)"):
        compare.compare(*models, None, settings(), 1, "float32")


def test_talking(tiny, byte, capsys, monkeypatch):
    model = tiny().eval()
    compare.talk(model, byte, settings(), 1, interactive=False)
    expected = [text for prompt in settings().prompts for text in compare.texts(model, byte, prompt, settings(), 1)]
    assert capsys.readouterr().out == "".join(f"{text}\n\n" for text in expected)
    typed = iter(["tea", "cat", "", "never"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    compare.talk(model, byte, settings(), 1, interactive=True)
    expected = [text for prompt in ("tea", "cat") for text in compare.texts(model, byte, prompt, settings(), 1)]
    assert capsys.readouterr().out == "".join(f"{text}\n\n" for text in expected)
    assert next(typed) == "never"


def test_talking_ends_with_the_input(tiny, byte, monkeypatch):
    def ended(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    compare.talk(tiny(), byte, settings(), 1, interactive=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_samples", 0), ("max_tokens", 0), ("prompts", []), ("temperature", -0.1), ("temperature", math.inf),
     ("temperature", math.nan), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.1), ("top_p", math.nan)],
)  # fmt: skip
def test_wrong_settings(key, value):
    with pytest.raises(BadSetting) as caught:
        settings(**{key: value})
    assert caught.value.key == key and caught.value.value is value


@torch.no_grad()
def test_writing_does_not_change_a_models_mode(tiny, byte):
    model = tiny(dropout=0.5).train()
    assert compare.texts(model, byte, "The", settings(), 1) == compare.texts(model.eval(), byte, "The", settings(), 1)
