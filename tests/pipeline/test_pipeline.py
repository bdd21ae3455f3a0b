"""The whole pipeline under a real dvc, in a real clone, with settings small enough to run in seconds."""

import json
import re
import shutil
import sys

import nbclient
import nbformat
import pytest
from clone import Clone, stages_run
from imports import ROOMS, ROOT

pytestmark = pytest.mark.slow

AFTER_PREPARE = ["pretrain", "lora-finetune", "merge", "sample", "evaluate"]
ALL = ["check", "prepare@pretrain", "prepare@finetune", *AFTER_PREPARE, "benchmark", "report"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("clone"))
    done = made.dvc("repro")
    assert sorted(stages_run(done)) == sorted(ALL)
    for line in ("models/pretrain: base model trained on", "models/lora: an adapter of models/pretrain trained on"):
        assert re.search(rf"^{line} .* validation \d\.\d+ bits per byte .*; next: python", done.stdout, re.MULTILINE)
    made.commit("results")
    return made


def test_every_promised_file_appears_and_a_second_run_does_nothing(clone):
    for name in (
        "data/pretrain/train.bin", "data/pretrain/tokenizer/tokenizer.json", "data/finetune/val.bin",
        "models/pretrain/model.safetensors", "models/pretrain/config.json", "models/pretrain/tokenizer.json",
        "models/pretrain/README.md", "models/lora/adapter_model.safetensors", "models/lora/base.json",
        "models/merged/model.safetensors", "metrics/samples.md", "metrics/evaluate.md", "metrics/report.html",
        "metrics/pretrain-train.csv", "metrics/lora-finetune-val.csv",
    ):  # fmt: skip
        assert (clone.folder / name).is_file(), name
    for stage in ("pretrain", "lora-finetune"):
        figures = clone.json(f"metrics/{stage}.json")
        assert figures["val"]["bpb"] > figures["floor"]["bpb"] > 0
        assert figures["val"]["loss_nats"] > 0 < figures["tokens_per_s"]
    assert clone.json("metrics/benchmark.json")["speedup"]["optimized_fp32_over_base_fp32"] > 0
    assert clone.json("metrics/merge.json")["loss_change_nats"] < 1e-3
    assert "settings" in (clone.folder / "models/merged/README.md").read_text(encoding="utf-8").lower()
    sample = clone.json("metrics/sample.json")
    assert sample["merged"]["finetune"]["bpb"] == pytest.approx(sample["adapted"]["finetune"]["bpb"], rel=0.02)
    change = sample["adapted"]["pretrain"]["bpb"] - sample["pretrained"]["pretrain"]["bpb"]
    assert sample["adapted"]["pretrain"]["bpb_change"] == pytest.approx(change, abs=2e-5)
    assert sample["pretrained"]["finetune"]["bpb_ci95"] > 0
    page = (clone.folder / "metrics/samples.md").read_text(encoding="utf-8")
    assert all(word in page for word in ("### pretrained", "### adapted", "### merged", "Once upon a time"))
    assert clone.repro() == []
    assert stages_run(clone.dvc("repro", "--dry", "--allow-missing")) == []


def test_the_code_in_the_docs_opens_the_models(clone):
    section = (clone.folder / "docs/models.md").read_text(encoding="utf-8").partition("## Use your model elsewhere")[2]
    blocks = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert len(blocks) == 2
    done = clone.run(sys.executable, "-c", blocks[0].replace("max_new_tokens=60", "max_new_tokens=5") + blocks[1])
    assert done.stdout.startswith("Once upon a time")


