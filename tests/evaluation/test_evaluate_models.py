"""Evaluations, against a perfect model, an independent script and what is counted by hand."""

import json
import math
from itertools import islice
from random import Random

import numpy as np
import pytest
import torch
from grammar_model import GrammarModel

from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.prepare.write_bins import write_corpus
from nanogpt.data.sources import abstracts, stories
from nanogpt.data.sources.document import Corpus, Document
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.evaluation.evaluate_models import Domain, evaluate_models, open_domain
from nanogpt.evaluation.evaluation_page import markdown_page
from nanogpt.evaluation.examine import Examination, WrittenText, writing_figures
from nanogpt.evaluation.models import OwnModel
from nanogpt.evaluation.settings import EvaluateSettings
from nanogpt.evaluation.text_score import score_texts
from nanogpt.model.score import score_documents

SOURCES = {"stories": stories.GRAMMAR, "abstracts": abstracts.GRAMMAR}
SETTINGS = EvaluateSettings(pairs=3, texts=4)


@pytest.fixture(scope="module", params=SOURCES)
def generated(request, tmp_path_factory, byte):
    """A source, and a folder of bins in bytes, half of it for validation."""
    rng, grammar = Random(2), SOURCES[request.param]
    documents = [Document(*grammar.draw(rng)) for _ in range(16)]
    folder = tmp_path_factory.mktemp("data") / "pretrain"
    folder.mkdir()
    write_corpus(folder, Corpus(request.param, "MIT", lambda skipped: iter(documents), exact=True), byte, 0.5)
    byte.save(folder / "tokenizer")
    return request.param, folder


def test_the_grammar_itself_is_a_perfect_model(generated, byte):
    source, folder = generated
    domain = open_domain(folder, "pretrain")
    perfect = OwnModel(GrammarModel(SOURCES[source], byte), byte)
    assert score_texts(perfect, domain.texts).bpb == pytest.approx(domain.floor, rel=1e-9)
    examination = Examination(source, SETTINGS, seed=1)
    accuracy = examination.compare_pairs(perfect)
    assert all(share == 1 for group in accuracy.values() for name, share in group.items() if "_ci95" not in name)
    figures = examination.calibrate(perfect)
    assert abs(figures["kl_bits"]) < 1e-6 and all(abs(each) < 1e-6 for each in figures["kl_bits_at"].values())


def test_what_is_asked_is_not_in_the_training_text(generated):
    source, folder = generated
    examination = Examination(source, SETTINGS, seed=1)
    rng = Random(1)  # of data.<source>.seed
    trained = {SOURCES[source].draw(rng)[0] for _ in range(2000)} | set(open_domain(folder, "pretrain").texts)
    asked = {*examination.texts, *(pair.right for pair in examination.pairs)}
    assert len(asked) > 20 and not any(text in trained for text in asked if len(text) > 300)


def longest_substring(text: bytes, source: bytes) -> int:
    """The length of the longest part of a text that is in another, by trying all."""
    longest = 0
    for start in range(len(text)):
        while start + longest < len(text) and text[start : start + longest + 1] in source:
            longest += 1
    return longest


def test_all_figures_and_the_page(generated, byte, tiny):
    source, folder = generated
    domain = open_domain(folder, "pretrain")
    models = {f"models/{seed}": OwnModel(tiny(seed=seed).eval(), byte) for seed in (1, 2)}
    found = evaluate_models(models, {"pretrain": domain}, SETTINGS, seed=1)
    first, second, grammar = (by_domain["pretrain"] for by_domain in found.figures.values())
    assert list(found.figures) == [*models, "grammar"]
    assert second["bpb_change"] == pytest.approx(second["bpb"] - first["bpb"]) and "bpb_change" not in first
    assert first["bytes_per_token"] < 1 and grammar["bpb"] == domain.floor
    for figures in (first, second):
        assert 0.2 < figures["pairs"]["all"] < 0.8 and figures["kl_bits"] > 1
        assert figures["grammatical_share"] == 0 and figures["distinct_share"] == 1
        assert sum(figures["first_mistakes"].values()) == 1
    train = bytes(np.where(domain.train < 256, domain.train, 0).astype(np.uint8))
    for figures, texts in (
        (first, [text.text for text in found.written["pretrain"]["models/1"]]),
        (grammar, Examination(source, SETTINGS, 1).texts),
    ):
        shares = [longest_substring(text.encode(), train) / len(text.encode()) for text in texts]
        assert figures["copied_share"] == pytest.approx(sum(shares) / len(shares))
    for text, fresh in zip(found.written["pretrain"]["models/1"], Examination(source, SETTINGS, 1).texts, strict=True):
        assert text.text.split(" ")[:2] == fresh.split(" ")[:2] or text.text[:3] == fresh[:3]
    page = markdown_page(found, {"pretrain": domain})
    assert f"## {source} (pretrain)" in page and page.count("| models/2 |") == 5
    assert f"| {first['bpb']:.3f} ± " in page and "First mistakes of models/1:" in page
    json.dumps(found.figures, allow_nan=False)


