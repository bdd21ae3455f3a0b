"""What settings are worth: DVC experiments of equal training time with several seeds, scored on a text kept apart.

A plan, recipes/ablations/NAME.yaml, names the `settings` that all runs share (dotted keys of params.yaml with their
values), the `seeds`, and the `runs` by name with the settings that each changes; the first run is the reference. A run
may have `steps_of` in place of its own length: an earlier run, or `plain`, as many steps as a short PyTorch program
makes in `train.max_minutes` (see `benchmark.variants`).
Experiments are named NAME-RUN-SEED and by a hash of all that they depend on; those that exist are not run again.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Steps, time_in_turns
from nanogpt.benchmark.variants import CPU, Variant, build_plain_step, random_batch
from nanogpt.data.sources.document import Corpus
from nanogpt.data.sources.load import Data, load_corpus
from nanogpt.evaluation.confidence import describe_mean
from nanogpt.evaluation.models import open_model
from nanogpt.evaluation.text_score import score_texts
from nanogpt.hardware.compilation import check_compiler
from nanogpt.hardware.processor import describe_processor
from nanogpt.model.build import build_model, model_config
from nanogpt.model.config import ModelConfig
from nanogpt.pipeline.check import count_rows
from nanogpt.pipeline.sections import SECTIONS
from nanogpt.runtime import atomic, params
from nanogpt.runtime.checksums import sha256
from nanogpt.runtime.errors import BadSetting, UserError, shorten
from nanogpt.runtime.process import launch_stage
from nanogpt.runtime.ranges import SEEDS
from nanogpt.runtime.workdir import work_root
from nanogpt.runtime.yaml_file import find_value, read_yaml, to_plain

FOLDER = Path("recipes/ablations")
DVC = [sys.executable, "-m", "dvc"]
TEST_EVERY = 20  # of a text of one's own every twentieth document is for the test
TEST_DOCUMENTS, TEST_SEED = 2000, 999_999  # of a generated text
TIMED_STEPS = 30  # of the plain loop
DECISIVE = ("nanogpt", "stages", "dvc.yaml", "params.yaml")  # what else an experiment's result depends on


@dataclass(frozen=True)
class Plan:
    """The content of a file of FOLDER."""

    name: str
    settings: dict[str, object]
    seeds: list[int]
    runs: dict[str, dict[str, object]]


def read_plan(name: str) -> Plan:
    """Read recipes/ablations/NAME.yaml. Raises UserError where there is none, it is not a plan, or a run cannot be."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"there is no plan {name!r} in {FOLDER}/; choose one of {known}")
    try:
        plan = Plan(name, **to_plain(read_yaml(path)))
    except TypeError as error:
        raise UserError(f"{path}: it needs settings, seeds and runs, and nothing else ({error})") from None
    seeds = plan.seeds if isinstance(plan.seeds, list) else []
    if len(set(seeds)) < max(2, len(seeds)) or not all(type(seed) is int and SEEDS.test(seed) for seed in seeds):
        raise UserError(f"{path}: seeds = {plan.seeds}; write a list of two or more whole numbers, for an interval")
    runs = plan.runs if isinstance(plan.runs, dict) else {}
    if len(runs) < 2 or not all(isinstance(changed or {}, dict) for changed in (plan.settings, *runs.values())):
        raise UserError(f"{path}: settings and each of two or more runs are keys of params.yaml with values")
    if "plain" in runs:
        raise UserError(f"{path}: a run cannot be called plain, which `steps_of` keeps for a PyTorch loop; rename it")
    plan = Plan(name, plan.settings or {}, seeds, {run: changed or {} for run, changed in runs.items()})
    for i, run in enumerate(plan.runs):
        try:
            _check_steps(plan.settings | plan.runs[run], list(plan.runs)[:i])
        except BadSetting as bad:
            raise UserError(f"{path}, run {run}: {bad}") from None
    return plan


