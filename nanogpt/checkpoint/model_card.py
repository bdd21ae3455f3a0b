"""Writes model cards: the README.md of a model folder, from settings, data and weights alone.

Time, speed and commit are left out, so that equal runs give equal folders.
"""

import dataclasses
import re

from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from nanogpt.data.tokens.bins import Bin
from nanogpt.model.build import count_parameters, model_class
from nanogpt.model.config import ModelConfig
from nanogpt.model.score import Score


def pretrained_card(
    model, tok, origin: str, train: Bin, val: Bin, score: Score, settings: dict, file_format: str
) -> str:
    """The card of a trained model; `settings` are sections of params.yaml by name, `origin` its initial weights."""
    config = model.config
    facts = {
        "started from": origin,
        "architecture": f"{config.arch}: {model.hf.title} ({model.hf.model_class}), {config.n_layer} layers, "
        f"width {config.n_embd}, {config.n_head} heads, {config.block_size} tokens at once",
        "parameters": f"{count_parameters(model):,}",
        "tokenizer": f"{tok.kind}, {tok.n_tokens:,} tokens",
        **_data("trained on", train),
        **_result(val, score),
    }
    return _card(f"nanogpt {config.arch}", "transformers", config, facts, settings, MODEL_USE[file_format])


def finetuned_card(
    model, base: str, train: Bin, val: Bin, before: Score, after: Score, settings: dict, file_format: str | None
) -> str:
    """The card of the model in `base` with all weights trained, or without `file_format` of a LoRA adapter for it."""
    facts = {
        "fine-tuned from" if file_format else "adapter for": base,
        **_data("trained on", train),
        "bits per byte before": f"{before.bpb:.4f}",
        **_result(val, after),
    }
    if file_format:
        return _card(f"{base}, fine-tuned", "transformers", model.config, facts, settings, MODEL_USE[file_format])
    return _card(f"LoRA adapter for {base}", "peft", model.config, facts, settings, ADAPTER_USE)


def merged_card(config: ModelConfig, parts: dict[str, str | None], file_format: str) -> str:
    """The card of a model with an adapter in its weights; `parts` are the cards of both, by name."""
    facts = {"made of": " and ".join(parts), "compared with the two apart": "the same, within rounding"}
    text = _card("nanogpt, adapter merged", "transformers", config, facts, {}, MODEL_USE[file_format])
    for name, card in parts.items():
        if card:
            body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
            text += f"\n# What it is made of: {name}\n" + body.replace("\n#", "\n##")
    return text


TRANSFORMERS = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this/folder")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
ids = tokenizer(tokenizer.bos_token + "Once upon a time", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=100, do_sample=True)[0], skip_special_tokens=True))
```"""
SAMPLE = """`python -m stages.sample --checkpoint this/folder` of nanogpt. For other programs make a folder of
safetensors: `python -m stages.convert --checkpoint this/folder --out another/folder`."""
MODEL_USE = {"safetensors": TRANSFORMERS, "pt": SAMPLE}
ADAPTER_USE = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("folder/of/the/base")
model = PeftModel.from_pretrained(base, "this/folder")
```"""


def card_for(card: str, file_format: str) -> str:
    """A model's card with its words on how to use it made those of another format of the weights."""
    for use in MODEL_USE.values():
        card = card.replace(use, MODEL_USE[file_format], 1)
    return card


def _data(role: str, data: Bin) -> dict[str, str]:
    counts = data.counts
    amount = f"{counts.documents:,} documents, {counts.bytes:,} bytes, {counts.tokens:,} tokens"
    return {role: f"{data.source}: {amount}", "licence of the text": data.licence}


def _result(val: Bin, score: Score) -> dict[str, str]:
    figures = {"validation loss, nats a token": f"{score.loss_nats:.4f}"}
    figures["validation, bits per byte"] = f"{score.bpb:.4f}"
    if val.counts.bits is not None:
        figures["lowest possible bits per byte"] = f"{val.counts.bits / val.counts.bytes:.4f}"
    return figures


def _card(title: str, library: str, config: ModelConfig, facts: dict[str, str], settings: dict, use: str) -> str:
    tags = f"[nanogpt, {model_class(config).hf.model_type}]"
    text = f"---\nlibrary_name: {library}\npipeline_tag: text-generation\ntags: {tags}\n---\n"
    table = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    text += f"\n# {title}\n\n| | |\n|---|---|\n{table}\n## Use\n\n{use}\n"
    if settings:
        plain = {name: dataclasses.asdict(x) if dataclasses.is_dataclass(x) else x for name, x in settings.items()}
        for key in ("init_from", "checkpoint_every"):  # they do not change the result
            plain.get("train", {}).pop(key, None)
        out = StringIO()
        YAML().dump(plain, out)
        text += f"\n## Settings that made it\n\n```yaml\n{out.getvalue()}```\n"
    return text
