from __future__ import annotations

import math
import random
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from rankray.contracts import Report, Verdict
from rankray.store import open_study, strategies
from rankray.store.records import is_baseline
from rankray.store.strategies import PRUNERS
from store.helpers import STEPS, begin, make_config, stored


def play(store: Any, number: int, value: float) -> bool:
    """Report one value at every step and end the trial; return whether it was stopped."""
    for step in STEPS:
        if store.report(number, Report(step, {"eval/nll": value})).stop:
            return True
    store.complete(number, {"eval/nll": value})
    return False


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("first", [True, False], ids=["begun before the others", "begun after two others"])
def test_a_baseline_is_never_pruned(pruner: str, first: bool, file_url: str) -> None:
    """However bad it is, and whatever the others are; and what it reported counts in the verdicts on the others."""
    study = {"known": ["sft", "paper"], "trials": 16, "pruner": pruner}
    with open_study(file_url, make_config(study=study)) as store:
        baselines = [begin(store) for _ in range(2)]
        assert all(is_baseline(stored(store, ticket.number)) for ticket in baselines)
        before = [] if first else [begin(store).number for _ in range(6)]
        ended = [play(store, number, 1.0 + 0.01 * number) for number in before]
        assert [play(store, ticket.number, 9.0 + ticket.number) for ticket in baselines] == [False, False]
        after = [begin(store).number for _ in range(8 - len(before))]
        ended += [play(store, number, 20.0 + number) for number in after]
        assert any(ended) or pruner not in ("successive_halving", "hyperband", "median"), "the pruner stops others"
        assert {stored(store, ticket.number).state.name for ticket in baselines} == {"COMPLETE"}


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_baseline_without_a_number_fails_all_the_same(pruner: str, file_url: str) -> None:
    with open_study(file_url, make_config(study={"known": ["sft"], "pruner": pruner})) as store:
        number = begin(store).number
        store.report(number, Report(10, {"eval/nll": 1.0}))
        verdict = store.report(number, Report(20, {"eval/nll": math.nan}))
        assert verdict == Verdict(True, "eval/nll is nan at step 20", failed=True)
        assert stored(store, number).state.name == "FAIL"


@pytest.mark.parametrize("metric", ["eval/nll", "eval/accuracy"])
def test_trials_are_pruned_on_nll_whatever_the_study_selects_on(metric: str, file_url: str) -> None:
    """The third trial has the best accuracy and the worst NLL of all: it is stopped, and the reason names the NLL."""
    study = {"metric": metric, "pruner": {"name": "successive_halving", "reduction_factor": 2}}
    made = make_config(study=study, evaluate={"every_steps": 10, "metrics": ["accuracy"]})
    with open_study(file_url, made) as store:
        numbers = [begin(store).number for _ in range(3)]
        verdicts = [
            store.report(number, Report(10, {"eval/nll": nll, "eval/accuracy": accuracy}))
            for number, nll, accuracy in zip(numbers, (1.0, 1.1, 3.0), (0.3, 0.2, 0.9), strict=True)
        ]
        last = stored(store, numbers[2])
    assert verdicts[0] == Verdict(False)
    assert verdicts[2] == Verdict(True, "successive_halving at step 10: eval/nll 3 is behind")
    assert last.intermediate_values == {10: {"eval/nll": 3.0, "eval/accuracy": 0.9}[metric]}, "the study's own metric"