def _check_steps(settings: dict[str, object], earlier: list[str]) -> None:
    """Raise BadSetting where a run cannot have these `settings`; `earlier` are the runs whose steps it may have."""
    given, other = _apply(settings), settings.get("steps_of")
    if other not in (None, "plain", *earlier):
        raise BadSetting("steps_of", other, "no earlier run", f"choose one of {', '.join(('plain', *earlier))}")
    if other == "plain":
        check_compiler(CPU)
        if not given.train.max_minutes:
            raise BadSetting("train.max_minutes", None, "the plain loop needs a time", "write a number of minutes")


def _apply(settings: dict[str, object]) -> SimpleNamespace:
    """Return the sections of params.yaml with the dotted keys of `settings` in them. Raises BadSetting."""
    document = to_plain(read_yaml(params.PATH))
    for key in settings.keys() - {"steps_of"}:
        section, _, last = key.rpartition(".")
        found = find_value(document, section) if section else document
        if not isinstance(found, dict) or last not in found:
            raise BadSetting(key, settings[key], "not a key of params.yaml", "correct its spelling, or remove it")
        found[last] = settings[key]
    return params.convert_document(document, SECTIONS)


def run_plan(plan: Plan, text: str | None) -> dict:
    """Train what is not trained yet, and return the figures of all runs (`compare_runs`), machine and command.

    `text` is a file or folder of documents: every TEST_EVERY-th is kept apart for the test, the others are for training
    and validation. Without it the corpus is a generated one, as the plan says, and the test text is drawn with another
    seed. Raises UserError where a run fails, KeyboardInterrupt where it is interrupted; finished ones are kept.
    """
    settings, test = split_text(plan, text) if text else generate_test_text(plan)
    code = [
        _run("git", "rev-parse", *(f"HEAD:{path}" for path in DECISIVE)),
        _run("git", "diff", "HEAD", "--", *DECISIVE),
    ]
    code += [sha256(Path(settings["data.pretrain.path"]))] if text else []
    finished = _run(*DVC, "exp", "list", "--all-commits", "--name-only").split()
    documents = list(test.texts())
    scores: dict[str, list[dict]] = {run: [] for run in plan.runs}
    for seed in plan.seeds:
        names: dict[str, str] = {}
        for run, changed in plan.runs.items():  # in turns, so that a machine that slows down slows all
            chosen = settings | changed | {"seed": seed}
            other = chosen.get("steps_of")
            names[run] = name_experiment(f"{plan.name}-{run}-{seed}", [*code, chosen, names.get(other)])
            if names[run] not in finished:
                if other:
                    steps = plain_steps(chosen) if other == "plain" else scores[other][-1]["steps"]
                    chosen |= {"train.max_steps": int(steps), "train.max_minutes": None}
                    del chosen["steps_of"]
                _train(names[run], chosen)
            scores[run].append(_score(names[run], documents))
    command = f"python -m stages.ablation {plan.name}" + (f" --text {text}" if text else "")
    return {"machine": describe_processor(), "command": command, **compare_runs(scores)}


def plain_steps(settings: dict[str, object]) -> int:
    """Time the plain, compiled step of the model and batch of `settings`; return how many fit into their time."""
    given = _apply(settings)
    vocab_size = count_rows(given.tokenizer)
    size = {"batch_size": given.train.step_sequences, "block_size": given.model.block_size, "vocab_size": vocab_size}
    shape = replace(given.benchmark, **size, threads=given.train.threads)
    entry = partial(_build_plain_step, model_config(given.model, vocab_size), shape)
    times = time_in_turns({"plain": entry}, TIMED_STEPS)
    return max(1, int(60 * given.train.max_minutes / times.medians["plain"]))


def _build_plain_step(config: ModelConfig, shape: BenchmarkSettings) -> Steps:
    batch = random_batch(shape)
    variant = Variant(config.arch, "auto", compile=True, plain=True)
    return {"plain": build_plain_step(build_model(config), variant, shape, batch)}


def name_experiment(name: str, inputs: list) -> str:
    """Add a hash of `inputs`, JSON values, so that an experiment of other settings or code has another name."""
    return f"{name}-{hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]}"


