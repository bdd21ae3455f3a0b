import json
import math
import os

import pytest

from nanogpt.runtime.errors import UserError
from nanogpt.runtime.metrics_file import add_metrics, read_metrics, write_metrics


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


def test_adding_keeps_other_figures_and_replaces_its_own(tmp_path):
    path = tmp_path / "figures.json"
    for key, figures in [("a", {"x": 1}), ("b", {"y": 2}), ("a", {"z": 3})]:
        add_metrics(path, key, figures)
    assert read_metrics(path) == {"a": {"z": 3}, "b": {"y": 2}}


@pytest.mark.parametrize("content", ["[1]", "# notes"])
def test_other_files_are_no_figures(tmp_path, content):
    (tmp_path / "notes.md").write_text(content)
    with pytest.raises(UserError, match=r"notes\.md is not a file of figures"):
        read_metrics(tmp_path / "notes.md")
