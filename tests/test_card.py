import numpy as np
import pytest
from ruamel.yaml import YAML

from nanogpt import card
from nanogpt.model import count_parameters
from nanogpt.tokens import Bin, Counts


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
    text = card.pretrained(net, byte, *data, Score(), {"seed": 1, "train": training()})
    head = YAML(typ="safe").load(text.split("---\n")[1])
    assert head["library_name"] == "transformers"
    assert {"base": "gpt2", "optimized": "llama"}[arch] in head["tags"]
    for fact in (
        f"| parameters | {count_parameters(net):,} |",
        "| tokenizer | byte, 257 tokens |",
        "| trained on | stories: 90 documents, 4,000 bytes, 1,000 tokens |",
        "| licence of the text | MIT (generated) |",
        "| validation loss, nats a token | 1.2500 |",
        "| validation, bits per byte | 0.7500 |",
        "| lowest possible bits per byte | 0.5000 |",
    ):
        assert fact in text
    settings = YAML(typ="safe").load(text.split("```yaml\n")[1].split("```")[0])
    assert settings["seed"] == 1
    assert settings["train"]["max_steps"] == training().max_steps
    assert text == card.pretrained(net, byte, *data, Score(), {"seed": 1, "train": training()})


def test_the_card_of_a_merged_model_holds_those_of_its_parts(tiny, byte, data, training, tmp_path):
    net = tiny("base")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(card.pretrained(net, byte, *data, Score(), {}))
    text = card.merged(net, tmp_path / "base", tmp_path / "adapter", {"loss_change_nats": 1.5e-7})
    assert "| loss change nats | 1.5e-07 |" in text
    assert "## nanogpt base" in text
    assert text.count("---\n") == 2


def test_the_card_of_an_adapter_names_its_base(tiny, data):
    text = card.adapter(tiny("base"), "models/pretrain", *data, Score(), Score(), {})
    assert "| adapter for | models/pretrain |" in text
    assert "PeftModel.from_pretrained" in text
