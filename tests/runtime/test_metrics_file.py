import json
import math
import os

import pytest

from nanogpt.runtime.metrics_file import write_metrics


def test_six_digits_and_nesting(tmp_path):
    path = tmp_path / "m.json"
    figures = {"val": {"bpb": math.pi, "tiny": 1.23456789e-7, "large": 12345678.9}, "tokens": 123456789, "name": "x"}
    write_metrics(path, figures)
    assert json.loads(path.read_text()) == {
        "val": {"bpb": 3.14159, "tiny": 1.23457e-7, "large": 12345700.0},
        "tokens": 123456789,
        "name": "x",
    }
    assert path.read_text().endswith("}\n")


def test_equal_figures_give_equal_bytes_and_order_is_kept(tmp_path):
    write_metrics(tmp_path / "a", {"b": 0.1 + 0.2, "a": 1.0})
    write_metrics(tmp_path / "b", {"b": 0.3, "a": 1.0000000001})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(json.loads((tmp_path / "a").read_text())) == ["b", "a"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_and_the_old_file_stays(tmp_path, bad):
    path = tmp_path / "m.json"
    write_metrics(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(path, {"val": {"loss": bad}})
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert os.listdir(tmp_path) == ["m.json"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.json"
    write_metrics(path, {"loss": 1.0})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_metrics(path, {"loss": 2.0})
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert os.listdir(tmp_path) == ["m.json"]


def test_missing_folders_are_made(tmp_path):
    write_metrics(tmp_path / "a" / "b" / "m.json", {"x": 1})
    assert json.loads((tmp_path / "a" / "b" / "m.json").read_text()) == {"x": 1}
