"""What each part of the optimized architecture is worth: models with one part in another form, at equal steps."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin, tokenizer_of_bins
from nanogpt.evaluation.confidence import describe_mean
from nanogpt.model import gpt2, llama
from nanogpt.model.build import build_model, count_parameters, model_config
from nanogpt.model.config import ModelConfig, ModelSettings
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.score import score_documents
from nanogpt.training.loop import train
from nanogpt.training.settings import TrainSettings, resolve_warmup

GPT2_STD = 0.02  # of GPT-2's initial weights, at all widths


class PostNormBlock(llama.Block):
    """A block that normalises the sum, not the branch, as in Vaswani et al. 2017 (arXiv:1706.03762)."""

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor], starts: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = self.input_layernorm(x + self.drop(self.self_attn(x, cos_sin, starts)))
        return self.post_attention_layernorm(x + self.drop(self.mlp(x)))


class LearnedPositions(llama.Qwen3):
    """Qwen3 with GPT-2's table of positions, which are added to the embedding, in place of rotations."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        nn.init.normal_(self.positions.weight, std=config.initial_std)

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states before the output head, (B, T, C)."""
        places, starts = torch.arange(ids.size(1), device=ids.device), self.starts(ids)
        places = places if starts is None else places - starts
        x = self.model.drop(self.model.embed_tokens(ids) + self.positions(places))
        unturned = torch.ones(1, device=ids.device), torch.zeros(1, device=ids.device)  # cosine and sine of no angle
        for block in self.model.layers:
            x = block(x, unturned, starts)
        return self.model.norm(x)


def _with_layer_norm(config: ModelConfig) -> LanguageModel:
    model = build_model(config)
    for block in model.model.layers:
        block.input_layernorm, block.post_attention_layernorm = (nn.LayerNorm(config.n_embd) for _ in range(2))
    model.model.norm = nn.LayerNorm(config.n_embd)
    return model


def _with_gelu(config: ModelConfig) -> LanguageModel:
    model = build_model(config)
    for block in model.model.layers:
        block.mlp = gpt2.MLP(config)
    model.initialise()
    return model


def _with_post_norm(config: ModelConfig) -> LanguageModel:
    model = build_model(config)
    for block in model.model.layers:
        block.__class__ = PostNormBlock
    return model


@torch.no_grad()
def _with_gpt2_std(config: ModelConfig) -> LanguageModel:
    model = build_model(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(GPT2_STD / config.initial_std)
    return model


@torch.no_grad()
def _with_random_positions(config: ModelConfig) -> LanguageModel:
    model = build_model(config)
    model.transformer.wpe.weight.normal_(std=config.initial_std)
    return model


PARTS: dict[str, dict[str, Callable[[ModelConfig], LanguageModel]]] = {
    "optimized": {
        "whole": build_model,
        "LayerNorm for RMSNorm": _with_layer_norm,
        "learned positions for rotary ones": LearnedPositions,
        "GELU for SwiGLU": _with_gelu,
        "keys and values in all heads": lambda config: build_model(replace(config, n_kv_head=config.n_head)),
        "norms after the sums": _with_post_norm,
        "no norms of queries and keys": lambda config: build_model(replace(config, qk_norm=False)),
        "initial weights of 0.02": _with_gpt2_std,
        "base": lambda config: build_model(replace(config, arch="base")),
    },
    "base": {
        "whole": build_model,
        "random positions for sinusoidal ones": _with_random_positions,
        "initial weights of 0.02": _with_gpt2_std,
    },
}


def measure_parts(
    settings: ModelSettings, training: TrainSettings, data: Path | str, seeds: Iterable[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Train each variant for `training.max_steps` on the bins in `data`; return rows by architecture and part.

    A row has the mean of `loss_nats` a token over all validation documents, and the `percent` by which it is higher
    than that of the whole model in pairs of a seed, each with half of its 95% interval, and the number of `parameters`.
    All variants of a seed see the same batches. Time is not compared.
    """
    tok = tokenizer_of_bins(data)
    bins = [Bin.open(data, split, tok) for split in ("train", "val")]
    training = resolve_warmup(replace(training, max_minutes=None, patience=None, keep="last"))
    seeds = list(seeds)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for reference, parts in PARTS.items():
        config = model_config(replace(settings, arch=reference, qk_norm=True), tok.vocab_size)
        rows = found[reference] = {}
        losses: dict[str, list[float]] = {part: [] for part in parts}
        for part, build in parts.items():
            for seed in seeds:
                torch.manual_seed(seed)
                model = build(config)
                windows = [Windows(one, config.block_size, seed, training.windows == "documents") for one in bins]
                train(model, *windows, training, seed)
                losses[part].append(score_documents(model, bins[1].documents(), tok.byte_lengths()).loss_nats)
            pairs = zip(losses[part], losses["whole"], strict=True)
            rows[part] = describe_mean("loss_nats", losses[part]) | {"parameters": float(count_parameters(model))}
            rows[part] |= describe_mean("percent", [100 * (loss / whole - 1) for loss, whole in pairs])
    return found
