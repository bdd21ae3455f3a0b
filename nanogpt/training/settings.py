"""Section `train` of params.yaml."""

from dataclasses import asdict, dataclass
from typing import Literal

from nanogpt.hardware.compilation import Compile
from nanogpt.hardware.device import Dtype
from nanogpt.runtime.errors import BadSetting
from nanogpt.training.save_interval import parse_interval


@dataclass(frozen=True)
class TrainSettings:
    """Section `train` of params.yaml; lora-finetune replaces some of it with its own."""

    max_steps: int
    batch_size: int
    grad_accum: int
    lr: float
    min_lr: float
    warmup_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    grad_clip: float
    eval_every: int
    eval_batches: int
    log_every: int
    dtype: Dtype
    compile: Compile
    threads: int | Literal["auto"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    checkpoint_every: int | str
    init_from: str

    def __post_init__(self) -> None:
        check_schedule(self)
        parse_interval(self.checkpoint_every)
        for key in ("grad_accum", "eval_every", "eval_batches", "log_every"):
            if getattr(self, key) < 1:
                raise BadSetting(key, getattr(self, key), "must be at least 1", "choose a positive whole number")
        if self.threads != "auto" and not 1 <= self.threads <= 4096:
            raise BadSetting("threads", self.threads, "not between 1 and 4096", "choose auto or a number of cores")
        if self.weight_decay < 0:
            raise BadSetting("weight_decay", self.weight_decay, "is negative", "choose 0.0 to 0.1")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise BadSetting(key, getattr(self, key), "not between 0 and 1", "0.9 and 0.95 to 0.999 are usual")
        if self.grad_clip <= 0:
            raise BadSetting("grad_clip", self.grad_clip, "must be above 0", "1.0 is usual; a large value never clips")

    @property
    def step_sequences(self) -> int:
        """Sequences that a step reads."""
        return self.batch_size * self.grad_accum

    def fingerprint_inputs(self) -> dict:
        """What of it decides a run's result: not how often it is saved, nor what a checkpoint is called."""
        return {key: value for key, value in asdict(self).items() if key not in ("checkpoint_every", "init_from")}


def check_schedule(settings) -> None:
    """Check the keys that the sections `train` and `lora` share. Raises BadSetting for a wrong value."""
    for key in ("max_steps", "batch_size"):
        if getattr(settings, key) < 1:
            raise BadSetting(key, getattr(settings, key), "must be at least 1", "choose a positive whole number")
    if not 0 < settings.lr <= 1:
        raise BadSetting("lr", settings.lr, "not between 0 and 1", "choose 0.0001 to 0.01")
    if not 0 <= settings.min_lr <= settings.lr:
        raise BadSetting("min_lr", settings.min_lr, f"not between 0 and lr = {settings.lr}", "a tenth of lr is usual")
    if not 0 <= settings.warmup_steps < settings.max_steps:
        reason = f"not between 0 and max_steps = {settings.max_steps}"
        raise BadSetting("warmup_steps", settings.warmup_steps, reason, "a twentieth of max_steps is usual")


def check_seed(seed: int) -> None:
    """Raise BadSetting for a seed that torch's generator on the CPU would not tell from another."""
    if not 0 <= seed < 2**32:
        raise BadSetting("seed", seed, f"not between 0 and {2**32 - 1}", "choose a small whole number, like 1")
