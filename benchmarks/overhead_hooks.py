"""Seconds of training and evaluation, noted in every process that trains.

`rankray.finetune.run` imports the functions of `evaluate.functions` at the start of a trial; a search file that names
`overhead_hooks:note` there brings this module into every worker of every stack. From then on each evaluation appends
one line to `RANKRAY_NOTES`: process and trial, the seconds spent in steps (forward, backward, clipping, optimizer,
schedule) and in evaluations since the trial began, when its first step began, and when the line was written.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from typing import Any

from rankray.finetune.trainer import _AfterStep

IMPORTED_AT = time.time()


class _Clock:
    """Figures of the current trial in this process."""

    step_began = evaluation_began = first_step_at = 0.0
    training_seconds = evaluation_seconds = 0.0


_clock = _Clock()


def note(model: Any, tokenizer: Any, rows: Any) -> dict[str, float]:
    """Return no metrics: everything is done when this module is imported."""
    return {}


def _install() -> None:
    run: Any = importlib.import_module("rankray.finetune.run")
    train, evaluate, after = run._Trial._train, run.evaluate, _AfterStep.on_step_end

    def timed_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        _clock.__dict__.clear()
        return train(self, *args, **kwargs)

    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        _clock.step_began = time.time()
        _clock.first_step_at = _clock.first_step_at or _clock.step_began

    def end(self: Any, *args: Any, **kwargs: Any) -> Any:
        _clock.training_seconds += time.time() - _clock.step_began
        return after(self, *args, **kwargs)

    def timed_evaluate(*args: Any, **kwargs: Any) -> Any:
        began = time.time()
        found = evaluate(*args, **kwargs)
        _clock.evaluation_seconds += time.time() - began
        return found

    def noted_report(self: Any, step: int, *args: Any, **kwargs: Any) -> Any:
        _write(self._spec, step)
        return report(self, step, *args, **kwargs)

    report = run._Trial._report
    run._Trial._train, run._Trial._report, run.evaluate = timed_train, noted_report, timed_evaluate
    _AfterStep.on_step_begin, _AfterStep.on_step_end = begin, end


def _write(spec: Any, step: int) -> None:
    line = {
        "pid": os.getpid(),
        "rank": int(os.environ.get("RANK", "0")),
        "trial": spec.directory,
        "step": step,
        "imported_at": IMPORTED_AT,
        "first_step_at": _clock.first_step_at,
        "training_seconds": _clock.training_seconds,
        "evaluation_seconds": _clock.evaluation_seconds,
        "at": time.time(),
    }
    with open(os.environ["RANKRAY_NOTES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


_install()
