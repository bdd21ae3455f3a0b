import json
import math
import os

import pytest

from nanogpt.runtime.metrics_file import write_metrics


def test_six_digits_and_nesting_in_the_order_given(tmp_path):
    path = tmp_path / "a" / "b" / "m.json"  # missing folders are created
    figures = {"val": {"tiny": 1.23456789e-7, "pi": math.pi}, "tokens": 123456789, "name": "x"}
    write_metrics(path, figures)
    found = json.loads(path.read_text())
    assert found == {"val": {"tiny": 1.23457e-7, "pi": 3.14159}, "tokens": 123456789, "name": "x"}
    assert list(found) == list(figures)
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_not_finite_is_refused_and_the_old_file_stays(tmp_path, bad):
    path = tmp_path / "m.json"
    write_metrics(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(path, {"val": {"loss": bad}})
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert os.listdir(tmp_path) == ["m.json"]
