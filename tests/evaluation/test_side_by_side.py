import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from imports import ROOT

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.evaluation.side_by_side import compare_models, markdown_page
from nanogpt.inference.completions import complete, generate_interactive
from nanogpt.inference.decode import generate
from nanogpt.inference.settings import SampleSettings
from nanogpt.lora.adapter import load_adapter, save_adapter
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.merge import merge_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.score import Score, score_documents, score_figures
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.runtime.metrics_file import write_metrics
from nanogpt.training.loop import train
from stages import sample


def settings(**changed) -> SampleSettings:
    values = {"prompts": ["The cat", "tea\n\nand"], "num_samples": 2, "max_tokens": 12, "temperature": 1.0}
    return SampleSettings(**values | {"top_k": None, "top_p": None} | changed)


def test_texts_begin_with_the_prompt_and_are_those_of_generate(tiny, byte):
    model = tiny().eval()
    found = complete(model, byte, "The cat", settings(top_k=50, top_p=0.9), 3)
    rows = generate(
        model, list(b"The cat"), num_samples=2, max_tokens=12, temperature=1.0, top_k=50, top_p=0.9, seed=3,
        n_tokens=257, eot=256,
    )  # fmt: skip
    assert found == [(b"The cat" + bytes(row)).decode(errors="replace") for row in rows]
    assert all(text.startswith("The cat") and len(text) > len("The cat") for text in found)


def test_the_seed_decides(tiny, byte):
    model = tiny().eval()
    assert complete(model, byte, "The", settings(), 1) == complete(model, byte, "The", settings(), 1)
    assert complete(model, byte, "The", settings(), 1) != complete(model, byte, "The", settings(), 2)
    first, second = complete(model, byte, "The", settings(temperature=0), 1)
    assert first == second


def test_characters_that_the_tokenizer_lacks(tiny, char):
    model = tiny(vocab_size=char.vocab_size).eval()
    assert complete(model, char, "", settings(), 1)
    with pytest.raises(UserError, match=r"does not know: .*'Ω' U\+03A9, 'щ' U\+0449"):
        complete(model, char, "The Ω and щ", settings(), 1)


def score_of(*bits: float, n_bytes: int = 16) -> Score:
    """So many bits in each document of eight tokens."""
    return Score(np.array(bits) * math.log(2), np.full(len(bits), 8), np.full(len(bits), n_bytes))


def test_the_page_holds_everything():
    results = {
        "first": {"pretrain": score_of(8, 8), "finetune": score_of(12, 20)},
        "second": {"pretrain": score_of(20, 28), "finetune": score_of(10, 16)},
        "third": {"finetune": score_of(12, 20)},
        "fourth": {},
    }
    samples = {
        prompt: {model: [f"{prompt} by {model}\n\nline {i}" for i in range(2)] for model in results}
        for prompt in ("One", "Two\nlines", "")
    }
    titles = {role: f"{role} source ({role})" for role in ("pretrain", "finetune")}
    page = markdown_page(results, samples, titles, {"no such bin": ["third", "fourth"]})
    head, *_ = page.partition("\n## ")
    # an interval of two documents: 1.96 times half their distance, over the bytes of one
    assert [line for line in head.splitlines() if line.startswith("|")] == [
        "| model | pretrain source (pretrain) | finetune source (finetune) |",
        "|---|---|---|",
        "| first | 0.500 ± 0.000 (2.00) | 1.000 ± 0.490 (4.00) |",
        "| second | 1.500 ± 0.490 (8.00) | 0.812 ± 0.367 (3.08) |",
        "| third | – | 1.000 ± 0.490 (4.00) |",
        "| fourth | – | – |",
        "| model | pretrain source (pretrain) | finetune source (finetune) |",
        "|---|---|---|",
        "| second | +1.000 ± 0.490 | -0.188 ± 0.122 |",
        "| third | – | +0.000 ± 0.000 |",
        "| fourth | – | – |",
    ]
    assert "Change in bits per byte against first" in head
    assert "\n\nLeft out for third, fourth: no such bin\n" in head
    lines = page.splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## One", "## Two lines", "## (no prompt)"]
    assert [line for line in lines if line.startswith("### ")] == [f"### {name}" for name in results] * 3
    # a text is its quoted lines: none is lost, none runs into another's
    quoted = [part for part in page.split("\n\n") if part.startswith(">")]
    texts = ["\n".join(line.removeprefix(">").removeprefix(" ") for line in part.splitlines()) for part in quoted]
    assert texts == [text for by_model in samples.values() for written in by_model.values() for text in written]


