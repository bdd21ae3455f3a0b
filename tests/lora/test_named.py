import pytest
from adapters import copy_adapter, saved, settings

from nanogpt.lora.finetune import finetune
from nanogpt.lora.named import describe_adapters, find_adapter
from nanogpt.runtime.errors import UserError


@pytest.fixture
def project(inside, tiny, byte, write_bins, training):
    """One adapter that our own stage made, and two of one name that others did."""
    done = saved(inside / "models" / "other", tiny("base"), byte, kind="dora")
    done.adapter.rename(inside / "models" / "notes")
    copy_adapter(inside / "models" / "notes", inside / "out" / "notes", use_rslora=True, use_dora=False)
    write_bins(inside / "bins", byte)
    lora = settings(r=2)
    finetune(1, lora, lora.training(training()), "models/other/base", "bins", None, "out/deep/own", "out/deep/own")
    return inside


def test_all_adapters_are_described(project):
    own, notes, other = sorted(describe_adapters(), key=lambda row: row["adapter"] != "out/deep/own")
    assert own["adapter"] == "out/deep/own" and own["kind"] == "lora, rank 2"
    assert own["of"].startswith("models/other/base (") and " documents, " in own["trained on"]
    assert float(own["bits per byte"]) > 0
    assert [notes["kind"], other["kind"]] == ["dora, rank 3", "rslora, rank 3"]
    assert notes["trained on"] == notes["bits per byte"] == ""


def test_an_adapter_is_found_by_its_name(project):
    assert find_adapter("own") == "out/deep/own"
    assert find_adapter("models/notes") == "models/notes"
    assert find_adapter("bins") == "bins"  # something else, which whoever opens it says
    with pytest.raises(UserError, match="notes is the name of 2 adapters; choose one of models/notes, out/notes"):
        find_adapter("notes")
    with pytest.raises(UserError, match="there is no adapter nowhere; the adapters are: models/notes, out/deep/own"):
        find_adapter("nowhere")
