"""Model cards: the README.md of a model folder, a function of settings, data and weights alone.

Time, speed and commit have no place in it: equal runs give equal folders.
"""

import dataclasses
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from nanogpt.evaluate import Score, bits_per_byte
from nanogpt.model import count_parameters
from nanogpt.tokens import Bin

FILE = "README.md"
FRONT = """---
library_name: {library}
pipeline_tag: text-generation
tags: [nanogpt, {architecture}]
---
"""
ARCHITECTURES = {"base": "GPT-2 (GPT2LMHeadModel)", "optimized": "Llama (LlamaForCausalLM)"}


def pretrained(model, tok, train: Bin, val: Bin, score: Score, settings: dict) -> str:
    """The card of a model trained from scratch; `settings` are sections of params.yaml by name."""
    config = model.config
    facts = {
        "architecture": f"{config.arch}: {ARCHITECTURES[config.arch]}, {config.n_layer} layers, width {config.n_embd}, "
        f"{config.n_head} heads, {config.block_size} tokens at once",
        "parameters": f"{count_parameters(model):,}",
        "tokenizer": f"{tok.kind}, {tok.n_tokens:,} tokens",
        **_data("trained on", train),
        **_result(val, score),
    }
    return _card(f"nanogpt {config.arch}", "transformers", config.arch, facts, settings, MODEL_USE)


def adapter(model, base: str, train: Bin, val: Bin, before: Score, after: Score, settings: dict) -> str:
    """The card of a LoRA adapter for the model in the folder `base`."""
    facts = {
        "adapter for": base,
        **_data("trained on", train),
        "bits per byte without it": f"{before.bpb:.4f}",
        **_result(val, after),
    }
    return _card(f"LoRA adapter for {base}", "peft", model.config.arch, facts, settings, ADAPTER_USE)


def merged(model, base: Path | str, adapter: Path | str, proof: dict[str, float]) -> str:
    """The card of a model with an adapter in its weights; the cards of both follow where they have one."""
    facts = {"made of": f"{base} and the adapter {adapter}"}
    facts |= {name.replace("_", " "): f"{value:.2g}" for name, value in proof.items() if isinstance(value, float)}
    text = _card("nanogpt, adapter merged", "transformers", model.config.arch, facts, {}, MODEL_USE)
    for folder in (base, adapter):
        path = Path(folder) / FILE
        if path.is_file():
            body = path.read_text(encoding="utf-8").rpartition("---\n")[2]
            text += f"\n# What it is made of: {folder}\n" + body.replace("\n#", "\n##")
    return text


MODEL_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this/folder")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=100, do_sample=True)[0]))
```"""
ADAPTER_USE = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("folder/of/the/base")
model = PeftModel.from_pretrained(base, "this/folder")
```"""


def _data(role: str, data: Bin) -> dict[str, str]:
    counts = data.counts
    amount = f"{counts.documents:,} documents, {counts.bytes:,} bytes, {counts.tokens:,} tokens"
    return {role: f"{data.source}: {amount}", "licence of the text": data.licence}


def _result(val: Bin, score: Score) -> dict[str, str]:
    figures = {
        "validation loss, nats a token": f"{score.loss_nats:.4f}",
        "validation, bits per byte": f"{score.bpb:.4f}",
    }
    if val.counts.bits is not None:
        figures["lowest possible bits per byte"] = f"{bits_per_byte(val.counts.bits, val.counts.bytes):.4f}"
    return figures


def _card(title: str, library: str, arch: str, facts: dict[str, str], settings: dict, use: str) -> str:
    table = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    text = FRONT.format(library=library, architecture={"base": "gpt2", "optimized": "llama"}[arch])
    text += f"\n# {title}\n\n| | |\n|---|---|\n{table}\n## Use\n\n{use}\n"
    if settings:
        text += f"\n## Settings that made it\n\n```yaml\n{_yaml(settings)}```\n"
    return text


def _yaml(settings: dict) -> str:
    plain = {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        for name, value in settings.items()
    }
    out = StringIO()
    YAML().dump(plain, out)
    return out.getvalue()
