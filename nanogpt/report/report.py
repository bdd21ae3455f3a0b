"""The report stage: metrics of the pipeline as one page of HTML that needs nothing else."""

import base64
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from nanogpt.evaluation.grammar.phenomena import known_source
from nanogpt.report.charts import STAGES, draw_bars, draw_curves, draw_points
from nanogpt.report.compared import differing_settings, open_run
from nanogpt.report.figures import read_curve, read_json, read_text, read_validation
from nanogpt.report.samples import Sample, read_samples
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError

ROLES = ("pretrain", "finetune")
COMMANDS = """dvc repro                                # everything again, where anything has changed
dvc exp run -S model.arch=optimized      # with another setting
dvc metrics diff                         # against what is committed
python -m stages.sample --interactive    # talk to the model
"""
STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --page: #fff; --line: #c9c9c9; --quiet: #555; --mark: #ffd9a0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ececec; --page: #161616; --line: #4a4a4a; --quiet: #b5b5b5; --mark: #7a4a00; }
}
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0 auto;
  padding: 1rem; max-width: 70rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1rem; margin-top: 2rem; }
table { border-collapse: collapse; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--line); }
td { font-variant-numeric: tabular-nums; }
td.shade { color: #1b1b1b; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
figcaption, .quiet { color: var(--quiet); }
.wide { overflow-x: auto; }
.columns { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
blockquote { margin: 0 0 1rem; padding-left: .7rem; border-left: 3px solid var(--line); white-space: pre-line; }
mark { background: var(--mark); color: inherit; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); }
@media print { body { max-width: none; } section { break-inside: avoid; } }
"""


def write_report(metrics: Path | str, data: Path | str, out: Path | str, also: Sequence[str] = ()) -> str:
    """Write the report of a folder of metrics and the folder of both domains' bins; return what to print.

    `also` are runs to compare it with (see `open_run`).
    """
    page = report_page(Path(metrics), Path(data), also)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out, page)
    return f"{out}: open it in a browser, it needs no network"


def report_page(metrics: Path, data: Path, also: Sequence[str] = ()) -> str:
    """The report as HTML. Raises UserError where the pipeline has not run to its end."""
    figures = {
        name: read_json(metrics / f"{name}.json") for name in ("evaluate", "pretrain", "lora-finetune", "benchmark")
    }
    manifests = {role: read_json(data / role / "manifest.json") for role in ROLES}
    samples = read_text(metrics / "samples.md")
    counts = [(manifest["source"], manifest["splits"]["val"]) for manifest in manifests.values()]
    known = [source for source, val in counts if known_source(source, val["bits"], val["replaced"])]
    sections = [
        _run_section(figures, manifests, read_json(metrics / "pretrain-machine.json")),
        _picture(
            draw_curves({title: read_validation(metrics, stage) for stage, title in STAGES.items()}),
            "Validation while training, bits per byte over steps; floors are dashed",
        ),
        _others_section(metrics, also),
        _scores_section(figures["evaluate"], manifests),
        _pairs_section(figures["evaluate"], manifests),
        _forgetting_section(metrics),
        _samples_section(read_samples(samples, known)),
        _speed_section(figures["benchmark"]),
        _commands_section(),
    ]
    title = f"nanogpt: {manifests['pretrain']['source']}, then {manifests['finetune']['source']}"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n{''.join(sections)}</main>\n"
        "</body>\n</html>\n"
    )


def _run_section(figures: dict, manifests: dict, machine: list[dict]) -> str:
    rows = []
    for run, role in (("pretrain", "pretrain"), ("lora-finetune", "finetune")):
        found, train = figures[run], manifests[role]["splits"]["train"]
        rows.append(
            [run, manifests[role]["source"], f"{train['documents']:,}", f"{train['tokens']:,}", f"{found['steps']:,}",
             f"{found['tokens_per_s'] or 0:,.0f}", f"{found['peak_mib']:,.0f}", f"{found['wall_s']:,.0f}"]
        )  # fmt: skip
    head = ["stage", "text", "documents", "tokens", "steps", "tokens a second", "peak MiB", "seconds"]
    about = ", ".join(f"{key} {value}" for key, value in machine[-1].items())
    return _section("What was trained", f"{_table('stages', head, rows)}<p class='quiet'>Machine: {escape(about)}.</p>")


def _others_section(metrics: Path, also: Sequence[str]) -> str:
    if not also:
        return ""
    parts = []
    with contextlib.ExitStack() as stack:
        runs = {"this run": metrics} | {name: stack.enter_context(open_run(name)) for name in also}
        for stage, title in STAGES.items():
            rows, curves = [], {}
            for name, folder in runs.items():
                if (folder / f"{stage}.json").exists():
                    try:
                        rows.append(_other_row(name, metrics, folder, stage))
                        curves[name] = read_validation(folder, stage)
                    except (KeyError, UserError) as error:
                        reason = "its metrics are incomplete, or of another version of this project"
                        raise UserError(f"--also {name}: {reason} ({stage}: {error})") from None
            head = ["run", "bits per byte", "above the floor", "steps", "tokens a second", "peak MiB", "seconds",
                    "settings that differ"]  # fmt: skip
            picture = _picture(draw_curves(curves), f"Validation in {title}; floors are dashed")
            parts.append(f"<h3>{title}</h3>{_table(title, head, rows)}{picture}")
    return _section("Beside other runs", "".join(parts))


def _other_row(name: str, metrics: Path, folder: Path, stage: str) -> list[str]:
    found = read_json(folder / f"{stage}.json")
    bpb, floor = found["val"]["bpb"], found.get("floor", {}).get("bpb")
    return [
        name, f"{bpb:.3f}", f"{100 * (bpb / floor - 1):.1f}%" if floor else "–", f"{found['steps']:,}",
        f"{found['tokens_per_s'] or 0:,.0f}", f"{found['peak_mib']:,.0f}", f"{found['wall_s']:,.0f}",
        "" if folder == metrics else differing_settings(metrics, folder),
    ]  # fmt: skip


def _scores_section(evaluated: dict, manifests: dict) -> str:
    rows = []
    for model, by_domain in evaluated.items():
        cells = []
        for role in ROLES:
            figures = by_domain.get(role, {})
            floor = evaluated.get("grammar", {}).get(role, {}).get("bpb")
            excess = figures["bpb"] / floor - 1 if floor and "bpb" in figures else 0.0
            cells.append(_Shaded(_estimate(figures, "bpb"), min(1.0, excess)))
        rows.append(["floor" if model == "grammar" else model, *cells])
    head = ["model", *(f"{manifests[role]['source']} ({role})" for role in ROLES)]
    meaning = "Bits per byte on validation text; lower is better, darker is further above the floor."
    return _section("How well each text is predicted", f"<p>{meaning}</p>{_table('bits per byte', head, rows)}")


def _pairs_section(evaluated: dict, manifests: dict) -> str:
    parts = []
    for role in ROLES:
        asked = {model: by[role]["pairs"] for model, by in evaluated.items() if "pairs" in by.get(role, {})}
        names = [name for name in next(iter(asked.values()), {}) if not name.endswith("_ci95")]
        if names:
            rows = [
                [
                    name,
                    *(_Shaded(f"{100 * found[name]:.0f}", 2 * min(0.5, 1 - found[name])) for found in asked.values()),
                ]
                for name in names
            ]
            table = _table(f"pairs of {role}", ["phenomenon", *asked], rows)
            parts.append(f"<h3>{escape(manifests[role]['source'])}</h3>{table}")
    meaning = (
        "Of two texts that differ in one choice, how many % of the right ones are the more probable; chance is 50."
    )
    return _section("What they know", f"<p>{meaning}</p>{''.join(parts)}") if parts else ""


def _forgetting_section(metrics: Path) -> str:
    file = metrics / "replay.csv"
    if not file.exists():
        return ""
    curve = read_curve(file, "replay", "pretrain_change", "finetune_bpb")
    rows = [{**row, "share": f"{row['replay']:.0%}"} for row in curve.to_dict("records")]
    titles = "lost on the first text, bits per byte", "on the second text, bits per byte"
    picture = draw_points(rows, "pretrain_change", "finetune_bpb", "share", titles)
    return _section(
        "Forgetting against adapting",
        _picture(
            picture,
            "By the share of the first text in fine-tuning (replay). Not of this run: as "
            "`python -m stages.finetuning replay` has measured it last, at first on the default texts",
        ),
    )


def _samples_section(samples: Mapping[str, Mapping[str, list[Sample]]]) -> str:
    parts = []
    for prompt, by_model in samples.items():
        columns = "".join(
            f"<div><h4>{escape(model)}</h4>{''.join(map(_quote, texts))}</div>" for model, texts in by_model.items()
        )
        parts.append(f"<h3>{escape(prompt)}</h3><div class='columns'>{columns}</div>")
    meaning = "Of built-in texts the first word that the grammar rejects is marked, with the reason."
    return _section("What they write", f"<p>{meaning}</p>{''.join(parts)}")


def _quote(sample: Sample) -> str:
    if sample.mistake is None:
        return f"<blockquote>{escape(sample.text)}</blockquote>"
    start, end, reason = sample.mistake
    before, word, after = sample.text[:start], sample.text[start:end], sample.text[end:]
    marked = f"<mark>{escape(word or '(goes on)')}</mark> <small class='quiet'>[{escape(reason)}]</small>"
    return f"<blockquote>{escape(before)}{marked}{escape(after)}</blockquote>"


def _speed_section(benchmark: dict) -> str:
    speed = _picture(draw_bars(benchmark["tokens_per_s"], "tokens a second"), "Training speed at the benchmark's shape")
    memory = _picture(draw_bars(benchmark["peak_mib"], "MiB"), "Peak memory of a training step")
    shares = ", ".join(f"{name} {100 * share:.0f}%" for name, share in benchmark.get("utilisation", {}).items())
    bound = f"<p>Share of the rate of this machine's bare matrix products: {escape(shares)}.</p>" if shares else ""
    return _section("Speed and memory", f"<div class='columns'>{speed}{memory}</div>{bound}")


def _commands_section() -> str:
    return _section("Repeat it, and go on", f"<pre tabindex='0'>{escape(COMMANDS)}</pre>")


class _Shaded(str):
    """The text of a cell with a background between white (0) and dark red (1)."""

    def __new__(cls, text: str, shade: float):
        made = super().__new__(cls, text)
        made.shade = shade
        return made


def _table(label: str, head: Iterable[str], rows: Iterable[list[str]]) -> str:
    top = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr><th scope='row'>{escape(row[0])}</th>{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='wide' tabindex='0' role='region' aria-label='{escape(label)}'>{table}</div>"


def _cell(text: str) -> str:
    if not isinstance(text, _Shaded):
        return f"<td>{escape(text)}</td>"
    lightness = 95 - 25 * text.shade
    return f"<td class='shade' style='background: hsl(20 80% {lightness:.0f}%)'>{escape(text)}</td>"


def _estimate(figures: dict, name: str) -> str:
    if name not in figures:
        return "–"
    interval = figures.get(f"{name}_ci95")
    return f"{figures[name]:.3f}" + ("" if interval is None else f" ± {interval:.3f}")


def _picture(svg: str, caption: str) -> str:
    encoded = base64.b64encode(svg.encode()).decode()
    picture = f"<img src='data:image/svg+xml;base64,{encoded}' alt='{escape(caption)}'>"
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n"