@pytest.mark.parametrize("name", [name for name in PRUNERS if name != "auto"])
@pytest.mark.parametrize("metric", ["eval/nll", "eval/accuracy"])
def test_a_verdict_is_the_one_of_optuna_on_the_metric_to_prune_on(name: str, metric: str, file_url: str) -> None:
    """Twelve trials of eight reports, three at a time; Optuna's own study of NLL is told the same."""
    pruner = {"name": name, "upper": 1.5} if name == "threshold" else name
    study = {"metric": metric, "pruner": pruner, "trials": 12, "known": [], "sampler": "random"}
    made = make_config(study=study, evaluate={"every_steps": 10, "metrics": ["accuracy"]}, train={"max_steps": 80})
    plain = optuna.create_study(pruner=strategies.pruner(made), study_name=made.name)
    dice, verdicts, pruned = random.Random(0), 0, 0
    with open_study(file_url, made) as store:
        while store.finished < 12:
            level = {begin(store).number: dice.uniform(0.5, 2.0) for _ in range(min(3, 12 - store.finished))}
            theirs = {number: plain.ask() for number in level}
            for step in range(10, 90, 10):
                for number in sorted(level):
                    nll = level[number] + dice.uniform(0.5, 1.0) / step
                    wanted = False
                    theirs[number].report(nll, step)
                    if step < 80:
                        wanted = theirs[number].should_prune()
                    numbers = {"eval/nll": nll, "eval/accuracy": dice.random()}
                    got = store.report(number, Report(step, numbers))
                    assert got.stop == wanted, (number, step)
                    verdicts, pruned = verdicts + 1, pruned + wanted
                    if wanted or step == 80:
                        if step == 80:
                            store.complete(number, numbers)
                        state = TrialState.COMPLETE if step == 80 else TrialState.PRUNED
                        plain.tell(theirs[number], nll if step == 80 else None, state=state)
                        del level[number]
    assert verdicts > 20
    assert bool(pruned) == (name != "none")


def test_an_nll_that_is_no_number_fails_a_trial_that_is_selected_on_accuracy(file_url: str) -> None:
    made = make_config(study={"metric": "eval/accuracy"}, evaluate={"every_steps": 10, "metrics": ["accuracy"]})
    with open_study(file_url, made) as store:
        verdict = store.report(begin(store).number, Report(10, {"eval/nll": math.inf, "eval/accuracy": 0.5}))
    assert verdict == Verdict(True, "eval/nll is inf at step 10", failed=True)


def test_what_a_baseline_reported_is_what_others_are_compared_with(file_url: str) -> None:
    with open_study(file_url, make_config(study={"known": ["sft"]})) as store:
        baseline, other = begin(store).number, begin(store).number
        assert store.report(baseline, Report(10, {"eval/nll": 1.0})) == Verdict(False)
        assert store.report(other, Report(10, {"eval/nll": 2.0})).stop


def test_a_trial_whose_steps_are_searched_is_pruned_before_its_own_last_step_alone(file_url: str) -> None:
    """At the file's last step, 40, a longer trial may be stopped; a shorter one, at its own, is not."""
    points = [{"train.max_steps": steps} for steps in (80, 20)]
    study = {"warm_start": points, "pruner": {"name": "threshold", "upper": 5.0}}
    made = make_config(space={"train.max_steps": {"choice": [20, 80]}}, study=study)
    with open_study(file_url, made) as store:
        longer, shorter = begin(store).number, begin(store).number
        assert not store.report(shorter, Report(20, {"eval/nll": 9.0})).stop
        assert store.report(longer, Report(40, {"eval/nll": 9.0})).stop


def test_a_report_of_an_earlier_step_or_without_both_metrics_asks_no_pruner(file_url: str) -> None:
    """What prunes on NLL a study of accuracy needs both, and is asked in the order of the steps."""
    study = {"metric": "eval/accuracy", "pruner": {"name": "threshold", "upper": 5.0}, "prune_on": "eval/nll"}
    made = make_config(study=study, evaluate={"every_steps": 10, "metrics": ["accuracy"]})
    with open_study(file_url, made) as store:
        number = begin(store).number
        for step, metrics in ((20, {"eval/nll": 9.0}), (30, {"eval/accuracy": 0.5}), (10, {"eval/nll": 9.0})):
            assert store.report(number, Report(step, metrics)) == Verdict(False)
        late = begin(store).number
        assert not store.report(late, Report(20, {"eval/nll": 1.0, "eval/accuracy": 0.5})).stop
        assert not store.report(late, Report(10, {"eval/nll": 9.0, "eval/accuracy": 0.5})).stop
        assert store.report(late, Report(30, {"eval/nll": 9.0, "eval/accuracy": 0.5})).stop
