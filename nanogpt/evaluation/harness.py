"""Tasks of EleutherAI's lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness)."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.evaluation.models import EvaluatedModel, OwnModel
from nanogpt.runtime.errors import UserError, shorten


def run_tasks(models: dict[str, EvaluatedModel], tasks: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Run tasks, like blimp or lambada_openai, on each model, a folder or .pt file by its path, in fp32 on the CPU.

    Their texts come from the Hugging Face hub (see HF_ENDPOINT and HF_HOME). Returns the harness's figures by model and
    task: `acc`, `acc_stderr` and the like. Raises UserError where the harness has no such task.
    """
    import lm_eval
    from datasets.exceptions import DatasetsError
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    if missing := [task for task in tasks if not manager.match_tasks([task])]:
        raise UserError(f"--harness {','.join(tasks)}: lm_eval has no task {', '.join(missing)}")
    found = {}
    for path, model in models.items():
        with tempfile.TemporaryDirectory() as scratch:
            where = {"pretrained": path}
            if isinstance(model, OwnModel):  # adapters and .pt files too, as the harness reads them
                where["pretrained"] = scratch + "/model"
                save_checkpoint(where["pretrained"], model.net, model.tok)
            elif path.endswith(".gguf"):
                where = {"pretrained": str(Path(path).parent), "gguf_file": Path(path).name}
            options = {**where, "dtype": "float32", "trust_remote_code": False}
            try:
                results = lm_eval.simple_evaluate(
                    "hf", options, tasks=list(tasks), device="cpu", task_manager=manager, bootstrap_iters=0
                )
            except (OSError, ValueError, RuntimeError, DatasetsError) as error:
                what = f"{type(error).__name__}: {shorten(error, 600)}"
                raise UserError(f"--harness {','.join(tasks)}: no answers of {path} ({what})") from error
        found[path] = {task: _figures(row) for task, row in results["results"].items()}
    return found


def _figures(row: dict) -> dict[str, float]:
    """The harness writes `acc,none` for the accuracy without a filter."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and math.isfinite(value) and name != "sample_len"
    }
