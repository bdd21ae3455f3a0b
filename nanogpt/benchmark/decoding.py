"""Decoding speed: this project's engine against transformers' `generate`, and against what the memory allows."""

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Steps, time_in_turns
from nanogpt.benchmark.variants import CPU, Batch
from nanogpt.checkpoint.hf_config import hf_config
from nanogpt.data.sources import stories
from nanogpt.hardware.device import choose_dtype, configure_torch
from nanogpt.hardware.memory import keep_freed_memory
from nanogpt.inference.engine import Engine
from nanogpt.inference.products import WeightDtype, fastest, pack, supported
from nanogpt.inference.settings import Sampling
from nanogpt.inference.threads import ThreadChoice
from nanogpt.model.build import build_model, shapes_alone
from nanogpt.model.config import ModelConfig
from nanogpt.training.optimizer import build_adamw
from nanogpt.training.step import update

PROMPT, TOKENS = 16, 64  # tokens that are read before a text, and that are written
GREEDY = Sampling(1, TOKENS, 0.0, None, None, None, 1.0, [])
STEPS, SCORED, ROWS, LR = 60, 8, 2, 2e-3  # batches that are learned before int8 weights are compared, and scored


@dataclass(frozen=True)
class Writing:
    """One way to write `rows` texts at once, greedily."""

    program: Literal["nanogpt", "transformers"]
    arch: Literal["base", "optimized"]
    dtype: WeightDtype
    rows: int


def measure_decoding(settings: BenchmarkSettings) -> dict[str, float]:
    """Time one text and 16 at once of the optimized model, by this project and by transformers, in turns.

    transformers has weights in bfloat16, this project's are in the format of `products.fastest`. `bandwidth_share` is
    the bytes of the weights that a token needs, times tokens a second, over the rate at which this machine reads as
    many bytes. `int8_bpb_change_percent` is by how much int8 weights raise bits per byte, see `int8_change`.
    """
    ours = fastest()
    ways = {
        "one": Writing("nanogpt", "optimized", ours, 1),
        "one_transformers": Writing("transformers", "optimized", "bfloat16", 1),
        "batch16": Writing("nanogpt", "optimized", ours, 16),
        "batch16_transformers": Writing("transformers", "optimized", "bfloat16", 16),
    }
    if "int8" in supported():
        ways |= {"one_int8": Writing("nanogpt", "optimized", "int8", 1)}
        ways |= {"batch16_int8": Writing("nanogpt", "optimized", "int8", 16)}
    rates = time_writing(ways, settings)
    n_bytes = weight_bytes(settings.config("optimized"), ours)
    figures = {
        "one_stream_over_transformers": rates["one"] / rates["one_transformers"],
        "batch16_over_transformers": rates["batch16"] / rates["batch16_transformers"],
        "bandwidth_share": n_bytes * rates["one"] / read_rate(n_bytes),
        "tokens_per_s": rates["one"],
        "batch16_tokens_per_s": rates["batch16"],
    }
    if "int8" in supported():
        figures["one_stream_int8_over_transformers"] = rates["one_int8"] / rates["one_transformers"]
        figures["batch16_int8_over_transformers"] = rates["batch16_int8"] / rates["batch16_transformers"]
        figures["int8_bpb_change_percent"] = int8_change(settings)
    return figures


def time_writing(ways: dict[str, Writing], settings: BenchmarkSettings) -> dict[str, float]:
    """Tokens a second of each way, all its texts together, the reading of their prompts included."""
    entries = {name: partial(build_writing, name, way, settings) for name, way in ways.items()}
    medians = time_in_turns(entries, settings.num_iters).medians
    return {name: way.rows * TOKENS / medians[name] for name, way in ways.items()}


def build_writing(name: str, way: Writing, settings: BenchmarkSettings) -> Steps:
    """Build a step that writes texts after prompts of random tokens, which no earlier step has read."""
    torch.manual_seed(0)
    model = build_model(settings.config(way.arch)).eval()
    numbers = itertools.count()

    def prompts() -> list[list[int]]:
        generator = torch.Generator().manual_seed(next(numbers))
        return torch.randint(settings.vocab_size, (way.rows, PROMPT), generator=generator).tolist()

    write = write_with_engine if way.program == "nanogpt" else write_with_transformers
    return {name: write(model, way.dtype, prompts)}


