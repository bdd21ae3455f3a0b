from nanogpt.runtime.errors import BadSetting, UserError, shorten


def test_a_bad_setting_seen_from_further_out():
    bad = BadSetting("lr", "x", "not a number", "write one").inside("train").inside("all")
    assert isinstance(bad, UserError)
    assert (bad.key, bad.value, bad.reason, bad.remedy) == ("all.train.lr", "x", "not a number", "write one")
    assert str(bad) == "all.train.lr = 'x': not a number; write one"


def test_long_text_is_cut_to_one_line_of_the_limit():
    assert shorten("a\n  b " + "x" * 116) == "a b " + "x" * 116
    assert shorten("x" * 121) == "x" * 119 + "…"
    assert shorten([10, 20], 5) == "[10,…"
    assert len(str(BadSetting("lr", "x" * 500, "not a number", "write one"))) < 160
