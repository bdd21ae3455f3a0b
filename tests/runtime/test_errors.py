import pickle

from nanogpt.runtime.errors import BadSetting, shorten


def test_long_text_is_cut_to_one_line_of_the_limit():
    assert shorten("a\n  b " + "x" * 116) == "a b " + "x" * 116
    assert shorten("x" * 121) == "x" * 119 + "…"
    assert shorten([10, 20], 5) == "[10,…"
    assert len(str(BadSetting("lr", "x" * 500, "not a number", "write one"))) < 160


def test_a_mistake_comes_whole_from_another_process():
    bad = BadSetting("train.lr", 7, "too large", "choose less")
    copy = pickle.loads(pickle.dumps(bad))
    assert (str(copy), copy.key, copy.value) == (str(bad), "train.lr", 7)
