"""Grid search over a conditional space."""

from __future__ import annotations

import pytest

from rankray.config import distributions
from rankray.errors import ConfigError
from rankray.store import open_rehearsal
from rankray.store.grid import grid
from rankray.store.strategies import check
from store.helpers import begin, make_config, run_trial

SPACE = {
    "loss.objective": {"choice": ["sft", "rri"]},
    "loss.temperature": {"float": [0.5, 2.0], "log": True, "when": {"loss.objective": "rri"}},
    "train.batch_size": {"int": [8, 9]},
    "train.learning_rate": {"float": [0.0001, 0.0003], "step": 0.0001},
}


def test_fields_that_do_not_exist_make_no_points_of_their_own() -> None:
    points = list(grid(make_config(space=SPACE), points=3))
    assert len(points) == (1 + 3) * 2 * 3
    assert len({str(point) for point in points}) == len(points)
    temperatures = {point["loss.temperature"] for point in points if "loss.temperature" in point}
    assert sorted(temperatures) == pytest.approx([0.5, 1.0, 2.0])
    assert {point["train.batch_size"] for point in points} == {8, 9}
    assert sorted({point["train.learning_rate"] for point in points}) == pytest.approx([1e-4, 2e-4, 3e-4])


def test_each_point_is_tried_once_whoever_asks_and_then_others_are_drawn() -> None:
    config = make_config(space=SPACE, study={"sampler": {"name": "grid", "points": 2}, "trials": 20, "pruner": "none"})
    with open_rehearsal(config) as store:
        first = [begin(store) for _ in range(4)]
        for ticket in first:
            run_trial(store, ticket)
        asked = [ticket.params for ticket in first] + [begin(store).params for _ in range(16)]
    wanted = [str(point) for point in grid(config, 2)]
    assert [str(params) for params in asked[: len(wanted)]] == wanted
    assert len(wanted) == 18
    assert all(field.contains(asked[-1][path]) for path, field in distributions(config).items() if path in asked[-1])


@pytest.mark.parametrize(("running", "whole"), [(150, 0), (0, 270)])
def test_a_long_study_tries_no_point_of_the_grid_again(running: int, whole: int) -> None:
    """Other samplers are shown a part of a long study; to a grid, what it is not shown would be untried."""
    config = make_config(study={"sampler": "grid", "trials": running + whole + 5, "pruner": "none"})
    with open_rehearsal(config) as store:
        tickets = []
        for index in range(running + whole + 5):
            tickets.append(begin(store))
            if index < whole:
                store.complete(tickets[-1].number, {"eval/nll": 1.0})
    assert len({str(ticket.params) for ticket in tickets}) == len(tickets)


def test_its_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="points is 1, allowed: 2 or more"):
        check(make_config(study={"sampler": {"name": "grid", "points": 1}}))