def write_with_engine(model: nn.Module, dtype: WeightDtype, prompts: Callable[[], list[list[int]]]) -> Callable:
    """A step of the engine; no token ends a text."""
    keep_freed_memory()
    end = model.config.vocab_size - 1  # not among the tokens that are written
    engine, threads = Engine(model, end, end, dtype), ThreadChoice()

    def step() -> None:
        for row, ids in enumerate(prompts()):
            engine.add(ids[1:], GREEDY, seed=0, number=row)  # it puts the end token before them
        while threads.run(engine.step):
            pass

    return step


def write_with_transformers(model: nn.Module, dtype: WeightDtype, prompts: Callable[[], list[list[int]]]) -> Callable:
    """A step of transformers' `generate` with its cache, on the same weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = hf_config(model.config, 0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=getattr(torch, dtype)).eval()
    turned = model.hf.transposed or ("nothing",)
    theirs.load_state_dict({name: w.t() if name.endswith(turned) else w for name, w in model.state_dict().items()})
    del model

    def step() -> None:
        ids = torch.tensor(prompts())
        asked = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}
        theirs.generate(ids, attention_mask=torch.ones_like(ids), **asked)

    return step


def weight_bytes(config: ModelConfig, dtype: WeightDtype) -> int:
    """Bytes of the weights that are read for every token: all matrices, but one row of an embedding."""
    with shapes_alone():
        model = build_model(config)
    sizes = [module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)]
    return sum(sizes) * getattr(torch, dtype).itemsize


def read_rate(n_bytes: int, repeats: int = 50) -> float:
    """Bytes a second at which all cores read `n_bytes` of memory again and again: the best of several sums.

    As many as the weights, so that caches hold as much of them.
    """
    configure_torch("auto")
    (seconds,) = time_in_turns({"read": partial(_build_reading, n_bytes)}, repeats).seconds.values()
    return n_bytes / min(seconds)


def _build_reading(n_bytes: int) -> Steps:
    configure_torch("auto")
    data = torch.ones(n_bytes // 4)
    return {"read": data.sum}


def int8_change(settings: BenchmarkSettings) -> float:
    """By how many percent int8 weights raise the bits per byte of a model of this shape after a short training.

    The optimized model learns STEPS batches of ROWS sequences of generated stories, a token a byte, and is scored on
    SCORED others, with its weights in fp32 and as the engine packs them for int8.
    """
    settings = replace(settings, batch_size=ROWS)
    configure_torch(settings.threads)
    torch.manual_seed(0)
    model = build_model(settings.config("optimized"))
    batches = list(story_batches(settings, STEPS + SCORED))
    optimizer = build_adamw(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1)
    dtype = choose_dtype(settings.dtype, CPU)
    for batch in batches[:STEPS]:
        update(model, optimizer, [batch], 1.0, CPU, dtype)
    rounded = with_packed_weights(model.eval(), "int8")
    with torch.no_grad():
        before, after = (math.fsum(one(*batch).item() for batch in batches[STEPS:]) for one in (model, rounded))
    return 100 * (after / before - 1)


def story_batches(settings: BenchmarkSettings, count: int) -> Iterator[Batch]:
    """So many batches of the bytes of generated stories: ids and targets, each (B, T) int64."""
    rng, text = random.Random(0), b""
    for _ in range(count):
        while len(text) <= settings.tokens:
            text += stories.GRAMMAR.draw(rng)[0].encode() + b"\n\n"
        ids = torch.frombuffer(bytearray(text[: settings.tokens + 1]), dtype=torch.uint8).long() % settings.vocab_size
        yield tuple(part.view(settings.batch_size, -1) for part in (ids[:-1], ids[1:]))
        text = text[settings.tokens :]


class PackedLinear(nn.Module):
    """A linear layer with a packed weight, for forward passes alone."""

    def __init__(self, linear: nn.Linear, dtype: WeightDtype):
        super().__init__()
        self.product = pack(linear.weight, linear.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return self.product(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def with_packed_weights(model: nn.Module, dtype: WeightDtype) -> nn.Module:
    """A copy of a model whose linear layers have packed weights: what it loses shows in its scores."""
    packed = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            packed.set_submodule(name, PackedLinear(module, dtype))
    return packed
