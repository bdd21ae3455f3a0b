"""All sections of params.yaml in one table, for whoever must know them all."""

from nanogpt.bench.settings import BenchmarkSettings
from nanogpt.checkpoint.settings import CheckpointSettings
from nanogpt.compare import SampleSettings
from nanogpt.data.sources import Data
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.lora import LoraSettings
from nanogpt.model.config import ModelSettings
from nanogpt.train import TrainSettings

SECTIONS = {
    "seed": int,
    "data": Data,
    "tokenizer": TokenizerSettings,
    "model": ModelSettings,
    "train": TrainSettings,
    "lora": LoraSettings,
    "sample": SampleSettings,
    "benchmark": BenchmarkSettings,
    "checkpoint": CheckpointSettings,
}
