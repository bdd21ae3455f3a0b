"""The page of Markdown that shows an evaluation."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from nanogpt.evaluation.evaluate_models import Domain, Evaluation
from nanogpt.evaluation.examine import DISTANCES, WrittenText

EXAMPLES = 3  # of mistakes of each model
AROUND = 60  # characters before a mistake
Rows = Mapping[str, dict]  # the figures of each model


def markdown_page(found: Evaluation, domains: Mapping[str, Domain]) -> str:
    """Write tables of figures for each domain, what was left out, and examples of mistakes."""
    lines = [
        "# Evaluation",
        "",
        "After ± is half of the 95% confidence interval; of a share, how far its farther end is.",
    ]
    for name, domain in domains.items():
        rows = {model: by_domain[name] for model, by_domain in found.figures.items() if name in by_domain}
        lines += ["", f"## {domain.title}", "", f"{len(domain.texts):,} texts.", *_text_table(rows)]
        if domain.source:
            lines += [*_pair_tables(rows), *_calibration_table(rows), *_writing_table(rows)]
            lines += _mistakes(found.written.get(name, {}))
    lines += _harness_table({model: row["harness"] for model, row in found.figures.items() if "harness" in row})
    lines += [line for note in found.notes for line in ("", note + ".")]
    return "\n".join(lines) + "\n"


def _text_table(rows: Rows) -> list[str]:
    columns = {
        "bits per byte": lambda row: _estimate(row, "bpb"),
        "change": lambda row: _estimate(row, "bpb_change", "+.3f"),
        "bytes a token": lambda row: _estimate(row, "bytes_per_token", ".2f"),
    }
    meaning = "Lower is better. The change is against the first model, on the same texts in pairs."
    return ["", meaning, "", *_table(rows, columns)]


def _pair_tables(rows: Rows) -> list[str]:
    rows = {model: row for model, row in rows.items() if "pairs" in row}
    names = [name for name in next(iter(rows.values()), {}).get("pairs", {}) if not name.endswith("_ci95")]
    by_name = {name: lambda row, name=name: _percent(row["pairs"], name) for name in names}
    by_distance = {name: lambda row, name=name: _percent(row["pairs_by_distance"], name) for name in DISTANCES}
    meaning = "### Minimal pairs: how many % of the right texts are found more probable than the wrong ones"
    near, middle = DISTANCES["near"][1], DISTANCES["middle"][1]
    far = f"By the words since what the choice depends on: fewer than {near}, than {middle}, or more."
    return ["", meaning, "", *_table(rows, by_name), "", far, "", *_table(rows, by_distance)]


def _calibration_table(rows: Rows) -> list[str]:
    rows = {model: row for model, row in rows.items() if "kl_bits" in row}
    kinds = sorted({kind for row in rows.values() for kind in row["kl_bits_at"]})
    columns = {"all": lambda row: _estimate(row, "kl_bits", ".4f")}
    columns |= {kind: lambda row, kind=kind: _estimate(row["kl_bits_at"], kind, ".4f") for kind in kinds}
    meaning = "### Divergence from the exact distribution of the next token, in bits: 0 is perfect"
    return ["", meaning, "", *_table(rows, columns)] if rows else []


def _writing_table(rows: Rows) -> list[str]:
    columns = {
        "without a mistake": lambda row: _percent(row, "grammatical_share"),
        "different": lambda row: _percent(row, "distinct_share"),
        "copied in one piece": lambda row: _percent(row, "copied_share"),
        "first mistakes": lambda row: ", ".join(
            f"{reason} {100 * share:.0f}" for reason, share in row.get("first_mistakes", {}).items()
        ),
    }
    rows = {model: row for model, row in rows.items() if {"grammatical_share", "copied_share"} & row.keys()}
    return ["", "### Texts that they write, in % of all", "", *_table(rows, columns)] if rows else []


def _harness_table(rows: Mapping[str, dict[str, dict[str, float]]]) -> list[str]:
    lines = ["", "## Tasks of lm_eval", "", "| model | task | figures |", "|---|---|---|"] if rows else []
    for model, by_task in rows.items():
        for task, figures in by_task.items():
            lines.append(
                f"| {model} | {task} | {', '.join(f'{name} {value:.4g}' for name, value in figures.items())} |"
            )
    return lines


def _mistakes(written: Mapping[str, Sequence[WrittenText]]) -> list[str]:
    lines = []
    for model, texts in written.items():
        wrong = [text for text in texts if text.place is not None][:EXAMPLES]
        lines += ["", f"First mistakes of {model}:", ""] if wrong else []
        for text in wrong:
            before = text.text[max(0, text.place - AROUND) : text.place]
            word = "".join(text.text[text.place :].split()[:1])
            lines.append("- " + " ".join(f"…{before}**{word or '(end)'}** ({text.reason})".split()))
    return lines


def _estimate(row: dict, name: str, form: str = ".3f") -> str:
    if name not in row:
        return "–"
    interval = row.get(f"{name}_ci95")
    return f"{row[name]:{form}}" + ("" if interval is None else f" ± {interval:{form.lstrip('+')}}")


def _percent(row: dict, name: str) -> str:
    if name not in row:
        return "–"
    interval = row.get(f"{name}_ci95")
    return f"{100 * row[name]:.0f}" + ("" if interval is None else f" ± {100 * interval:.0f}")


def _table(rows: Rows, columns: Mapping[str, Callable[[dict], str]]) -> Iterable[str]:
    yield f"| model | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for model, row in rows.items():
        yield f"| {model} | {' | '.join(cell(row) for cell in columns.values())} |"
