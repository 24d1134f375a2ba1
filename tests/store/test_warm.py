from __future__ import annotations

from typing import Any

import pytest

from rankray.contracts import Report
from rankray.errors import StoreError
from rankray.store import list_studies, open_rehearsal, open_study
from rankray.store.backend import RetryingStorage
from rankray.store.move import copy_study
from rankray.store.records import ORIGIN
from rankray.store.warm import WARM, check_before, earlier_points, rehearsed
from store.helpers import begin, drive, make_config, nll

RATES = {"train.learning_rate": {"float": [1e-6, 1e-3], "log": True}}


def earlier(url: str, name: str = "old", trials: int = 12, **changes: Any) -> list[Any]:
    """Finish a study, and return its complete trials, best first."""
    store = open_study(url, make_config(name=name, study={"trials": trials, "pruner": "none"}, **changes))
    drive(store)
    sign = -1 if store.config.direction == "maximize" else 1
    return sorted(store.trials(), key=lambda trial: sign * trial.value)


def test_the_best_quarter_of_an_earlier_study_is_tried_first_and_once(url: str) -> None:
    best = earlier(url)[:3]
    config = make_config(study={"trials": 5, "known": ["sft"], "warm_start": ["old", {"loss.objective": "sft"}]})
    origins, params = [], []
    for _ in range(3):
        for _ in range(2):
            with open_study(url, config) as store:
                if not store.done:
                    ticket = begin(store)
                    store.complete(ticket.number, {"eval/nll": nll(ticket.params, 40)})
        origins = [trial.user_attrs[ORIGIN] for trial in store.trials()]
        params = [trial.params for trial in store.trials()]
    assert origins == ["baseline:sft", "warm_start", *["warm_start:old"] * 3]
    assert params[2:] == [trial.params for trial in best]


def test_a_rehearsal_starts_with_what_the_earlier_study_would_give(url: str) -> None:
    best = earlier(url)[:3]
    points: list[Any] = ["old", {"loss.objective": "sft"}, "nowhere"]
    config = make_config(store=url, study={"trials": 5, "known": [], "warm_start": points})
    found, said = rehearsed(config)
    assert found.study.warm_start == [*(trial.params for trial in best), {"loss.objective": "sft"}]
    [line] = said
    assert line.startswith("left out of the rehearsal: study.warm_start: nowhere: there is no other study")
    with open_rehearsal(found) as study:
        tried = [begin(study).params for _ in range(4)]
    assert tried[:3] == [trial.params for trial in best]


