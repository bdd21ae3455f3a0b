import dataclasses
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from benchmark_shapes import SETTINGS

import stages.research

ALL = """
import sys
from benchmark_shapes import time_nothing
from nanogpt.benchmark import training_speed
from nanogpt.research import ablation, layers
from stages import research
for module in (ablation, layers, training_speed):
    module.time_in_turns = time_nothing
sys.argv = ["research.py", "--compile", "off", "--out", "all.json"]
research.main()
"""


@pytest.mark.slow
def test_all_measurements(tmp_path):
    """In a process of its own, whose settings they change; without a clock, as timing them takes minutes."""
    (tmp_path / "params.yaml").write_text(json.dumps({"benchmark": dataclasses.asdict(replace(SETTINGS, num_iters=1))}))
    subprocess.run([sys.executable, "-c", ALL], cwd=tmp_path, check=True)
    found = json.loads((tmp_path / "all.json").read_text())
    kinds = {f"{kind}_{dtype}" for kind in ("base", "optimized") for dtype in ("fp32", "bf16")}
    assert found["variants"]["step_s"].keys() == kinds | {"base_fp32_plain", "base_bf16_plain"}
    assert found["parts"]["parts_ms"].keys() == kinds
    assert found["improvements"]["layer_speedup"]["fp32"]["gqa_over_mha"] > 0
    assert found["ablation"].keys() == {"fp32", "bf16"}
    assert not (tmp_path / "metrics").exists()


def test_flags_that_a_measurement_does_not_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["research.py", "--what", "parts", "--dtype", "float32"])
    with pytest.raises(SystemExit, match=r"^error: --dtype .*--what parts"):
        stages.research.main()
