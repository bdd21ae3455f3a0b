import numpy as np
import pytest
from ruamel.yaml import YAML

from nanogpt.checkpoint.model_card import finetuned_card, merged_card, pretrained_card
from nanogpt.data.tokens.bins import Bin, Counts
from nanogpt.model.build import count_parameters


@pytest.fixture
def data() -> list[Bin]:
    counts = [Counts(90, 1000, 4000, 2000.0), Counts(10, 100, 400, 200.0)]
    pairs = zip(("train", "val"), counts, strict=True)
    return [Bin("stories", split, np.zeros(9, np.uint16), 0, count, "MIT (generated)") for split, count in pairs]


class Score:
    """What the card reads of a score."""

    loss_nats, bpb = 1.25, 0.75


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_card_says_what_the_model_is(tiny, byte, data, training, arch):
    net = tiny(arch)
    text = pretrained_card(net, byte, "fresh weights", *data, Score(), {"seed": 1, "train": training()}, "safetensors")
    head = YAML(typ="safe").load(text.split("---\n")[1])
    assert head["library_name"] == "transformers"
    assert {"base": "gpt2", "optimized": "llama"}[arch] in head["tags"]
    facts = ["fresh weights", f"{count_parameters(net):,}", "byte, 257 tokens", "MIT (generated)", "1.2500", "0.7500"]
    for fact in (*facts, "stories: 90 documents, 4,000 bytes, 1,000 tokens", "0.5000"):  # the last: the lowest possible
        assert f"| {fact} |" in text
    settings = YAML(typ="safe").load(text.split("```yaml\n")[1].split("```")[0])
    assert settings["seed"] == 1 and settings["train"]["max_steps"] == training().max_steps
    assert "init_from" not in settings["train"] and "AutoModelForCausalLM" in text
    other = pretrained_card(net, byte, "fresh weights", *data, Score(), {}, "pt")
    assert "AutoModelForCausalLM" not in other and "stages.convert" in other


def test_cards_of_an_adapter_and_of_a_merged_model_name_their_parts(tiny, byte, data):
    base = pretrained_card(tiny("base"), byte, "fresh weights", *data, Score(), {}, "safetensors") + "\n---\nfooter"
    text = merged_card(tiny("base").config, {"models/pretrain": base, "models/lora": None}, "safetensors")
    assert "models/pretrain and models/lora" in text and "## nanogpt base" in text and "footer" in text
    assert text.count("library_name") == 1
    text = finetuned_card(tiny("base"), "models/pretrain", *data, Score(), Score(), {}, None)
    assert "| adapter for | models/pretrain |" in text
    assert "PeftModel.from_pretrained" in text
    text = finetuned_card(tiny("base"), "models/pretrain", *data, Score(), Score(), {}, "safetensors")
    assert "| fine-tuned from | models/pretrain |" in text
    assert "PeftModel" not in text and "AutoModelForCausalLM" in text
