"""The report of the committed figures, in a real Chromium without a network, read by axe-core."""

import json
import re
from html import unescape
from pathlib import Path

import pytest
from chromium import needs_chromium, open_page
from imports import ROOT

from nanogpt.report.report import report_page, write_report
from nanogpt.report.samples import read_samples
from nanogpt.runtime.errors import UserError

PAGE = """# The models side by side

## Once upon a time

### pretrained

> A rabbit called Thimble belonged to Adam, a kind boy good at digging. They lived with Papa in a houseboat by the sea.
>
> Her & <b>

> Second text

### adapted

> Two
"""
AXE = """
<script>AXE_CORE</script>
<script>axe.run().then(found => {
  const all = found.violations.map(v => v.id + ": " + v.nodes.map(n => n.html).join(" "));
  document.title = "axe " + found.passes.length + " " + JSON.stringify(all);
});</script></body>"""

VAL = {"documents": 600, "tokens": 88000, "bits": 1.0, "replaced": 0}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The committed figures, with the outs that are not in git written small."""
    folder = tmp_path_factory.mktemp("report")
    metrics = folder / "metrics"
    metrics.mkdir()
    for file in (ROOT / "metrics").glob("*"):
        if file.suffix in (".json", ".csv"):
            (metrics / file.name).write_bytes(file.read_bytes())
    (metrics / "pretrain-machine.json").write_text('[{"processor": "a <fast> one", "threads": 2}]')
    (metrics / "samples.md").write_text(PAGE)
    for role, source in (("pretrain", "stories"), ("finetune", "abstracts")):
        (folder / "data" / role).mkdir(parents=True)
        manifest = {"source": source, "splits": {"train": {"documents": 59400, "tokens": 8765795}, "val": VAL}}
        (folder / "data" / role / "manifest.json").write_text(json.dumps(manifest))
    return folder


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_without_a_network(project, tmp_path, scheme):
    import axe_core_python

    page = report_page(project / "metrics", project / "data")
    axe = Path(axe_core_python.__file__).with_name("axe.min.js").read_text("utf-8")
    (tmp_path / "report.html").write_text(page.replace("</body>", AXE.replace("AXE_CORE", axe)), "utf-8")
    dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    document = open_page(tmp_path / "report.html", tmp_path, "--window-size=360,800", *dark)
    passes, violations = re.search(r"<title>axe (\d+) (.*?)</title>", document, re.DOTALL).groups()
    assert int(passes) > 10 and json.loads(unescape(violations)) == []


def test_what_is_on_it(project, tmp_path):
    out = tmp_path / "new" / "report.html"
    written = write_report(project / "metrics", project / "data", out)
    page = out.read_text("utf-8")
    assert written.startswith(f"{out}: ") and len(page) < 2_000_000
    assert not re.search(r"(src|href)=['\"](?!data:)", page) and "<script" not in page
    figures = json.loads((ROOT / "metrics" / "evaluate.json").read_text())
    for model in ("pretrained", "adapted", "merged"):
        for role in ("pretrain", "finetune"):
            assert f">{figures[model][role]['bpb']:.3f} ± {figures[model][role]['bpb_ci95']:.3f}</td>" in page
    row = re.search(r"<tr><th scope='row'>numbers</th>(.*?)</tr>", page.partition("<h3>abstracts</h3>")[2])[1]
    shown = re.findall(r">(\d+)</td>", row)
    assert shown == [
        f"{100 * figures[m]['finetune']['pairs']['numbers']:.0f}" for m in ("pretrained", "adapted", "merged")
    ]
    assert page.count("<img ") == 4 and "a &lt;fast&gt; one" in page and "59,400" in page
    assert "<mark>Her</mark> <small class='quiet'>[words]</small> &amp; &lt;b&gt;" in page


def test_a_run_without_grammar_and_without_replay(project, tmp_path):
    """Own text: no pairs, no floor, no reason to mark anything."""
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    for file in (project / "metrics").glob("*"):
        if file.name != "replay.csv":
            (metrics / file.name).write_bytes(file.read_bytes())
    evaluated = {"pretrained": {role: {"bpb": 2.0, "bytes_per_token": 3.0} for role in ("pretrain", "finetune")}}
    (metrics / "evaluate.json").write_text(json.dumps(evaluated))
    for run in ("pretrain", "lora-finetune"):
        figures = json.loads((metrics / f"{run}.json").read_text())
        (metrics / f"{run}.json").write_text(json.dumps({k: v for k, v in figures.items() if k != "floor"}))
    for role in ("pretrain", "finetune"):
        (tmp_path / "data" / role).mkdir(parents=True)
        manifest = json.loads((project / "data" / role / "manifest.json").read_text()) | {"source": "files"}
        (tmp_path / "data" / role / "manifest.json").write_text(json.dumps(manifest))
    page = report_page(metrics, tmp_path / "data")
    assert "What they know" not in page and "<mark>" not in page and page.count("<img ") == 3 and ">2.000</td>" in page
    del evaluated["pretrained"]["finetune"]  # a text that the tokenizer cannot read
    (metrics / "evaluate.json").write_text(json.dumps(evaluated))
    assert ">–</td>" in report_page(metrics, tmp_path / "data")


def test_other_runs_beside_it(project, tmp_path):
    """One without fine-tuning, as `stages.pretrain --out` leaves it."""
    for name in ("pretrain.json", "pretrain-val.csv"):
        (tmp_path / name).write_bytes((project / "metrics" / name).read_bytes())
    figures = json.loads((tmp_path / "pretrain.json").read_text())
    figures |= {"steps": 12345, "val": {"loss_nats": 0.5, "bpb": 0.25}, "floor": {"bpb": 0.2}}
    (tmp_path / "pretrain.json").write_text(json.dumps(figures))
    page = report_page(project / "metrics", project / "data", [str(tmp_path)])
    beside = page.partition("Beside other runs</h2>")[2].partition("<h2>")[0]
    first, second = beside.split("<h3>fine-tuning</h3>")
    assert first.count("this run") == second.count("this run") == 1
    assert f"<th scope='row'>{tmp_path}</th><td>0.250</td><td>25.0%</td><td>12,345</td>" in first
    assert str(tmp_path) not in second and page.count("<img ") == 6
    for curve in ("", "step,loss\n1,2\n"):
        (tmp_path / "pretrain-val.csv").write_text(curve)
        with pytest.raises(UserError, match=rf"^--also {tmp_path}: its metrics are incomplete.*pretrain-val\.csv"):
            report_page(project / "metrics", project / "data", [str(tmp_path)])
    del figures["steps"]
    (tmp_path / "pretrain.json").write_text(json.dumps(figures))
    with pytest.raises(
        UserError, match=rf"^--also {tmp_path}: its metrics are incomplete, or of another version .*steps"
    ):
        report_page(project / "metrics", project / "data", [str(tmp_path)])


def test_samples_are_read_back():
    found = read_samples(PAGE, ["stories"])
    assert list(found) == ["Once upon a time"] and list(found["Once upon a time"]) == ["pretrained", "adapted"]
    first, second = found["Once upon a time"]["pretrained"]
    assert first.text.endswith("by the sea.\n\nHer & <b>") and second.text == "Second text"
    start, end, reason = first.mistake
    assert first.text[start:end] == "Her" and reason == "words"  # the grammar says where the cottage is
    assert found["Once upon a time"]["adapted"][0].mistake[:2] == (0, 3)
    unknown = read_samples(PAGE, ["files"])["Once upon a time"]
    assert all(sample.mistake is None for texts in unknown.values() for sample in texts)