def test_a_page_without_data():
    page = markdown_page({"first": {}, "second": {}}, {"One": {"first": ["One."]}}, {}, {"no bins": ["first"]})
    assert "|" not in page and "± " not in page and "Left out for first: no bins" in page and "> One." in page


def test_one_document_has_no_interval(tmp_path):
    page = markdown_page(
        {"first": {"pretrain": score_of(8)}, "second": {"pretrain": score_of(24)}}, {}, {"pretrain": "text"}, {}
    )
    assert "| first | 0.500 (2.00) |" in page and "| second | +1.000 |" in page
    found = score_figures({"pretrain": score_of(24)}, {"pretrain": score_of(8)})
    assert found == {
        "pretrain": {"bpb": pytest.approx(1.5), "perplexity": pytest.approx(8.0), "bpb_change": pytest.approx(1.0)}
    }
    write_metrics(tmp_path / "figures.json", found)  # refuses what is no number


def test_the_figures():
    before = {"pretrain": score_of(8, 8), "finetune": score_of(12, 20)}
    after = {"pretrain": score_of(20, 28), "finetune": score_of(10, 16)}
    assert score_figures(before)["finetune"] == {
        "bpb": pytest.approx(1.0), "bpb_ci95": pytest.approx(1.96 * 4 / 16, rel=1e-4), "perplexity": pytest.approx(4.0)
    }  # fmt: skip
    found = score_figures(after, before)
    assert {domain: figures["bpb_change"] for domain, figures in found.items()} == {
        "pretrain": pytest.approx(1.0), "finetune": pytest.approx(-3 / 16),
    }  # fmt: skip
    assert found["finetune"]["bpb_change_ci95"] == pytest.approx(1.96 * 1 / 16, rel=1e-4)
    assert found["finetune"].keys() == {"bpb", "bpb_ci95", "perplexity", "bpb_change", "bpb_change_ci95"}
    assert found["pretrain"]["bpb_ci95"] == score_figures(after)["pretrain"]["bpb_ci95"]
    assert "bpb_change" not in score_figures(after, {"pretrain": before["pretrain"]})["finetune"]


@pytest.fixture(scope="module", params=["base", "optimized"])
def project(request, tmp_path_factory, tiny, byte, training, write_bins) -> Path:
    """A project's folder with data for both roles, a model, an adapter and the two merged."""
    root = tmp_path_factory.mktemp(request.param)
    write_bins(root / "data" / "pretrain", byte, name="cats")
    write_bins(root / "data" / "finetune", byte, texts=["WE STUDY A THING. " * 5] * 8, name="loud")
    own = LoraSettings(4, 8.0, 0.0, "all-linear", "lora", 30, 4, 0.02, 0.002, 3)
    model = tiny(request.param)
    pretrain, finetune = (
        Windows(Bin.open(root / "data" / role, "train", byte), 16, 1) for role in ("pretrain", "finetune")
    )
    train(model, pretrain, pretrain, training(max_steps=30), 1)
    save_checkpoint(root / "models" / "pretrain", model, byte)
    adapted = attach_adapter(model, own, 1)
    train(model, finetune, finetune, own.training(training()), 1)
    save_adapter(adapted, root / "models" / "lora", root / "models" / "pretrain")
    merged, _ = merge_adapter(adapted, Bin.open(root / "data" / "finetune", "val", byte), "float32")
    save_checkpoint(root / "models" / "merged", merged, byte)
    return root