@pytest.fixture
def bins(tmp_path):
    """Write a corpus of these documents, half of it for validation, and open it."""

    def write(name: str, documents: list[Document], tok, **more) -> Domain:
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        write_corpus(folder, Corpus(name, "MIT", lambda skipped: iter(documents), **more), tok, 0.5)
        tok.save(folder / "tokenizer")
        return open_domain(folder, "pretrain")

    return write


def test_of_conversations_the_answers_are_scored(bins, tiny, byte, char):
    """In their own tokens: those of another tokenizer would begin elsewhere."""
    documents = [Document(f"User: is {n} even?\n\nAssistant: {'no' if n % 2 else 'yes'}") for n in range(8)]
    domain = bins("chats", documents, byte, chat=True)
    assert domain.val.prompts is not None
    own, other = (OwnModel(tiny(vocab_size=tok.vocab_size).eval(), tok) for tok in (byte, char))
    found = evaluate_models({"own": own, "other": other}, {"pretrain": domain}, SETTINGS, seed=1)
    score = score_documents(own.net, domain.val.documents(), byte.byte_lengths(), prompts=domain.val.prompts)
    assert found.figures["own"]["pretrain"]["bpb"] == pytest.approx(score.bpb)
    assert score.bpb != pytest.approx(score_texts(own, domain.texts).bpb, rel=0.01)
    assert list(found.figures) == ["own"] and "answers are scored in the tokens" in found.notes[0]


def test_texts_of_a_known_source_whose_characters_were_replaced(bins, tiny):
    """Nothing that the grammar says of the true texts holds for these."""
    rng = Random(2)
    documents = [Document(*stories.GRAMMAR.draw(rng)) for _ in range(8)]
    letters = "".join(sorted(set("".join(document.text for document in documents)) - {'"', "."}))
    tok = train_tokenizer(TokenizerSettings("char", 0, "replace"), [letters])
    domain = bins("stories", documents, tok, exact=True)
    assert domain.source is None and domain.val.counts.replaced > 10
    model = OwnModel(tiny(vocab_size=tok.vocab_size).eval(), tok)
    found = evaluate_models({"m": model}, {"pretrain": domain}, SETTINGS, seed=1)
    assert "pairs" not in found.figures["m"]["pretrain"] and "grammar" not in found.figures
    assert f"one token for {domain.val.counts.replaced:,} characters that it lacks" in found.notes[0]


def test_a_text_of_ones_own_with_the_name_of_a_source(bins, byte):
    domain = bins("stories", [Document(f"a text of {n} words") for n in range(20)], byte)
    assert domain.source is None and len(domain.texts) > 5


def test_written_texts_are_counted():
    written = [WrittenText("a", None, None), WrittenText("a", None, None), WrittenText("b", 0, "words"),
               WrittenText("c", 1, "names")]  # fmt: skip
    figures = writing_figures(written)
    assert figures["grammatical_share"] == 0.5 and figures["distinct_share"] == 0.75
    assert figures["first_mistakes"] == {"names": 0.25, "words": 0.25}
    # Wilson 1927: (0.5 ± …) for 2 of 4, the interval from 0.15 to 0.85
    assert figures["grammatical_share_ci95"] == pytest.approx(0.35, abs=0.001)


def test_tokenizers_that_lack_characters(tiny, byte):
    texts = ["a cat", "a cät ☃☃"]
    strict, lenient = (
        train_tokenizer(TokenizerSettings("char", 0, unknown), ["a cat�"]) for unknown in ("error", "replace")
    )
    models = {
        name: OwnModel(tiny(vocab_size=tok.vocab_size).eval(), tok)
        for name, tok in (("strict", strict), ("lenient", lenient), ("bytes", byte))
    }
    found = evaluate_models(models, {"text": Domain("my text", texts)}, SETTINGS, seed=1)
    assert list(found.figures) == ["lenient", "bytes"]
    assert found.figures["lenient"]["text"]["unknown_characters"] == 3
    left_out, replaced = found.notes
    assert "strict is left out on my text: " in left_out and "'ä'" in left_out
    assert "lenient on my text" in replaced and "3 characters" in replaced and "'☃', 'ä'" in replaced
    assert "unknown_characters" not in found.figures["bytes"]["text"]
    assert left_out in markdown_page(found, {"text": Domain("my text", texts)})


def test_bits_per_byte_by_hand(tiny, char):
    """A tokenizer of characters on a text with two bytes to one: bytes are those of the text."""
    model = tiny(vocab_size=char.vocab_size, block_size=64).eval()
    text = "Été, naïve"
    ids = torch.tensor([[char.eot, *char.encode(text), char.eot]])
    with torch.no_grad():
        log_p = model(ids[:, :-1]).double().log_softmax(-1)[0]
    nats = -log_p[np.arange(len(text) + 1), ids[0, 1:]].sum().item()
    score = score_texts(OwnModel(model, char), [text])
    assert score.bpb == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-6)
    assert list(islice(score.document_tokens, 2)) == [len(text) + 1]
