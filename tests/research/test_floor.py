import json

import pytest

from nanogpt.research.floor import compare_with_floor
from nanogpt.runtime.errors import UserError


def test_bits_over_the_floor(tmp_path):
    metrics = {"val": {"bpb": 0.3}, "floor": {"bpb": 0.25}, "steps": 7, "wall_s": 90.0}
    path = tmp_path / "pretrain.json"
    path.write_text(json.dumps(metrics))
    found = compare_with_floor(path)
    assert found == {"over_floor": pytest.approx(1.2), "val_bpb": 0.3, "floor_bpb": 0.25, "steps": 7, "minutes": 1.5}
    del metrics["floor"]
    path.write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="has no floor"):
        compare_with_floor(path)
    with pytest.raises(UserError, match="dvc repro pretrain"):
        compare_with_floor(tmp_path / "missing.json")