def document_bits(path: str, role: str, tok, adapter: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Bits and bytes of each validation document, read one after the other."""
    model, _ = load_checkpoint(path)
    if adapter:
        model = load_adapter(adapter, model).get_base_model()
    found = [
        score_documents(model, [document], tok.byte_lengths())
        for document in Bin.open(f"data/{role}", "val", tok).documents()
    ]
    return np.array([s.nats / math.log(2) for s in found]), np.array([s.n_bytes for s in found])


def bootstrap(bits: np.ndarray, n_bytes: np.ndarray) -> float:
    """Half of a 95% interval of bits per byte, by Efron's bootstrap over documents."""
    drawn = np.random.default_rng(0).integers(len(bits), size=(20_000, len(bits)))
    return 1.96 * (bits[drawn].sum(1) / n_bytes[drawn].sum(1)).std()


def test_the_comparison(project, byte, monkeypatch):
    monkeypatch.chdir(project)
    arguments = ("models/pretrain", "models/lora", "models/merged", settings(), 1)
    page, figures = compare_models(*arguments)
    assert list(figures) == ["pretrained", "adapted", "merged"]
    for role in ("pretrain", "finetune"):
        before, n_bytes = document_bits("models/pretrain", role, byte)
        after, _ = document_bits("models/pretrain", role, byte, adapter="models/lora")
        base, adapted, merged = (figures[name][role] for name in figures)
        assert base.keys() == {"bpb", "bpb_ci95", "perplexity"}
        assert base["bpb"] == pytest.approx(before.sum() / n_bytes.sum(), rel=1e-6)
        tokens = n_bytes.sum() + len(n_bytes)  # one to a byte, and the ends
        assert base["perplexity"] == pytest.approx(2 ** (before.sum() / tokens), rel=1e-5)
        assert adapted["bpb"] == pytest.approx(after.sum() / n_bytes.sum(), rel=1e-6)
        assert adapted["bpb_change"] == pytest.approx(adapted["bpb"] - base["bpb"], rel=1e-5)
        # twelve documents, where a bootstrap is narrower by about the root of 11/12
        assert base["bpb_ci95"] == pytest.approx(bootstrap(before, n_bytes), rel=0.3, abs=1e-3)
        assert adapted["bpb_change_ci95"] == pytest.approx(bootstrap(after - before, n_bytes), rel=0.3, abs=1e-3)
        for figure in adapted:
            assert merged[figure] == pytest.approx(adapted[figure], rel=1e-3, abs=1e-5)
    assert figures["adapted"]["finetune"]["bpb"] < 0.9 * figures["pretrained"]["finetune"]["bpb"]
    assert figures["adapted"]["pretrain"]["bpb_change"] > figures["adapted"]["pretrain"]["bpb_change_ci95"]  # forgotten
    assert "cats (pretrain)" in page and "loud (finetune)" in page and "Left out" not in page
    for prompt in settings().prompts:
        for path, model in (("models/pretrain", "pretrained"), ("models/merged", "merged")):
            assert f"\n### {model}\n" in page
            for text in complete(load_checkpoint(path)[0], byte, prompt, settings(), 1):
                assert f"\n{quoted(text)}\n" in page
    assert compare_models(*arguments) == (page, figures)
    assert compare_models(*arguments[:4], 2)[0] != page


def quoted(text: str) -> str:
    return "\n".join("> " + line if line else ">" for line in text.splitlines())


def test_a_comparison_of_two(project, monkeypatch):
    monkeypatch.chdir(project)
    page, figures = compare_models("models/pretrain", "models/lora", None, settings(), 1)
    assert list(figures) == ["pretrained", "adapted"]
    assert "merged" not in page


def test_a_comparison_of_one(project, monkeypatch):
    monkeypatch.chdir(project)
    page, figures = compare_models("models/merged", None, None, settings(), 1)
    assert list(figures) == ["pretrained"]
    assert "Change" not in page


def test_further_checkpoints(project, byte, monkeypatch):
    """A model folder, the same in one file, and an adapter: columns named by their paths."""
    monkeypatch.chdir(project)
    save_checkpoint("models/merged.pt", *load_checkpoint("models/merged"))
    also = ["models/pretrain", "models/merged.pt", "models/lora"]
    page, figures = compare_models("models/pretrain", "models/lora", "models/merged", settings(), 1, also=also)
    assert list(figures) == ["pretrained", "adapted", "merged", *also]
    assert figures["models/merged.pt"] == figures["merged"]
    assert figures["models/lora"] == figures["adapted"]
    same = figures["models/pretrain"]
    for role in ("pretrain", "finetune"):
        assert same[role] == figures["pretrained"][role] | {"bpb_change": 0, "bpb_change_ci95": 0}
    assert page.count("\n### models/merged.pt\n") == len(settings().prompts)
    assert len([line for line in page.splitlines() if line.startswith("| models/merged.pt |")]) == 2


def test_a_further_adapter_is_put_on_the_model_it_names(project, monkeypatch, tmp_path):
    """Or on the model compared, where the one it names is gone."""
    monkeypatch.chdir(project)
    arguments = (None, None, settings(), 1, ["models/lora"])
    _, expected = compare_models("models/pretrain", "models/lora", None, *arguments[2:5])
    _, figures = compare_models("models/merged", *arguments)
    for role in ("pretrain", "finetune"):
        assert figures["models/lora"][role]["bpb"] == expected["adapted"][role]["bpb"]
    shutil.copytree(project, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    os.rename("models/pretrain", "models/elsewhere")
    _, moved = compare_models("models/elsewhere", *arguments)
    assert moved["models/lora"] == expected["adapted"]


def test_a_model_with_another_tokenizer(project, tiny, char, monkeypatch):
    """The bins are not in its tokens, so that only its texts appear, and none for characters that it lacks."""
    monkeypatch.chdir(project)
    save_checkpoint("models/char", tiny(vocab_size=char.vocab_size), char)
    prompts = ["The cat", "THE Ω"]
    _, alone = compare_models("models/pretrain", "models/lora", None, settings(prompts=prompts), 1)
    page, figures = compare_models(
        "models/pretrain", "models/lora", None, settings(prompts=prompts), 1, also=["models/char"]
    )
    assert figures == alone | {"models/char": {}}
    assert "| models/char | – | – |" in page
    assert "\nLeft out for models/char: data/finetune: its tokens are of another tokenizer (byte)" in page
    assert re.search(r"\nLeft out for models/char: .*does not know: .*'Ω'", page)
    for text in complete(load_checkpoint("models/char")[0], char, "The cat", settings(), 1):
        assert f"\n\n{quoted(text)}\n" in page
    assert page.count("### models/char") == 1  # below the prompt that it can read
    # beside a base that cannot read the bins, a model that can is scored, and there is no change to tell
    page, figures = compare_models(
        "models/char", None, None, settings(prompts=["The"]), 1, also=["models/merged"], strict=False
    )
    assert figures["pretrained"] == {}
    assert figures["models/merged"]["finetune"].keys() == {"bpb", "bpb_ci95", "perplexity"}
    assert "Change" not in page


@pytest.mark.parametrize("also", [["merged"], ["models/lora", "models/lora"]])
def test_two_models_of_one_name(project, also, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=rf"--also {also[-1]}: a model of this name is compared already"):
        compare_models("models/pretrain", "models/lora", "models/merged", settings(), 1, also)


def test_models_that_do_not_belong_together(project, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=r"models/nothing is not a model folder"):
        compare_models("models/pretrain", "models/lora", None, settings(), 1, ["models/nothing"])
    with pytest.raises(UserError, match=r"models/lora was trained on pretrain .*, and models/merged is another model"):
        compare_models("models/merged", "models/lora", None, settings(), 1)


def test_data_in_other_tokens(project, char, write_bins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = [str(project / "models" / name) for name in ("pretrain", "lora")]
    with pytest.raises(UserError, match=r"data/pretrain/manifest\.json does not exist"):
        compare_models(*models, None, settings(), 1)
    page, figures = compare_models(*models, None, settings(), 1, strict=False)
    assert figures == {"pretrained": {}, "adapted": {}}
    assert "\nLeft out for pretrained, adapted: data/pretrain/manifest.json does not exist" in page
    for role in ("pretrain", "finetune"):
        write_bins(tmp_path / "data" / role, char)
    with pytest.raises(UserError, match=r"data/pretrain: its tokens are of another tokenizer \(char\)"):
        compare_models(*models, None, settings(), 1)


def command(*flags: str) -> None:
    sys.argv = ["sample.py", *flags]
    sample.main()


def test_the_command(project, byte, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", sys.argv)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text().replace("dtype: auto", "dtype: float32"))
    short = ("--prompt", "The cat", "--num-samples", "1", "--max-tokens", "5", "--temperature", "0")
    command(*short)
    assert "### merged" in capsys.readouterr().out and not Path("metrics").exists()
    command()  # as the pipeline does
    assert capsys.readouterr().out.startswith("metrics/samples.md: 3 models")
    written = json.loads(Path("metrics/sample.json").read_text())
    assert list(written) == ["pretrained", "adapted", "merged"]
    page = Path("metrics/samples.md").read_text()
    command(*short, "--also", "models/merged", "--also", "models/lora", "--out", "reports/own.md")
    report = Path("reports/own.md").read_text()
    assert capsys.readouterr().out.startswith(report + "\nreports/own.md: 5 models")
    own = json.loads(Path("reports/own.json").read_text())
    assert own == written | {"models/merged": written["merged"], "models/lora": written["adapted"]}
    assert written["adapted"]["finetune"].keys() == {"bpb", "bpb_ci95", "perplexity", "bpb_change", "bpb_change_ci95"}
    assert Path("metrics/samples.md").read_text() == page  # what the pipeline wrote stays
    command(*short, "--base-checkpoint", "models/merged")
    assert "### pretrained" in (out := capsys.readouterr().out) and "### adapted" not in out
    command(*short, "--base-checkpoint", "models/pretrain", "--lora-checkpoint", "models/lora")
    assert "### adapted" in (out := capsys.readouterr().out) and "### merged" not in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [(("--out", "page.txt"), r"--out page\.txt: .*ends in \.md"),
     (("--checkpoint", "models/pretrain", "--also", "models/lora"), r"are for a comparison")],
)  # fmt: skip
def test_flags_that_do_not_go_together(flags, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit, match=message):
        command(*flags)


def test_talking(tiny, byte, capsys, monkeypatch):
    model = tiny().eval()
    generate_interactive(model, byte, settings(), 1, interactive=False)
    expected = [text for prompt in settings().prompts for text in complete(model, byte, prompt, settings(), 1)]
    assert capsys.readouterr().out == "".join(f"{text}\n\n" for text in expected)
    typed = iter(["tea", "cat", "", "never"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    generate_interactive(model, byte, settings(), 1, interactive=True)
    expected = [text for prompt in ("tea", "cat") for text in complete(model, byte, prompt, settings(), 1)]
    assert capsys.readouterr().out == "".join(f"{text}\n\n" for text in expected)
    assert next(typed) == "never"


def test_talking_ends_with_the_input(tiny, byte, monkeypatch):
    def ended(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    generate_interactive(tiny(), byte, settings(), 1, interactive=True)


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
    assert complete(model, byte, "The", settings(), 1) == complete(model.eval(), byte, "The", settings(), 1)