def test_the_notebook_runs_to_its_end(clone):
    notebook = nbformat.read(clone.folder / "docs/run.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # as it is committed
    where = {"metadata": {"path": str(clone.folder / "docs")}}
    nbclient.NotebookClient(notebook, timeout=180, kernel_name="python3", resources=where).execute()
    shown = "".join(
        output.get("data", output).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    for model, by_text in clone.json("metrics/evaluate.json").items():
        assert re.search(rf"^{model} .*{by_text['pretrain']['bpb']:.3f}", shown, re.MULTILINE)


def test_an_experiment_goes_through_remotes_to_another_clone(clone, tmp_path):
    clone.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    clone.commit("a remote")
    clone.dvc("push")
    one, other = (clone.git_clone(tmp_path / name) for name in ("one", "other"))
    one.dvc("pull")
    one.dvc("exp", "run", "-n", "cooler", "-S", "sample.temperature=0.5", "sample")
    one.dvc("exp", "push", "origin", "cooler")
    assert "cooler" in other.dvc("exp", "list", "origin").stdout
    other.dvc("exp", "pull", "origin", "cooler")
    of_one = ("--data", str(one.folder / "data"), "--metrics", str(one.folder / "metrics"))
    other.run(sys.executable, "-m", "stages.report", "--also", "cooler", "--out", "both.html", *of_one)
    assert ">cooler</th>" in (other.folder / "both.html").read_text("utf-8")
    other.dvc("exp", "apply", "cooler")
    for name in ("metrics/sample.json", "metrics/samples.md", "params.yaml", "models/merged/model.safetensors"):
        assert (other.folder / name).read_bytes() == (one.folder / name).read_bytes()
        assert name.startswith("models") or (clone.folder / name).read_bytes() != (one.folder / name).read_bytes()
    clone.dvc("remote", "remove", "store")
    clone.commit("no remote")


@pytest.mark.parametrize(
    ("change", "target", "rerun"),
    [
        ({"train.checkpoint_every": "5m", "benchmark.num_iters": 2}, [], ["benchmark", "report"]),
        ({"data.finetune.num_samples": 160}, ["merge"], ["prepare@finetune", "lora-finetune", "merge"]),
    ],
)
def test_a_setting_reruns_the_stages_it_touches_and_no_others(clone, change, target, rerun):
    clone.set(**change)
    assert stages_run(clone.dvc("repro", *target)) == ["check", *rerun]
    clone.git("checkout", "--quiet", "HEAD", ".")
    clone.dvc("checkout", "--quiet")
    clone.dvc("repro", "--quiet")  # once in a while `dvc status` holds a stage for changed after a checkout


TABLE = (ROOT / "docs/architecture.md").read_text("utf-8").partition("| an edit in |")[2]
ROWS = re.findall(r"^\| `([\w/]+)` \| ([^|]+) \|$", TABLE, re.MULTILINE)
RERUNS = {place: [] if stages == "nothing" else stages.split(", ") for place, stages in ROWS}


def test_the_table_of_reruns_has_a_row_for_each_room():
    assert {row for row in RERUNS if row.startswith("nanogpt/")} == {f"nanogpt/{room}" for room in ROOMS}


@pytest.mark.parametrize("place", RERUNS)
def test_an_edit_reruns_the_stages_of_the_table(clone, place):
    file = sorted(path for path in (clone.folder / place).iterdir() if path.suffix in (".py", ".md"))[-1]
    before = file.read_text(encoding="utf-8")
    file.write_text(before + "# an edit\n", encoding="utf-8")
    changed = json.loads(clone.dvc("status", "--json").stdout)
    file.write_text(before, encoding="utf-8")
    assert set(changed) - {"check"} == set(RERUNS[place]), changed


def test_experiments(clone):
    done = clone.dvc("exp", "run", "-S", "model.arch=optimized")
    assert stages_run(done) == ["check", *AFTER_PREPARE, "report"]
    assert clone.json("models/pretrain/config.json")["model_type"] == "llama"
    difference = json.loads(clone.dvc("metrics", "diff", "--json").stdout)
    assert difference["metrics/pretrain.json"]["val.loss_nats"]["diff"] != 0
    clone.dvc("plots", "show", "--out", "page")
    page = (clone.folder / "page" / "index.html").read_text(encoding="utf-8")
    assert "Pretraining loss" in page and "train_loss" in page
    assert "optimized" in clone.dvc("exp", "show", "--csv").stdout
    clone.git("checkout", "--quiet", "HEAD", ".")
    clone.dvc("checkout", "--quiet")


def test_own_text_is_noticed_when_edited(clone):
    own = clone.folder / "data" / "own" / "finetune" / "own.txt"
    own.write_text("\n\n".join(f"My own text, number {i}." for i in range(300)))
    clone.set(**{"data.finetune.source": "files", "data.finetune.num_samples": None})
    assert stages_run(clone.dvc("repro", "prepare@finetune")) == ["check", "prepare@finetune"]
    own.write_text("\n\n".join(f"My own text, edited, number {i}." for i in range(300)))
    assert stages_run(clone.dvc("repro", "prepare@finetune")) == ["check", "prepare@finetune"]
    both = ["check", "prepare@pretrain", "prepare@finetune"]
    clone.set(**{"tokenizer.train_on": "both"})
    assert stages_run(clone.dvc("repro", "prepare@finetune")) == both
    own.write_text("\n\n".join(f"Other words, number {i}." for i in range(300)))
    assert stages_run(clone.dvc("repro", "prepare@finetune")) == both
    own.unlink()
    clone.git("checkout", "--quiet", "HEAD", ".")
    clone.dvc("checkout", "--quiet")


def test_check_finds_mistakes_before_anything_is_deleted(clone):
    clone.set(**{"data.finetune.source": "files"})
    done = clone.dvc("repro", ok=False)
    assert stages_run(done) == ["check"]
    assert re.search(r"^error: .*data/own/finetune", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    for name in ("data/pretrain/train.bin", "models/pretrain/model.safetensors", "metrics/samples.md"):
        assert (clone.folder / name).is_file()
    clone.git("checkout", "--quiet", "HEAD", ".")


def test_training_goes_on_from_a_checkpoint_in_its_tokens(clone):
    shutil.copytree(clone.folder / "models/pretrain", clone.folder / "begun")
    clone.set(**{"train.init_from": "begun", "data.pretrain.source": "abstracts"})
    assert stages_run(clone.dvc("repro", "pretrain")) == ["check", "prepare@pretrain", "pretrain"]
    own, kept = (clone.json(f"{folder}/tokenizer.json") for folder in ("begun", "data/pretrain/tokenizer"))
    assert own == kept
