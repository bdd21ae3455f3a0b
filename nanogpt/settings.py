"""All sections of params.yaml in one table, for whoever must know them all."""

from nanogpt.bench.settings import BenchmarkSettings
from nanogpt.checkpoint import CheckpointSettings
from nanogpt.compare import SampleSettings
from nanogpt.corpus import Data
from nanogpt.lora import LoraSettings
from nanogpt.model import ModelSettings
from nanogpt.tokenizer import TokenizerSettings
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
