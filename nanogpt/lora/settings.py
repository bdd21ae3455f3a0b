"""Section `lora` of params.yaml."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nanogpt.runtime.errors import BadSetting
from nanogpt.training.settings import TrainSettings, check_schedule

if TYPE_CHECKING:
    pass  # takes seconds to import: the functions below do it when needed


Targets = Literal["all-linear", "all"] | list[str]


@dataclass(frozen=True)
class LoraSettings:
    """Section `lora` of params.yaml: the adapter, and what its training does differently from `train`."""

    r: int
    alpha: float
    dropout: float
    target_modules: Targets
    kind: Literal["lora", "rslora", "dora"]
    max_steps: int
    batch_size: int
    lr: float
    min_lr: float
    warmup_steps: int

    def __post_init__(self) -> None:
        if self.r < 1:
            raise BadSetting("r", self.r, "must be at least 1", "choose 4 to 64")
        if self.alpha <= 0:
            raise BadSetting("alpha", self.alpha, "must be above 0", "r or twice r is usual")
        if not 0 <= self.dropout < 1:
            raise BadSetting("dropout", self.dropout, "not a probability below 1", "choose 0.0 to 0.1")
        if not self.target_modules:
            raise BadSetting("target_modules", self.target_modules, "names no module", "write all-linear")
        check_schedule(self)

    def training(self, train: TrainSettings) -> TrainSettings:
        """The training settings of a fine-tuning run: `train` with this section's own figures."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if hasattr(train, f.name)}
        return dataclasses.replace(train, **own)
