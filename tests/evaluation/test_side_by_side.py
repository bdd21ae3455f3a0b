import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from foreign_models import gpt_neox, save_foreign
from imports import ROOT
from sampling_settings import PLAIN

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.evaluation.models import open_model
from nanogpt.evaluation.side_by_side import compare_models, markdown_page
from nanogpt.evaluation.text_score import score_texts
from nanogpt.inference.settings import SampleSettings
from nanogpt.inference.writer import Writer
from nanogpt.lora.adapter import load_adapter, save_adapter
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.merge import merge_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.score import Score, score_documents
from nanogpt.runtime.errors import UserError
from nanogpt.training.loop import train
from stages import sample

MODELS = ("models/pretrain", "models/lora", "models/merged")
SETTINGS = SampleSettings(**PLAIN, dtype="float32", prompts=["The cat", "tea\n\nand"])
FIRST_FIGURES = {"bpb", "bpb_ci95", "perplexity"}


def score_of(*bits: float) -> Score:
    """So many bits in each document of 8 tokens and 16 bytes."""
    return Score(np.array(bits) * math.log(2), np.full(len(bits), 8), np.full(len(bits), 16))


def rows(page: str, model: str) -> list[list[str]]:
    """The cells of a model in each table of a page."""
    return [[cell.strip() for cell in line.split("|")[2:-1]] for line in page.splitlines() if f"| {model} |" in line]


def untimed(figures: dict) -> dict:
    """Figures without those that differ between two runs, and what texts they have is checked."""
    kept = {}
    for model, by_domain in figures.items():
        texts = dict(by_domain["texts"])
        assert 0 < texts.pop("first_token_s") < 60 and texts.pop("tokens_per_s") > 0
        assert texts.keys() == {"distinct_1", "distinct_2"} and all(0 < share <= 1 for share in texts.values())
        kept[model] = by_domain | {"texts": texts}
    return kept


def quoted(text: str) -> str:
    return "\n".join("> " + line if line else ">" for line in text.splitlines())


def test_the_page_holds_everything():
    results = {
        "first": {"pretrain": score_of(8, 8), "finetune": score_of(12, 20)},
        "second": {"pretrain": score_of(20, 28), "finetune": score_of(10, 16)},
        "third": {"finetune": score_of(12, 20)},
    }
    samples = {prompt: {model: [f"{prompt} by {model}\n\nline 2"] for model in results} for prompt in ("A\nb", "")}
    titles = {"pretrain": "cats (pretrain)", "finetune": "dogs (finetune)"}
    page = markdown_page(results, samples, titles, {"no such bin": ["third", "fourth"]})
    assert rows(page, "model") == [list(titles.values())] * 2
    # an interval of two documents: 1.96 times half their distance, over the bytes of one
    assert rows(page, "first") == [["0.500 ± 0.000 (2.00)", "1.000 ± 0.490 (4.00)"]]
    assert rows(page, "second") == [
        ["1.500 ± 0.490 (8.00)", "0.812 ± 0.367 (3.08)"], ["+1.000 ± 0.490", "-0.188 ± 0.122"]
    ]  # fmt: skip
    assert rows(page, "third") == [["–", "1.000 ± 0.490 (4.00)"], ["–", "+0.000 ± 0.000"]]
    assert "\nLeft out for third, fourth: no such bin\n" in page
    assert "\n## A b\n" in page and "\n## (no prompt)\n" in page
    assert page.count("\n### second\n\n> ") == 2 and "\n> A\n> b by second\n>\n> line 2\n" in page


def test_a_page_without_data_and_with_one_document():
    page = markdown_page({"first": {}, "second": {}}, {"One": {"first": ["One."]}}, {}, {"no bins": ["first"]})
    assert "|" not in page and "± " not in page and "Left out for first: no bins" in page and "> One." in page
    scores = {"first": {"pretrain": score_of(8)}, "second": {"pretrain": score_of(24)}}
    page = markdown_page(scores, {}, {"pretrain": "text"}, {})
    assert rows(page, "first") == [["0.500 (2.00)"]] and rows(page, "second") == [["1.500 (8.00)"], ["+1.000"]]


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny, byte, training, write_bins) -> Path:
    """A project's folder with data for both roles, a model, an adapter and the two merged."""
    root = tmp_path_factory.mktemp("project")
    write_bins(root / "data" / "pretrain", byte, name="cats")
    write_bins(root / "data" / "finetune", byte, texts=["WE STUDY A THING. " * 5] * 8, name="loud")
    lora = LoraSettings(4, 8.0, 0.0, "all-linear", "lora", 30, None, 4, 0.0, "adamw", 0.02, 0.002, 3)
    model = tiny("optimized")
    pretrain, finetune = (
        Windows(Bin.open(root / "data" / role, "train", byte), 16, 1) for role in ("pretrain", "finetune")
    )
    train(model, pretrain, pretrain, training(max_steps=30), 1)
    save_checkpoint(root / "models" / "pretrain", model, byte)
    adapted = attach_adapter(model, lora, 1)
    train(model, finetune, finetune, lora.training(training()), 1)
    save_adapter(adapted, root / "models" / "lora", root / "models" / "pretrain")
    merged, _ = merge_adapter(adapted, Bin.open(root / "data" / "finetune", "val", byte), "float32")
    save_checkpoint(root / "models" / "merged", merged, byte)
    return root


