"""Section `lora` of params.yaml."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from nanogpt.runtime.ranges import CheckedSettings, Dropout, PositiveInt, Require
from nanogpt.training.settings import LearningRate, Minutes, TrainSettings, check_schedule

Targets = Literal["all-linear", "all"] | list[str]


@dataclass(frozen=True)
class LoraSettings(CheckedSettings):
    """Section `lora` of params.yaml: the adapter, and the training settings that replace those of `train`."""

    r: Annotated[int, Require(lambda n: n >= 1, "must be at least 1", "choose 4 to 64")]
    alpha: Annotated[float, Require(lambda x: x > 0, "must be above 0", "r or twice r is usual")]
    dropout: Dropout
    target_modules: Annotated[Targets, Require(len, "names no module", "write all-linear")]
    kind: Literal["lora", "rslora", "dora", "full"]
    max_steps: PositiveInt
    max_minutes: Minutes
    batch_size: PositiveInt
    replay: Annotated[float, Require(lambda x: 0 <= x < 1, "not a share below 1", "choose 0.0 to 0.5")]
    optimizer: Literal["adamw", "muon"]
    lr: LearningRate
    min_lr: float
    warmup_steps: int | float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule(self)

    def training(self, train: TrainSettings) -> TrainSettings:
        """The training settings of a fine-tuning run: `train` with the values of this section."""
        replaced = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if hasattr(train, f.name)}
        return dataclasses.replace(train, **replaced)
