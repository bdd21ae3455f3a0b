from nanogpt.runtime.errors import BadSetting, shorten


def test_long_text_is_cut_to_one_line_of_the_limit():
    assert shorten("a\n  b " + "x" * 116) == "a b " + "x" * 116
    assert shorten("x" * 121) == "x" * 119 + "…"
    assert shorten([10, 20], 5) == "[10,…"
    assert len(str(BadSetting("lr", "x" * 500, "not a number", "write one"))) < 160