@pytest.fixture
def inside_project(project, monkeypatch) -> Path:
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", sys.argv)
    return project


def one_by_one(role: str, tok, adapter: str | None = None) -> tuple[float, int, int]:
    """Nats, tokens and bytes of the validation documents, scored one after the other."""
    model, _ = load_checkpoint("models/pretrain")
    if adapter:
        model = load_adapter(adapter, model).get_base_model()
    documents = Bin.open(f"data/{role}", "val", tok).documents()
    scores = [score_documents(model, [document], tok.byte_lengths()) for document in documents]
    return sum(s.nats for s in scores), sum(s.tokens for s in scores), sum(s.n_bytes for s in scores)


def test_the_comparison(inside_project, byte):
    page, figures = compare_models(*MODELS, SETTINGS, 1)
    assert list(figures) == ["pretrained", "adapted", "merged"]
    for role in ("pretrain", "finetune"):
        base, adapted, merged = (by_domain[role] for by_domain in figures.values())
        assert base.keys() == FIRST_FIGURES
        for found, adapter in ((base, None), (adapted, "models/lora")):
            nats, tokens, n_bytes = one_by_one(role, byte, adapter)
            assert found["bpb"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-6)
            assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
        assert adapted["bpb_change"] == pytest.approx(adapted["bpb"] - base["bpb"], rel=1e-5)
        for figure in adapted:  # in bf16 they differ by 1e-3
            assert merged[figure] == pytest.approx(adapted[figure], rel=1e-5, abs=1e-6)
    assert figures["adapted"]["finetune"]["bpb"] < 0.9 * figures["pretrained"]["finetune"]["bpb"]
    assert figures["adapted"]["pretrain"]["bpb_change"] > figures["adapted"]["pretrain"]["bpb_change_ci95"]  # forgotten
    assert "cats (pretrain)" in page and "loud (finetune)" in page and "Left out" not in page
    for prompt in SETTINGS.prompts:
        for path, model in (("models/pretrain", "pretrained"), ("models/merged", "merged")):
            assert f"\n### {model}\n" in page
            for text in Writer(load_checkpoint(path)[0], byte, "float32").write([prompt], SETTINGS, 1)[0]:
                assert f"\n{quoted(prompt + text.written)}\n" in page
    assert compare_models(*MODELS, SETTINGS, 2)[0] != page


def test_further_checkpoints(inside_project):
    """A model folder, the same in one file, and an adapter: columns named by their paths."""
    save_checkpoint("models/merged.pt", *load_checkpoint("models/merged"))
    also = ["models/pretrain", "models/merged.pt", "models/lora"]
    page, figures = compare_models(*MODELS, SETTINGS, 1, also)
    figures = untimed(figures)
    assert list(figures) == ["pretrained", "adapted", "merged", *also]
    assert figures["models/merged.pt"] == figures["merged"] and figures["models/lora"] == figures["adapted"]
    assert page.count("\n### models/merged.pt\n") == len(SETTINGS.prompts) and len(rows(page, "models/merged.pt")) == 2


