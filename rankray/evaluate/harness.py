"""Tasks of lm-eval, the evaluation harness, on a checkpoint. Needs its package: `pip install 'rankray[lm-eval]'`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankray.errors import ConfigError

Reported = dict[str, dict[str, float | None]]


def require_harness() -> None:
    """Refuse tasks where the harness is missing.

    Raises:
        ConfigError: lm-eval is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "evaluate --tasks: needs the package lm-eval, which is not installed; allowed without it are the metrics "
            "of the file; pip install 'rankray[lm-eval]'"
        )


def run_tasks(
    model: Any, tokenizer: Any, tasks: Sequence[str], *, include: Path | None, batch_size: int, limit: int | None
) -> Reported:
    """Return what the harness measures, `<task>/<metric>` with its error and number of examples.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        tasks: names of its tasks.
        include: a directory with further tasks, as YAML.
        batch_size: requests at a time.
        limit: only the first so many examples of each task.

    Raises:
        ConfigError: lm-eval is not installed, or has no such task.
    """
    require_harness()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if include is None else str(include))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise ConfigError(
            f"evaluate --tasks: lm-eval has no task {unknown[0]!r}; allowed are the {len(manager.all_tasks)} that "
            "`lm-eval ls tasks` lists, and those below --include; correct the name"
        )
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    found = simple_evaluate(model=wrapped, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False)
    reported: Reported = {}
    for task, figures in found["results"].items():
        counts = found.get("n-samples", {}).get(task, {})
        for key, value in figures.items():
            name, _, kind = key.partition(",")
            if not isinstance(value, int | float) or name.endswith("_stderr") or name == "sample_len":
                continue
            error = figures.get(f"{name}_stderr,{kind}")
            reported[f"{task}/{name}"] = {
                "value": float(value),
                "stderr": float(error) if isinstance(error, int | float) else None,
                "n": float(counts["effective"]) if "effective" in counts else None,
            }
    return reported
