import json

import pytest

from nanogpt.benchmark.plan import Host, Training, format_plan, make_plan, measured_host
from nanogpt.runtime.errors import UserError

HOST = Host(flops_per_s=1e12, optimizer_s=1e-9)
TRAINING = Training(params=1e8, tokens=1e9, step_tokens=1e5)


def test_days_by_hand():
    """A step of 6e13 operations takes 60 s on one host and the optimizer 0.1 s; 10,000 steps are 6.96 days."""
    plan = make_plan(TRAINING, HOST, 4, 1e9)
    assert plan["days_on_one"] == pytest.approx(10_000 * 60.1 / 86400)
    assert plan["memory_gib"] == pytest.approx(1.6e9 / 2**30)
    # of four hosts each computes 15 s, and sends 1.5 times 400 MB at 125 MB/s
    ddp = plan["gradients in fp32"]
    assert ddp["days"] == pytest.approx(10_000 * (15.1 + 4.8) / 86400)
    assert ddp["tokens_per_s"] == pytest.approx(1e5 / 19.9)
    assert ddp["efficiency"] == pytest.approx(60.1 / (4 * 19.9))
    assert plan["gradients in bf16"]["days"] == pytest.approx(10_000 * (15.1 + 2.4) / 86400)
    assert plan["weights in bf16 every 16 steps"]["days"] == pytest.approx(10_000 * (15.1 + 0.15) / 86400)


def test_where_more_hosts_do_not_pay():
    """Half of the time is exchange where 60.1 / n is what 0.1 and 6.4 (n - 1) / n seconds are: at 9 to 10 hosts."""
    most = make_plan(TRAINING, HOST, 1, 1e9)["gradients in fp32"]["most_hosts"]

    def efficiency(n: int) -> float:
        return 60.1 / (n * (60 / n + 0.1 + 6.4 * (n - 1) / n))

    assert efficiency(most) >= 0.5 > efficiency(most + 1)
    assert make_plan(TRAINING, HOST, 1, 1e15)["gradients in bf16"]["most_hosts"] > 500


def test_one_host_exchanges_nothing():
    plan = make_plan(TRAINING, HOST, 1, 1.0)
    assert plan["gradients in fp32"]["days"] == pytest.approx(plan["days_on_one"])
    assert plan["gradients in fp32"]["efficiency"] == 1.0


def test_what_a_person_reads():
    lines = format_plan(TRAINING, HOST, 4, 1e9).splitlines()
    assert lines[0].startswith("100M parameters, 1.00B tokens in steps of 100,000; hosts like this one, 1,000 GFLOP/s")
    assert lines[1] == "one host: 7.0 days; memory of each, besides activations: 1.5 GiB"
    assert lines[3].startswith("  gradients in fp32: 2.3 days, 5,025 tokens/s, efficiency 76%; up to 10 hosts, ")


def test_the_machine_is_that_of_the_last_benchmark(tmp_path):
    file = tmp_path / "benchmark.json"
    figures = {"step_s": {"optimized_fp32": 2.0, "optimized_bf16": 0.5}, "step_gflop": {"optimized": 250.0}}
    file.write_text(json.dumps(figures | {"optimizer_ms": 20.0, "parameters": {"optimized": 4e7}}))
    assert measured_host(file) == Host(flops_per_s=5e11, optimizer_s=5e-10)
    for content in ("{}", '{"step_s": {}}'):
        file.write_text(content)
        with pytest.raises(UserError, match="has no times of this machine; `dvc repro benchmark` measures them"):
            measured_host(file)
