from nanogpt.runtime.errors import BadSetting, UserError


def test_a_bad_setting_seen_from_further_out():
    bad = BadSetting("lr", "x", "not a number", "write one").inside("train").inside("all")
    assert isinstance(bad, UserError)
    assert (bad.key, bad.value, bad.reason, bad.remedy) == ("all.train.lr", "x", "not a number", "write one")
    assert str(bad) == "all.train.lr = 'x': not a number; write one"