def test_a_rehearsal_needs_no_store(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    found, said = rehearsed(make_config(store=url, study={"warm_start": ["old"]}))
    assert found.study.warm_start == []
    assert "there is no such file" in said[0]
    assert not (tmp_path / "none.db").exists()


def test_what_an_earlier_study_gives_is_decided_once(url: str) -> None:
    """Whatever becomes of the earlier study meanwhile: it is extended, or deleted."""
    best = earlier(url, trials=4)[0]
    config = make_config(study={"warm_start": ["old"]})
    open_study(url, config)
    drive(open_study(url, make_config(name="old", study={"trials": 9, "pruner": "none"})))
    store = open_study(url, config)
    store._claims.refresh()
    assert earlier_points(store.storage, store._claims, config) == [(WARM + "old", best.params)]
    for name in ("old", "old/claims"):
        store.storage.delete_study(store.storage.get_study_id_from_name(name))
    with open_study(url, config) as again:
        assert begin(again).params == best.params


def test_a_copy_tries_what_the_original_would(sqlite_url: str, journal_url: str) -> None:
    best = earlier(sqlite_url, trials=4)[0]
    config = make_config(study={"warm_start": ["old"]})
    open_study(sqlite_url, config)
    copy_study(sqlite_url, journal_url, "s")
    with open_study(journal_url, config) as copied:
        assert begin(copied).params == best.params


def test_drivers_that_begin_together_agree(url: str) -> None:
    """The second one found other points, and the claim of the first counts."""
    best = earlier(url, trials=4)[0]
    config = make_config(study={"warm_start": ["old"]})
    first, late = open_study(url, config), open_study(url, config)
    assert late._claims.enter(WARM + "old", [{"train.learning_rate": 5e-4}]) == [best.params]
    assert begin(first.join()).params == best.params
    first.leave()


def die_after(killing: pytest.MonkeyPatch, writes: int) -> None:
    """Let the process "die" instead of making one more write than so many."""
    left = [writes]
    for name in ("create_new_trial", "set_study_user_attr", "create_new_study"):
        real = getattr(RetryingStorage, name)

        def write(self: Any, *args: Any, real: Any = real, **more: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(self, *args, **more)

        killing.setattr(RetryingStorage, name, write)


def test_a_killed_first_start_leaves_nothing_half_done(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dying before any write of the opening, and after each of them, leads to the same points."""
    best = earlier(url, trials=8)[:2]
    config = make_config(study={"warm_start": ["old"]})
    for allowed in range(12):
        with monkeypatch.context() as killing:
            die_after(killing, allowed)
            try:
                open_study(url, config)
            except KeyboardInterrupt:
                continue
        break
    assert 3 < allowed < 11
    with open_study(url, config) as store:
        assert [begin(store).params for _ in range(2)] == [trial.params for trial in best]


def test_fixed_fields_count_and_what_the_new_space_cannot_express_is_left_out(url: str) -> None:
    best = earlier(url, space=RATES, loss={"objective": "rri", "form": "exact"})
    config = make_config(space={**RATES, "loss.form": {"choice": ["bound", "exact"]}}, study={"warm_start": ["old"]})
    with open_study(url, config) as store:
        assert begin(store).params == {**best[0].params, "loss.form": "exact"}
    narrow = make_config(name="n", space={"train.learning_rate": {"float": [1.0, 2.0]}}, study={"warm_start": ["old"]})
    with pytest.raises(StoreError, match=r"study.warm_start: old: none of its 3 best trials lies in this space"):
        open_study(url, narrow)


def test_good_is_what_the_earlier_study_s_own_direction_says(url: str) -> None:
    old = make_config(name="old", study={"metric": "eval/accuracy", "trials": 4}, evaluate={"metrics": ["accuracy"]})
    with open_study(url, old) as store:
        tickets = [begin(store) for _ in range(4)]
        for value, ticket in enumerate(tickets):
            store.complete(ticket.number, {"eval/accuracy": value / 4})
    with open_study(url, make_config(study={"warm_start": ["old"]})) as store:
        assert begin(store).params == tickets[-1].params


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("odl", "there is no other study of this name in the store (did you mean 'old'?); allowed: old"),
        ("s", "allowed: old"),
    ],
)
def test_a_study_that_is_not_there_is_named_before_anything_is_written(name: str, says: str, file_url: str) -> None:
    earlier(file_url, trials=1)
    with pytest.raises(StoreError) as caught:
        open_study(file_url, make_config(study={"warm_start": [name]}))
    assert says in str(caught.value)
    assert list_studies(file_url) == ["old"]
    open_study(file_url, make_config(study={"warm_start": []}))


def test_before_a_search_begins_its_earlier_studies_are_looked_up(tmp_path: Any) -> None:
    """As `check` does; of a study that has begun they are not asked again."""
    url = f"sqlite:///{tmp_path}/store.db"
    made = make_config(study={"warm_start": ["old"]}, store=url)
    with pytest.raises(StoreError, match="there is no such file"):
        check_before(made)
    check_before(make_config(store=url))
    earlier(url, "other")
    with pytest.raises(StoreError, match=r"study.warm_start: old: there is no other study.*allowed: other"):
        check_before(made)
    earlier(url)
    check_before(made)
    assert sorted(list_studies(url)) == ["old", "other"], "nothing is written"
    check_before(make_config(name="old", study={"warm_start": ["gone"]}, store=url))


def test_an_earlier_study_without_a_complete_trial_has_nothing_to_give(file_url: str) -> None:
    open_study(file_url, make_config(name="old"))
    with pytest.raises(StoreError, match="no trial of it is complete"):
        open_study(file_url, make_config(study={"warm_start": ["old"]}))


def test_a_pruned_trial_of_an_earlier_study_gives_no_point(file_url: str) -> None:
    """What it reached on its way looks better than all that was trained to its end."""
    pruner = {"name": "threshold", "lower": 1.0}
    with open_study(file_url, make_config(name="old", study={"trials": 4, "pruner": pruner})) as store:
        whole = begin(store)
        store.complete(whole.number, {"eval/nll": 2.0})
        for _ in range(3):
            assert store.report(begin(store).number, Report(10, {"eval/nll": 0.5})).stop
    config = make_config(study={"trials": 4, "known": [], "warm_start": ["old"]})
    with open_study(file_url, config) as store:
        tickets = [begin(store) for _ in range(2)]
    assert tickets[0].params == whole.params
    assert [ticket.origin for ticket in tickets] == ["warm_start:old", "sampler"]
