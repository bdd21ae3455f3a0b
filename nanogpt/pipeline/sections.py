"""All sections of params.yaml and their types in one table."""

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.checkpoint.settings import CheckpointSettings
from nanogpt.data.sources.load import Data
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.evaluation.settings import EvaluateSettings
from nanogpt.inference.settings import SampleSettings
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.config import ModelSettings
from nanogpt.runtime.ranges import Seed
from nanogpt.training.settings import TrainSettings

SECTIONS = {
    "seed": Seed,
    "data": Data,
    "tokenizer": TokenizerSettings,
    "model": ModelSettings,
    "train": TrainSettings,
    "lora": LoraSettings,
    "sample": SampleSettings,
    "evaluate": EvaluateSettings,
    "benchmark": BenchmarkSettings,
    "checkpoint": CheckpointSettings,
}
