from sampling_settings import sampling

from nanogpt.evaluation.text_figures import TEXTS, distinct, text_figures
from nanogpt.inference.writer import Writer


def test_distinct():
    assert distinct(["a b a b", "a b"], 1) == 2 / 6 and distinct(["a b a b", "a b"], 2) == 2 / 4
    assert distinct([], 1) == distinct(["a"], 2) == 0


def test_figures_of_texts(tiny, byte):
    writer = Writer(tiny().eval(), byte, "float32")
    expected = [text.written for text in writer.write([""], sampling(num_samples=TEXTS, max_tokens=32), 4)[0]]
    figures = text_figures(writer, sampling(num_samples=2, max_tokens=5, stop=["a"]), 4)
    assert figures["distinct_1"] == distinct(expected, 1) and figures["distinct_2"] == distinct(expected, 2)
    assert 0 < figures["first_token_s"] < 60 and figures["tokens_per_s"] > 0 and len(figures) == 4