def compare_runs(scores: dict[str, list[dict]]) -> dict:
    """Compute means over seeds, each with half of its 95% confidence interval as `…_ci95`.

    `scores` are by run and seed: `bpb` of the test text, `val_bpb`, `steps` and `seconds` of training, which are
    returned as `runs`. `<run>_percent` is how much higher than that of the first run the bits per byte of a run are, in
    pairs of a seed, and `over_<first run>` the ratio of the last one; below 0 and below 1 is better.
    """
    reference, *others = scores
    pairs = {run: zip(scores[run], scores[reference], strict=True) for run in others}
    ratios = {run: [ours["bpb"] / theirs["bpb"] for ours, theirs in pairs[run]] for run in others}
    found = describe_mean(f"over_{reference}", ratios[others[-1]])
    for run in others:
        found |= describe_mean(f"{run}_percent", [100 * (ratio - 1) for ratio in ratios[run]])
    runs: dict = {run: {} for run in scores}
    for run, rows in scores.items():
        for key in rows[0]:
            runs[run] |= describe_mean(key, [score[key] for score in rows])
    return found | {"runs": runs}


def split_text(plan: Plan, text: str) -> tuple[dict[str, object], Corpus]:
    """Write the documents of `text` to a file for training and one for the test; return the settings and the latter."""
    given = params.load(data=Data).data
    own = replace(given.pretrain, source="files", path=text, num_samples=None)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for i, document in enumerate(load_corpus(own, given).documents(Counter())):
        lines["train" if i % TEST_EVERY else "test"].append(json.dumps({"text": document.text}) + "\n")
    folder = (work_root() / "ablation" / plan.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in lines:
        atomic.write_text(folder / f"{name}.jsonl", "".join(lines[name]))
    changed = {
        "source": "files",
        "path": str(folder / "train.jsonl"),
        "num_samples": None,
        "field": "text",
        "format": "text",
    }
    test = load_corpus(replace(given.pretrain, **changed | {"path": str(folder / "test.jsonl")}), given)
    return plan.settings | {f"data.pretrain.{key}": value for key, value in changed.items()}, test


def generate_test_text(plan: Plan) -> tuple[dict[str, object], Corpus]:
    """Return the plan's settings, and documents of its generated corpus that are drawn with a seed of their own."""
    given = params.load(data=Data).data
    source = plan.settings.get("data.pretrain.source")
    if source not in ("stories", "abstracts"):
        raise UserError(f"plan {plan.name}: data.pretrain.source = {source}; name a text of your own with --text")
    other = replace(given, **{source: replace(getattr(given, source), seed=TEST_SEED)})
    return plan.settings, load_corpus(replace(given.pretrain, source=source, num_samples=TEST_DOCUMENTS), other)


def _train(name: str, settings: dict[str, object]) -> None:
    """Run the experiment `name` up to the stage pretrain, in a folder of its own."""
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    changes = [f"--set-param={key}={word}" for key, word in words.items()]
    if status := launch_stage([*DVC, "exp", "run", "--temp", "--name", name, *changes, "pretrain"]):
        raise UserError(f"experiment {name}: dvc ended with status {status}; finished experiments are kept")


def _score(name: str, texts: list[str]) -> dict[str, float]:
    """Score the model of a finished experiment on `texts`."""
    with tempfile.TemporaryDirectory(dir=work_root()) as scratch:
        model, metrics = Path(scratch, "model"), Path(scratch, "pretrain.json")
        for path, copy in (("models/pretrain", model), ("metrics/pretrain.json", metrics)):
            _run(*DVC, "get", ".", path, "--rev", name, "--out", str(copy))
        figures, bpb = json.loads(metrics.read_text("utf-8")), score_texts(open_model(model), texts).bpb
    steps, seconds = float(figures["steps"]), figures["wall_s"]
    return {"bpb": bpb, "val_bpb": figures["val"]["bpb"], "steps": steps, "seconds": seconds}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"`{' '.join(command)}` failed: {shorten(done.stderr, 300)}")
    return done.stdout