def test_a_further_adapter_is_put_on_the_model_that_it_names(inside_project, monkeypatch, tmp_path):
    """Or on the model compared, if the one that it names is gone."""
    _, expected = compare_models("models/pretrain", "models/lora", None, SETTINGS, 1)
    _, figures = compare_models("models/merged", None, None, SETTINGS, 1, ["models/lora"])
    for role in ("pretrain", "finetune"):
        assert figures["models/lora"][role]["bpb"] == expected["adapted"][role]["bpb"]
    shutil.copytree(inside_project, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    os.rename("models/pretrain", "models/elsewhere")
    _, moved = compare_models("models/elsewhere", None, None, SETTINGS, 1, ["models/lora"])
    assert untimed(moved)["models/lora"] == untimed(expected)["adapted"]


def test_a_model_with_another_tokenizer(inside_project, tiny, byte, char):
    """It reads the bins' text in its own tokens, but no text with characters that it lacks."""
    save_checkpoint("models/char", tiny(vocab_size=char.vocab_size), char)
    settings = SampleSettings(**vars(SETTINGS) | {"prompts": ["The cat", "THE Ω"]})
    page, figures = compare_models("models/pretrain", None, None, settings, 1, ["models/char"])
    assert figures["pretrained"].keys() == {"pretrain", "finetune", "texts"}
    assert figures["models/char"].keys() == {"pretrain", "texts"}
    texts = [byte.decode(ids[1:-1]) for ids in Bin.open("data/pretrain", "val", byte).documents()]
    documents = [np.array([char.eot, *char.encode(text), char.eot]) for text in texts]
    alone = score_documents(load_checkpoint("models/char")[0], documents, char.byte_lengths())
    assert figures["models/char"]["pretrain"]["bpb"] == pytest.approx(alone.bpb, rel=1e-6)
    [_, finetune], [change, _] = rows(page, "models/char")
    assert finetune == "–" and "±" in change
    assert re.search(r"\nLeft out for models/char: .*does not know: .*'W'", page)  # of data/finetune
    assert re.search(r"\nLeft out for models/char: .*does not know: .*'Ω'", page)
    assert page.count("### models/char") == 1  # below the prompt that it can read
    # a base that cannot read a text has no score of it, so there is no change to report
    page, figures = compare_models("models/char", None, None, SETTINGS, 1, ["models/merged"], strict=False)
    assert figures["pretrained"].keys() == {"pretrain", "texts"}
    assert figures["models/merged"]["finetune"].keys() == FIRST_FIGURES
    assert "bpb_change" in figures["models/merged"]["pretrain"]


def test_a_model_of_another_program(inside_project, byte):
    save_foreign(Path("models/neox"), gpt_neox())
    page, figures = compare_models("models/pretrain", None, None, SETTINGS, 1, ["models/neox"])
    assert figures["models/neox"].keys() == {"pretrain", "finetune"}
    texts = [byte.decode(ids[1:-1]) for ids in Bin.open("data/pretrain", "val", byte).documents()]
    model = open_model("models/neox")
    assert figures["models/neox"]["pretrain"]["bpb"] == pytest.approx(score_texts(model, texts).bpb, rel=1e-6)
    for prompt in SETTINGS.prompts:
        for text in model.write(prompt, SETTINGS, 1):
            assert f"\n{quoted(prompt + text)}\n" in page


def test_what_cannot_be_compared(inside_project):
    for also in (["merged"], ["models/lora", "models/lora"]):
        with pytest.raises(UserError, match=rf"--also {also[-1]}: a model of this name is compared already"):
            compare_models(*MODELS, SETTINGS, 1, also)
    with pytest.raises(UserError, match=r"models/nothing is not a model folder"):
        compare_models("models/pretrain", "models/lora", None, SETTINGS, 1, ["models/nothing"])
    with pytest.raises(UserError, match=r"models/lora was trained on pretrain .*, and models/merged is another model"):
        compare_models("models/merged", "models/lora", None, SETTINGS, 1)


def test_missing_data(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = [str(project / "models" / name) for name in ("pretrain", "lora")]
    with pytest.raises(UserError, match=r"data/pretrain/manifest\.json does not exist"):
        compare_models(*models, None, SETTINGS, 1)
    page, figures = compare_models(*models, None, SETTINGS, 1, strict=False)
    assert all(by_domain.keys() == {"texts"} for by_domain in figures.values()) and len(figures) == 2
    assert "\nLeft out for pretrained, adapted: data/pretrain/manifest.json does not exist" in page


def command(*flags: str) -> None:
    sys.argv = ["sample.py", *flags]
    sample.main()


def test_the_command(inside_project, capsys):
    shutil.copy(ROOT / "params.yaml", "params.yaml")
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
    for model, named in (("models/merged", "merged"), ("models/lora", "adapted")):
        assert {role: own[model][role] for role in ("pretrain", "finetune")} == {
            role: written[named][role] for role in ("pretrain", "finetune")
        }
    assert Path("metrics/samples.md").read_text() == page  # what the pipeline wrote stays
    command(*short, "--base-checkpoint", "models/pretrain", "--lora-checkpoint", "models/lora")
    assert "### adapted" in (out := capsys.readouterr().out) and "### merged" not in out
