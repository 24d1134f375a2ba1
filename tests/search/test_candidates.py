"""What is compared with what, without any training."""

from __future__ import annotations

from typing import Any

import pytest

from rankray.config import Config, distributions
from rankray.config.space import RATE
from rankray.errors import UserError
from rankray.search.candidates import (
    DATA,
    LARGEST_SEED,
    SEED,
    baselines,
    confirmation_config,
    edge_of,
    finalists,
    fresh_seed,
    used_seeds,
)

SPACE = {
    "loss.objective": {"choice": ["sft", "rri"]},
    "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
    RATE: {"float": [1e-5, 1e-1], "log": True},
}


def made(space: dict[str, Any] = SPACE, **changes: Any) -> tuple[Config, Config]:
    tree = {"name": "s", "model": {"path": "m"}, "data": {"train": "a.jsonl", "eval": "b.jsonl"}, "space": space}
    config = Config.model_validate({**tree, **changes})
    return config, confirmation_config(config, "s.confirm")


def row(number: int, value: float | None, state: str = "complete", step: int = 10, **params: Any) -> dict[str, Any]:
    return {"number": number, "value": value, "state": state, "step": step, "params": params}


def sft(number: int, value: float | None, rate: float, state: str = "complete") -> dict[str, Any]:
    return row(number, value, state, **{"loss.objective": "sft", RATE: rate})


def rri(number: int, value: float, rate: float = 1e-3, form: str = "exact") -> dict[str, Any]:
    return row(number, value, **{"loss.objective": "rri", "loss.form": form, RATE: rate})


def test_the_confirmation_s_space_holds_plain_sft_the_seeds_and_both_data() -> None:
    config, confirmation = made(
        {"loss.temperature": {"float": [0.5, 2.0]}}, data={"train": "a", "eval": "b", "test": "t"}
    )
    space = distributions(confirmation)
    assert space["loss.objective"].choices == ("rri", "sft")
    assert (space[RATE].low, space[RATE].high) == pytest.approx((5e-6, 5e-4))
    assert space[DATA].choices == ("b", "t")
    assert space[SEED].contains(LARGEST_SEED - 1)
    assert confirmation.data.test is None
    assert (confirmation.study.pruner, confirmation.study.known, confirmation.study.seeds) == ("none", [], 1)
    assert confirmation.study.metric == config.study.metric


def test_the_finalists_are_the_best_settings_that_are_not_plain_sft() -> None:
    config, confirmation = made()
    rows = [rri(0, 2.0), sft(1, 0.5, 1e-3), rri(2, 1.0, 2e-3), rri(3, 1.5, 1e-3), rri(4, 3.0), row(5, 0.1, "pruned")]
    found = finalists(rows, config, confirmation, 3)
    assert [(each.number, each.value) for each in found] == [(2, 1.0), (3, 1.5)], "0, 3 and 4 are the same setting"
    assert found[0].params == {"loss.objective": "rri", "loss.form": "exact", RATE: 2e-3}
    up, _ = made(study={"metric": "eval/accuracy"}, evaluate={"metrics": ["accuracy"]})
    assert [each.number for each in finalists(rows, up, confirmation, 1)] == [4]


