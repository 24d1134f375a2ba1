"""`pruner: auto`: stops what has diverged, and nothing else.

Beside proposals from whole runs (`auto`), stopping the worse part of the trials early lengthened the search in
`benchmarks/search.py` more than it saved, so the default does not. A trial whose metric is not a finite number ends as
failed without any pruner (`judge`).
"""

from __future__ import annotations

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override


class DivergencePruner(BasePruner):
    """Stops a trial that is far worse than every whole one was at the same step, and worse than at its own start.

    Far worse means: behind the worst of them by more than all their values at that step lie apart.

    Args:
        n_whole_trials: whole trials, at least, that a trial is compared with.

    Attributes:
        reason: why the last trial asked about was stopped.
    """

    def __init__(self, n_whole_trials: int = 8) -> None:
        if n_whole_trials < 2:
            raise ValueError(f"n_whole_trials is {n_whole_trials}, allowed: 2 or more")
        self._needed = n_whole_trials
        self.reason = ""

    @override
    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or len(trial.intermediate_values) < 2:
            return False
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        value, first = (sign * trial.intermediate_values[at] for at in (step, min(trial.intermediate_values)))
        if value <= first:
            return False
        whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        others = [sign * each.intermediate_values[step] for each in whole if step in each.intermediate_values]
        if len(others) < self._needed:
            return False
        limit = max(others) + (max(others) - min(others))
        self.reason = (
            f"{sign * value:.6g} at step {step} has diverged: it is worse than at the start ({sign * first:.6g}) and "
            f"beyond {sign * limit:.6g}, twice as far as the worst of {len(others)} whole trials is from the best"
        )
        return value > limit
