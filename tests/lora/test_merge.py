import pytest
import torch
import torch.nn.functional as F
from adapters import TOKENS, fill, saved, settings

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.lora.adapter import open_adapted
from nanogpt.lora.attach import attach_adapter, check_adapter
from nanogpt.lora.merge import BOUNDS, WINDOWS, merge_adapter
from nanogpt.runtime.errors import UserError

FIGURES = {"max_abs_logit_difference", "mean_abs_logit_difference", "loss_change_nats"}


@pytest.fixture(scope="module")
def val(tmp_path_factory, byte, write_bins) -> Bin:
    return Bin.open(write_bins(tmp_path_factory.mktemp("bins") / "data", byte), "val", byte)


def by_hand(done, name: str, kind: str, alpha: float = 6.0, r: int = 3) -> torch.Tensor:
    """The merged weight in float64, from the papers' formulas."""
    before, adapter = done.before[name].double(), {key: tensor.double() for key, tensor in done.tensors().items()}
    rows = f"base_model.model.{name.removesuffix('.weight')}.token_adapter.trainable_tokens_delta"
    prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
    if rows in adapter:
        return before.index_copy(0, torch.tensor(TOKENS), adapter[rows])
    if f"{prefix}A.weight" in adapter:
        delta, row_of = adapter[f"{prefix}B.weight"] @ adapter[f"{prefix}A.weight"], 1
    elif f"{prefix}embedding_A" in adapter:
        delta, row_of = (adapter[f"{prefix}embedding_B"] @ adapter[f"{prefix}embedding_A"]).T, 0
    else:
        return before
    weight = before + {"rslora": alpha / r**0.5}.get(kind, alpha / r) * delta
    if kind == "dora":  # every output has a length of its own; an embedding's outputs are its columns
        magnitude = adapter[f"{prefix}magnitude_vector"].unsqueeze(row_of)
        weight = magnitude * weight / weight.pow(2).sum(row_of, keepdim=True).sqrt()
    return weight


@pytest.mark.parametrize(("tied", "targets"), [(True, "all"), (True, "all-linear"), (False, "all"), (False, "ends")])
@pytest.mark.parametrize("arch", ["base", "optimized"])
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_merged_is_what_the_papers_say(tiny, byte, val, tmp_path, kind, arch, tied, targets):
    ends = [tiny(arch).hf.embedding.split(".")[-1], "lm_head"]
    targets = ends if targets == "ends" else targets
    done = saved(tmp_path, tiny(arch, tie_embeddings=tied), byte, kind=kind, target_modules=targets)
    merged, figures = merge_adapter(open_adapted(done.adapter)[0], val)
    changed = set()
    for name, tensor in merged.state_dict().items():
        source = f"{merged.hf.embedding}.weight" if tied and name == "lm_head.weight" else name
        torch.testing.assert_close(tensor, by_hand(done, source, kind).float(), rtol=1e-5, atol=1e-5)
        if not torch.equal(tensor, done.before[name]):
            changed.add(name.split(".")[-2])
    adapted = set(check_adapter(done.fresh(), settings(target_modules=targets)))
    assert changed == adapted | set(ends if targets == "all" else [])
    assert merged.config.tie_embeddings == tied
    assert 0 <= figures["mean_abs_logit_difference"] <= figures["max_abs_logit_difference"] < 1e-4
    assert figures["loss_change_nats"] < 1e-5
    # a plain model: it saves, loads and is a Hugging Face model like any other
    save_checkpoint(tmp_path / "merged", merged, byte)
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        for logits in (
            load_checkpoint(tmp_path / "merged")[0](done.ids),
            AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(done.ids).logits,
        ):
            torch.testing.assert_close(logits, done.logits, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny, byte):
    return saved(tmp_path_factory.mktemp("done"), tiny("base"), byte, target_modules="all")


@torch.no_grad()
def test_the_figures_are_those_of_real_validation_text(done, val):
    adapted, _ = open_adapted(done.adapter)
    merged, figures = merge_adapter(adapted, val, "bfloat16")
    assert figures.keys() == FIGURES | {f"saved_{name}" for name in FIGURES}
    torch.testing.assert_close(adapted(done.ids), done.logits)  # left as it was
    rounded = load_checkpoint(done.base)[0]
    rounded.load_state_dict({name: tensor.bfloat16().float() for name, tensor in merged.state_dict().items()})
    ids, targets = Windows(val, merged.config.block_size, 0).batch(0, WINDOWS)
    for prefix, model in (("", merged), ("saved_", rounded)):
        difference = (model(ids).double() - adapted(ids).double()).abs()
        moved = [F.cross_entropy(m(ids).double().flatten(0, 1), targets.flatten()) for m in (model, adapted)]
        wanted = difference.max(), difference.mean(), (moved[0] - moved[1]).abs()
        names = "max_abs_logit_difference", "mean_abs_logit_difference", "loss_change_nats"
        for name, value in zip(names, wanted, strict=True):
            assert figures[prefix + name] == pytest.approx(value.item(), rel=0.02, abs=2e-6), name
    assert figures["saved_max_abs_logit_difference"] > 100 * figures["max_abs_logit_difference"]
    assert figures["loss_change_nats"] < figures["saved_loss_change_nats"] < BOUNDS["bfloat16"]
    assert merge_adapter(adapted, val, "bfloat16")[1] == figures  # the same windows every time


def test_a_short_validation_text(done, byte, write_bins, tmp_path):
    short = Bin.open(write_bins(tmp_path / "a", byte, ["A cat sat on a mat."] * 2), "val", byte)
    assert merge_adapter(open_adapted(done.adapter)[0], short)[1]["loss_change_nats"] < 1e-5
    shorter = Bin.open(write_bins(tmp_path / "b", byte, ["A cat."] * 2), "val", byte)
    with pytest.raises(UserError, match=r"val\.bin .* has 8 tokens, and a window .* needs 17"):
        merge_adapter(open_adapted(done.adapter)[0], shorter)


def test_a_merge_that_changes_the_model_is_refused(done, val):
    adapted, _ = open_adapted(done.adapter)
    for module in adapted.modules():
        if hasattr(module, "lora_A") and "default" in module.lora_B:  # something that merging cannot know of
            module.lora_B["default"].register_forward_hook(lambda _, __, out: out + torch.linspace(0, 1, out.size(-1)))
    with pytest.raises(UserError, match=r"merging in float32 changed the loss by .* nats, more than 0\.001; nothing"):
        merge_adapter(adapted, val)


def test_merging_is_done_without_dropout(tiny, val):
    adapted = fill(attach_adapter(tiny("base"), settings(dropout=0.9), 1))
    assert merge_adapter(adapted.train(), val)[1]["loss_change_nats"] < 1e-4