@pytest.mark.parametrize(
    ("rows", "says"), [([], "no trial is complete"), ([sft(0, 1.0, 1e-3)], "every complete trial is plain SFT")]
)
def test_without_anything_to_confirm_it_says_what_is_needed(rows: list[Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        finalists(rows, *made(), 5)


def test_plain_sft_gets_its_own_ladder_where_the_search_has_not_tried_both_sides() -> None:
    config, confirmation = made()
    rates = [each.params[RATE] for each in baselines([sft(0, 1.0, 1e-3), rri(1, 0.5)], config, confirmation, 5)]
    assert rates == pytest.approx([1e-3, 10**-2.5, 10**-3.5, 1e-2, 1e-4])
    low = [each.params[RATE] for each in baselines([sft(0, 1.0, 2e-5), rri(1, 0.5)], config, confirmation, 5)]
    assert (low[0], len(low)) == (2e-5, 5)
    assert min(low) >= 1e-5, "no rung lies outside the range"


def test_what_the_search_has_covered_is_not_tried_again() -> None:
    config, confirmation = made()
    rows = [sft(0, 1.0, 1e-3), sft(1, 1.2, 3e-3), sft(2, 1.3, 3e-4), sft(3, None, 9.0e-3, "pruned"), rri(4, 0.5)]
    found = baselines(rows, config, confirmation, 3)
    assert [each.number for each in found] == [0, 1, 2]
    assert {each.params["loss.objective"] for each in found} == {"sft"}


def test_plain_sft_is_tried_even_where_the_search_never_did() -> None:
    space = {"loss.temperature": {"float": [0.5, 2.0]}, RATE: SPACE[RATE]}
    config, confirmation = made(space)
    found = baselines([row(0, 1.0, **{"loss.temperature": 0.7, RATE: 1e-2})], config, confirmation, 3)
    assert [each.params["loss.objective"] for each in found] == ["sft"] * 3
    assert [each.params[RATE] for each in found] == pytest.approx([1e-2, 10**-1.5, 10**-2.5])
    stopped = [row(0, 1.0, **{"loss.temperature": 0.7, RATE: 1e-2})]
    config, confirmation = made()
    start = baselines([*stopped, sft(1, 2.0, 1e-4, "pruned")], config, confirmation, 1)[0]
    assert (start.number, start.params[RATE]) == (None, 1e-4), "what was stopped says where to begin"


def test_a_ladder_of_choices_takes_the_neighbours() -> None:
    config, confirmation = made({**SPACE, RATE: {"choice": [1e-4, 3e-4, 1e-3, 4e-3]}})
    found = baselines([sft(0, 1.0, 1e-3), rri(1, 0.5)], config, confirmation, 3)
    assert [each.params[RATE] for each in found] == [1e-3, 3e-4, 4e-3]


def test_an_edge_is_named() -> None:
    log = distributions(made()[0])[RATE]
    linear = distributions(made({RATE: {"float": [0.1, 0.5]}})[0])[RATE]
    listed = distributions(made({RATE: {"choice": [1e-3, 1e-4]}})[0])[RATE]
    assert edge_of(1e-3, log) == edge_of(0.3, linear) == ""
    assert edge_of(1.1e-5, log) == "the lower end of its range (1e-05 to 0.1)"
    assert edge_of(0.099, log).startswith("the upper end")
    assert edge_of(0.499, linear).startswith("the upper end")
    assert (edge_of(1e-3, listed)[:13], edge_of(1e-4, listed)[:13]) == ("the upper end", "the lower end")


def test_seeds_are_new_and_the_same_for_everybody() -> None:
    config, _ = made(study={"seeds": 3}, train={"seed": 7})
    used = used_seeds([row(0, 1.0, **{SEED: 40})], config)
    assert used == {7, 8, 9, 40, 41, 42}
    seeds = [fresh_seed("salt", "what", index, used) for index in range(200)]
    assert (len(set(seeds)), seeds) == (200, [fresh_seed("salt", "what", index, used) for index in range(200)])
    taken = set(seeds[:3])
    assert fresh_seed("salt", "what", 0, taken) not in taken
    assert fresh_seed("other", "what", 0, used) != seeds[0]


def test_sft_with_an_anchor_is_not_plain() -> None:
    """It may be a finalist, and plain SFT is tried without the anchor, fixed by the file or searched."""
    anchored = sft(0, 0.5, 1e-3)
    config, confirmation = made(loss={"kl_weight": 0.1})
    assert [each.number for each in finalists([anchored], config, confirmation, 5)] == [0]
    best, plain = finalists([anchored], config, confirmation, 5)[0], baselines([anchored], config, confirmation, 2)
    assert (best.params["loss.kl_weight"], [each.params["loss.kl_weight"] for each in plain]) == (0.1, [0.0, 0.0])
    searched = {**SPACE, "loss.kl_weight": {"float": [0.01, 1.0], "log": True}}
    config, confirmation = made(searched)
    rows = [{**anchored, "params": {**anchored["params"], "loss.kl_weight": 0.5}}]
    plain = baselines(rows, config, confirmation, 3)
    assert [each.params["loss.kl_weight"] for each in plain] == [0.0] * 3
    assert distributions(confirmation)["loss.kl_weight"].contains(0.0)


def test_an_anchor_that_can_only_be_nothing_stays_as_it_is() -> None:
    _, confirmation = made({**SPACE, "loss.kl_weight": {"choice": [0.0]}})
    assert distributions(confirmation)["loss.kl_weight"].choices == (0.0,)


def test_a_confirmation_ends_hangs_and_spends_as_it_is_told() -> None:
    _, confirmation = made(study={"trial_timeout": 30.0, "budget": {"gpu_hours": 2.0}})
    assert (confirmation.study.trial_timeout, confirmation.study.budget.gpu_hours) == (30.0, 2.0)
