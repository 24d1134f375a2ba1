"""The default pruner stops what diverges, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from rankray.contracts import Report
from rankray.errors import ConfigError
from rankray.store import open_rehearsal
from rankray.store.strategies import check
from store.helpers import STEPS, begin, make_config


def played(store: Any, values: list[float]) -> Any:
    """Report values, one per step; return the last verdict."""
    ticket = begin(store)
    for step, value in zip(STEPS, values, strict=False):
        verdict = store.report(ticket.number, Report(step, {"eval/nll": value}))
        if verdict.stop:
            return verdict
    store.complete(ticket.number, {"eval/nll": values[-1]})
    return verdict


@pytest.fixture
def store() -> Any:
    with open_rehearsal(make_config(study={"pruner": "auto", "trials": 30})) as study:
        yield study


def test_only_what_is_far_behind_every_whole_trial_and_rising_is_stopped(store: Any) -> None:
    assert not played(store, [2.0, 40.0, 80.0, 90.0]).stop, "there is nothing to compare with"
    for number in range(8):
        assert not played(store, [2.0, 1.5 + 0.1 * number, 1.4, 1.3]).stop
    assert not played(store, [30.0, 29.0, 28.0, 27.0]).stop, "bad, but getting better"
    assert not played(store, [2.0, 41.0, 3.0, 3.0]).stop, "no worse than the worst"
    verdict = played(store, [2.0, 300.0])
    assert (verdict.stop, verdict.failed) == (True, False)
    assert verdict.reason == (
        "eval/nll 300 at step 20 has diverged: it is worse than at the start (2) and beyond 80.5, twice as far as the "
        "worst of 11 whole trials is from the best"
    )


def test_its_options_are_checked() -> None:
    check(make_config(study={"pruner": {"name": "auto", "n_whole_trials": 2}}))
    with pytest.raises(ConfigError, match="n_whole_trials is 1, allowed: 2 or more"):
        check(make_config(study={"pruner": {"name": "auto", "n_whole_trials": 1}}))


@pytest.mark.parametrize(("metric", "sign"), [("eval/nll", 1.0), ("eval/token_accuracy", -1.0)])
def test_it_takes_eight_whole_trials_and_a_value_worse_than_at_the_start(metric: str, sign: float) -> None:
    """Whichever way is better: seven tell nothing, and what falls from a bad start is left alone wherever it is."""
    study = {"pruner": "auto", "trials": 30, "metric": metric, "prune_on": metric}
    evaluate = {"every_steps": STEPS[0], "metrics": ["nll", "token_accuracy"]}

    def stops(store: Any, values: list[float]) -> bool:
        ticket = begin(store)
        for step, value in zip(STEPS, values, strict=False):
            if store.report(ticket.number, Report(step, {metric: sign * value})).stop:
                return True
        store.complete(ticket.number, {metric: sign * values[-1]})
        return False

    for whole, is_stopped in ((7, False), (8, True)):
        with open_rehearsal(make_config(study=study, evaluate=evaluate)) as store:
            for number in range(whole):
                assert not stops(store, [-2.0, -3.0 + number / 10, -4.0, -5.0])
            assert stops(store, [-2.0, -1.5, -4.0, -5.0]) is is_stopped
    with open_rehearsal(make_config(study=study, evaluate=evaluate)) as store:
        for number in range(8):
            assert not stops(store, [-2.0, -3.0 + number / 10, -4.0, -5.0])
        assert not stops(store, [-1.0, -1.1, -4.0, -5.0]), "better than at its start"
        assert not stops(store, [-2.5, -2.3, -4.0, -5.0]), "not twice as far from the best as the worst"
        assert not stops(store, [-1.6, -1.6, -4.0, -5.0]), "as at its start"
