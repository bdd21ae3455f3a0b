"""Section `train` of params.yaml."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from nanogpt.hardware.compilation import Compile
from nanogpt.hardware.device import Dtype
from nanogpt.runtime.errors import BadSetting
from nanogpt.runtime.ranges import CheckedSettings, PositiveInt, Require, Threads
from nanogpt.training.save_interval import parse_interval

LearningRate = Annotated[float, Require(lambda x: 0 < x <= 1, "not between 0 and 1", "choose 0.0001 to 0.02")]
Minutes = Annotated[float | None, Require(lambda x: x > 0, "must be above 0", "choose 1 to 1000, or null")]
# one process or several: but for the last bits, dropout and local_steps; `init_from` is a path, and its content decides
NEVER_IN_RESULTS = ("checkpoint_every", "init_from", "processes", "timeout_s", "sample_every", "tensorboard")
Beta = Annotated[float, Require(lambda x: 0 <= x < 1, "not between 0 and 1", "0.9 and 0.95 to 0.999 are usual")]


@dataclass(frozen=True)
class TrainSettings(CheckedSettings):
    """Section `train` of params.yaml; lora-finetune replaces some of it with its own."""

    max_steps: PositiveInt
    max_minutes: Minutes
    batch_size: PositiveInt
    grad_accum: PositiveInt
    optimizer: Literal["adamw", "muon"]
    windows: Literal["documents", "stream"]
    lr: LearningRate
    min_lr: float
    embedding_lr: Annotated[float, Require(lambda x: x > 0, "must be above 0", "choose 0.5 to 5.0")]
    warmup_steps: int | float
    schedule: Literal["linear", "cosine"]
    weight_decay: Annotated[float, Require(lambda x: x >= 0, "is negative", "choose 0.0 to 0.1")]
    beta1: Beta
    beta2: Beta
    grad_clip: Annotated[float, Require(lambda x: x > 0, "must be above 0", "1.0 is usual; a large value never clips")]
    eval_every: PositiveInt
    eval_batches: PositiveInt
    log_every: PositiveInt
    sample_every: Annotated[int | None, Require(lambda n: n >= 1, "must be at least 1", "choose 50 to 1000, or null")]
    tensorboard: bool
    keep: Literal["best", "last"]
    patience: Annotated[int | None, Require(lambda n: n >= 1, "must be at least 1", "choose 5 to 50, or null")]
    dtype: Dtype
    compile: Compile
    threads: Threads
    device: Literal["auto", "cpu", "cuda", "mps"]
    checkpoint_every: int | str
    init_from: str
    processes: PositiveInt
    exchange_dtype: Literal["float32", "bfloat16"]
    local_steps: PositiveInt
    timeout_s: Annotated[int, Require(lambda s: s >= 1, "must be at least 1", "choose 60 to 600")]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule(self)
        # between two exchanges there is no one model to validate or save
        every = {"eval_every": self.eval_every, "checkpoint_every": parse_interval(self.checkpoint_every).steps or 0}
        for name, steps in every.items():
            if steps % self.local_steps:
                reason = f"does not divide {name} = {steps}"
                raise BadSetting("local_steps", self.local_steps, reason, "choose one that does, or 1")

    @property
    def step_sequences(self) -> int:
        """Sequences that a step reads."""
        return self.batch_size * self.grad_accum

    def fingerprint_inputs(self) -> dict:
        """The settings that decide a run's result, see NEVER_IN_RESULTS."""
        return {key: value for key, value in asdict(self).items() if key not in NEVER_IN_RESULTS}


def check_schedule(settings) -> None:
    """Check `min_lr` and `warmup_steps` of section `train` or `lora` against its `lr` and length.

    Raises BadSetting.
    """
    if not 0 <= settings.min_lr <= settings.lr:
        reason = f"not between 0 and lr = {settings.lr}"
        raise BadSetting("min_lr", settings.min_lr, reason, "choose 0, or a tenth of lr")
    share = isinstance(settings.warmup_steps, float)
    steps = math.inf if settings.max_minutes else settings.max_steps
    if not 0 <= settings.warmup_steps < (1 if share else steps):
        reason = "not a share between 0 and 1" if share else f"not between 0 and max_steps = {settings.max_steps}"
        raise BadSetting("warmup_steps", settings.warmup_steps, reason, "a twentieth of max_steps, 0.05, is usual")


def resolve_warmup(settings):
    """Return section `train` or `lora` with a share of `max_steps` in `warmup_steps` replaced by a number of steps.

    With `max_minutes` it stays, until the number of steps is known.
    """
    share = isinstance(settings.warmup_steps, float)
    return settings if settings.max_minutes or not share else fix_steps(settings, settings.max_steps)


def fix_steps(settings, max_steps: int):
    """Return section `train` or `lora` for a run of `max_steps` steps, its warm-up as a number of steps."""
    warmup = settings.warmup_steps
    steps = round(warmup * max_steps) if isinstance(warmup, float) else warmup
    return replace(settings, max_steps=max_steps, max_minutes=None, warmup_steps=min(steps, max_steps - 1))
