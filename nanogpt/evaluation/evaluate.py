"""The evaluate stage: models on the same texts, to a page and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from nanogpt.data.sources.load import Data, load_corpus
from nanogpt.evaluation.evaluate_models import Domain, Evaluation, evaluate_models, open_domain
from nanogpt.evaluation.evaluation_page import markdown_page
from nanogpt.evaluation.harness import run_tasks
from nanogpt.evaluation.models import EvaluatedModel, open_model
from nanogpt.evaluation.settings import EvaluateSettings
from nanogpt.runtime import atomic, params
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.metrics_file import write_metrics

PIPELINE = {"pretrained": "models/pretrain", "adapted": "models/lora", "merged": "models/merged"}
ROLES = ("pretrain", "finetune")
PAGE, FIGURES, PAIRS = "metrics/evaluate.md", "metrics/evaluate.json", "metrics/evaluate-pairs.csv"


def evaluate_pipeline(settings: EvaluateSettings, seed: int) -> str:
    """Evaluate the pipeline's three models on the validation text of both domains, and write metrics/evaluate.*.

    Returns what to print. Raises UserError for models and bins that are missing or damaged.
    """
    models = {name: open_model(path) for name, path in PIPELINE.items()}
    domains = pipeline_texts()
    found = evaluate_models(models, domains, settings, seed)
    atomic.write_text(PAGE, markdown_page(found, domains))
    atomic.write_text(PAIRS, _accuracies(found, domains).to_csv(index=False))
    write_metrics(FIGURES, found.figures)
    return f"{PAGE}: {len(models)} models evaluated, their figures in {FIGURES}"


def evaluate_checkpoints(
    paths: Sequence[str], domains: Mapping[str, Domain], settings: EvaluateSettings, seed: int, out: str | None,
    tasks: Sequence[str] = (),
) -> str:  # fmt: skip
    """Evaluate models by their paths; return the page, also written to `out`, and the figures to the .json beside it.

    `tasks` are those of lm_eval, see `harness.run_tasks`. Raises UserError for what cannot be opened.
    """
    models: dict[str, EvaluatedModel] = {}
    for path in paths:
        if path in models:
            raise UserError(f"--checkpoint {path} is given twice")
        models[path] = open_model(path)
    harness = run_tasks(models, tasks) if tasks else {}  # first, as a mistake in the tasks or the network shows there
    found = evaluate_models(models, domains, settings, seed)
    for path, results in harness.items():
        found.figures.setdefault(path, {})["harness"] = results
    page = markdown_page(found, domains)
    if not out:
        return page
    write_metrics(Path(out).with_suffix(".json"), found.figures)
    atomic.write_text(out, page)
    return f"{page}\n{out} written, with the figures in {Path(out).with_suffix('.json')}"


def pipeline_texts() -> dict[str, Domain]:
    """The validation texts of both domains, by role."""
    return {role: open_domain(f"data/{role}", role) for role in ROLES}


def own_text(path: str) -> dict[str, Domain]:
    """The documents of a file or folder, read as section data.pretrain of params.yaml says of its fields."""
    given = params.load(data=Data).data
    settings = replace(given.pretrain, source="files", path=path, num_samples=None, format="text")
    return {"text": Domain(path, list(load_corpus(settings, given).texts()))}


def _accuracies(found: Evaluation, domains: Mapping[str, Domain]) -> pd.DataFrame:
    """Accuracy on pairs by phenomenon, a row for each, for the plot."""
    rows = [
        (f"{domains[domain].source}: {phenomenon}, {model}", by_domain[domain]["pairs"][phenomenon])
        for domain in domains
        for phenomenon in _phenomena(found, domain)
        for model, by_domain in found.figures.items()
        if "pairs" in by_domain.get(domain, {})
    ]
    return pd.DataFrame(rows, columns=["phenomenon", "accuracy"])


def _phenomena(found: Evaluation, domain: str) -> list[str]:
    asked = next((row[domain]["pairs"] for row in found.figures.values() if "pairs" in row.get(domain, {})), {})
    return [name for name in asked if not name.endswith("_ci95")]
