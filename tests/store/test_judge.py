from __future__ import annotations

import math
from typing import Any

import pytest

from rankray.contracts import Report, Verdict
from rankray.store import open_study
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


def test_what_a_baseline_reported_is_what_others_are_compared_with(file_url: str) -> None:
    with open_study(file_url, make_config(study={"known": ["sft"]})) as store:
        baseline, other = begin(store).number, begin(store).number
        assert store.report(baseline, Report(10, {"eval/nll": 1.0})) == Verdict(False)
        assert store.report(other, Report(10, {"eval/nll": 2.0})).stop
