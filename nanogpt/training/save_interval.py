"""How often a run is saved: `train.checkpoint_every`."""

import re
from dataclasses import dataclass

from nanogpt.runtime.errors import BadSetting

UNITS = {"s": 1, "m": 60, "h": 3600}
MIN_INTERVAL_OVER_COST = 50  # saves by the clock are at least 50 save times apart: a slow disk costs 2% at most


@dataclass(frozen=True)
class SaveInterval:
    """A number of steps or of seconds between two saves; the other is None."""

    steps: int | None = None
    seconds: float | None = None

    def due(self, step: int, since: float, cost: float) -> bool:
        """Whether to save after `step` steps; the last save was `since` seconds ago and took `cost` seconds."""
        if self.steps:
            return step % self.steps == 0
        return since >= max(self.seconds, MIN_INTERVAL_OVER_COST * cost)


def parse_interval(value: int | str) -> SaveInterval:
    """Parse `train.checkpoint_every`: 500 is steps; 60s, 10m and 1h are time. Raises BadSetting for anything else."""
    if isinstance(value, int) and value >= 1:
        return SaveInterval(steps=value)
    if match := re.fullmatch(r"(\d+(?:\.\d+)?) ?([smh])", str(value)):
        seconds = float(match[1]) * UNITS[match[2]]
        if seconds > 0:
            return SaveInterval(seconds=seconds)
    raise BadSetting("checkpoint_every", value, "neither steps nor a time", "write 500 for steps, or 60s, 10m, 1h")
