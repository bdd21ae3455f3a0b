"""How long a training would take on several hosts, from what this machine was measured to do, and where that ends."""

from dataclasses import dataclass

from nanogpt.runtime.errors import UserError
from nanogpt.runtime.metrics_file import read_metrics

DAY = 86400.0
FLOPS = 6  # for each parameter and token: 2 forward, 4 backward
STATE_BYTES = 16  # for each parameter: weight, gradient and two moments in fp32
MIN_EFFICIENCY = 0.5  # below which more hosts no longer pay
MOST_HOSTS = 4096
WAYS = {"gradients in fp32": (4, 1), "gradients in bf16": (2, 1), "weights in bf16 every 16 steps": (2, 16)}


@dataclass(frozen=True)
class Host:
    """What one host does: operations a second in training, and seconds of the optimizer for each parameter."""

    flops_per_s: float
    optimizer_s: float


@dataclass(frozen=True)
class Training:
    """`params` trained on `tokens`, `step_tokens` at a time."""

    params: float
    tokens: float
    step_tokens: float

    def compute_s(self, host: Host, hosts: int) -> float:
        """Seconds a step that hosts compute side by side: their share of the tokens, and each the whole optimizer."""
        return FLOPS * self.params * self.step_tokens / (hosts * host.flops_per_s) + self.params * host.optimizer_s

    def exchange_s(self, hosts: int, bytes_per_s: float, width: int, every: int) -> float:
        """Seconds a step in which a ring of hosts exchanges `width` bytes a parameter, once in `every` steps.

        Each host sends and receives 2 (n - 1) / n of them (Patarasuk & Yuan 2009, doi:10.1016/j.jpdc.2008.09.002).
        Nothing is counted as hidden behind the backward pass.
        """
        return 2 * (hosts - 1) / hosts * width * self.params / bytes_per_s / every


def measured_host(path: str = "metrics/benchmark.json") -> Host:
    """This machine, by its last benchmark. Raises UserError where there is none."""
    figures = read_metrics(path)
    try:
        number = "bf16" if "optimized_bf16" in figures["step_s"] else "fp32"
        flops_per_s = 1e9 * figures["step_gflop"]["optimized"] / figures["step_s"][f"optimized_{number}"]
        return Host(flops_per_s, figures["optimizer_ms"] / 1e3 / figures["parameters"]["optimized"])
    except KeyError:
        raise UserError(f"{path} has no times of this machine; `dvc repro benchmark` measures them") from None


def make_plan(training: Training, host: Host, hosts: int, link_bits_per_s: float) -> dict[str, float | dict]:
    """Days, tokens a second and efficiency on `hosts`, by what is exchanged; memory; and the most hosts that pay.

    `efficiency` is the share of the time that is not exchange and repeated work; beyond `most_hosts` it is below
    MIN_EFFICIENCY.
    """
    found: dict[str, float | dict] = {
        "days_on_one": training.tokens / training.step_tokens * training.compute_s(host, 1) / DAY,
        "memory_gib": STATE_BYTES * training.params / 2**30,
    }
    for name, (width, every) in WAYS.items():

        def step_s(count: int, width: int = width, every: int = every) -> float:
            exchange = training.exchange_s(count, link_bits_per_s / 8, width, every)
            return training.compute_s(host, count) + exchange

        def efficiency(count: int, step_s=step_s) -> float:
            return step_s(1) / (count * step_s(count))

        most = 1
        while most < MOST_HOSTS and efficiency(most + 1) >= MIN_EFFICIENCY:
            most += 1
        found[name] = {
            "tokens_per_s": training.step_tokens / step_s(hosts),
            "days": training.tokens / training.step_tokens * step_s(hosts) / DAY,
            "efficiency": efficiency(hosts),
            "most_hosts": most,
        }
    return found


def format_plan(training: Training, host: Host, hosts: int, link_bits_per_s: float) -> str:
    """The plan as lines for a person."""
    plan = make_plan(training, host, hosts, link_bits_per_s)
    lines = [
        f"{training.params / 1e6:,.0f}M parameters, {training.tokens / 1e9:,.2f}B tokens in steps of "
        f"{training.step_tokens:,.0f}; hosts like this one, {host.flops_per_s / 1e9:,.0f} GFLOP/s in training",
        f"one host: {plan.pop('days_on_one'):,.1f} days; memory of each, besides activations: "
        f"{plan.pop('memory_gib'):,.1f} GiB",
        f"{hosts} hosts at {link_bits_per_s / 1e9:g} Gbit/s:",
    ]
    for name, way in plan.items():
        more = "or more " if way["most_hosts"] == MOST_HOSTS else ""
        lines.append(
            f"  {name}: {way['days']:,.1f} days, {way['tokens_per_s']:,.0f} tokens/s, efficiency "
            f"{way['efficiency']:.0%}; up to {way['most_hosts']} {more}hosts, half of the time is new work"
        )
    return "\n".join(lines)
