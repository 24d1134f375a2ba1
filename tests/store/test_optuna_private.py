"""Each private name of Optuna, called for real: what fails here after an upgrade is what has to be read again."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event, text

from rankray.store.backend import connect
from rankray.store.optuna_private import (
    READ_FROM,
    TABLES_OF,
    BaseJournalFileLock,
    FrozenStudy,
    add_proxy_service,
    changed_trials,
    database_of,
    database_to_look_at,
    engine_of,
    has_newer_trial,
    trial_id,
    write_step,
)

MINIMIZE = [StudyDirection.MINIMIZE]


def test_the_version_is_the_one_that_was_read() -> None:
    major, minor = version("optuna").split(".")[:2]
    assert f"{major}.{minor}" == READ_FROM, (
        f"rankray/store/optuna_private.py was read from optuna {READ_FROM}, {major}.{minor} is installed: read again "
        "optuna/storages/_cached_storage.py, _rdb/storage.py (_get_trials), _rdb/models.py, journal/_file.py, "
        "_grpc/servicer.py and trial/_frozen.py; then set READ_FROM"
    )


@pytest.fixture
def cached(tmp_path: Path) -> Any:
    """A database as `optuna.storages.get_storage` opens it: behind a cache."""
    return optuna.storages.get_storage(f"sqlite:///{tmp_path}/private.db")


def test_a_database_to_look_at_is_what_optuna_would_open(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/looked.db"
    assert database_to_look_at(url, {}) is None, "there are no tables, and none are made"
    storage = RDBStorage(url)
    assert (storage.get_head_version(), storage.get_current_version()) == (TABLES_OF, TABLES_OF)
    study = storage.create_new_study(MINIMIZE, "s")
    storage.create_new_trial(study)
    found = database_to_look_at(url, {})
    assert found is not None
    assert [each._trial_id for each in found.get_all_trials(study)] == [1]
    missing = vars(storage).keys() - vars(found).keys()
    assert missing == {"_version_manager"}, "an attribute that Optuna's own constructor sets"
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v3.0.0.d'"))
    assert database_to_look_at(url, {}) is None, "tables of another version: Optuna says what is to be done"


def test_to_look_at_a_database_imports_no_alembic(tmp_path: Path) -> None:
    """It would take a third of the time of `rankray status`."""
    url = f"sqlite:///{tmp_path}/light.db"
    RDBStorage(url)
    program = (
        "import sys; from rankray.store.backend import connect; "
        f"connect({url!r}, create=False).get_all_studies(); print('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("kind", ["memory", "database", "cached", "journal"])
def test_a_trial_s_id_is_the_one_that_its_storage_gave(kind: str, cached: Any, tmp_path: Path) -> None:
    storages: dict[str, Any] = {
        "memory": InMemoryStorage(),
        "database": database_of(cached),
        "cached": cached,
        "journal": JournalStorage(JournalFileBackend(str(tmp_path / "j"))),
    }
    storage = storages[kind]
    for name in ("one", "two"):  # ids and numbers differ in the second study
        study = storage.create_new_study(MINIMIZE, name)
        created = [storage.create_new_trial(study) for _ in range(3)]
        assert [trial_id(trial) for trial in storage.get_all_trials(study)] == created
        assert trial_id(storage.get_trial(created[1])) == created[1]


def test_a_draft_has_an_id_before_it_is_stored() -> None:
    assert isinstance(trial_id(create_trial(state=TrialState.RUNNING)), int)


def test_the_database_is_found_behind_the_cache(cached: Any, tmp_path: Path) -> None:
    assert not isinstance(cached, RDBStorage)
    assert isinstance(database_of(cached), RDBStorage)
    assert database_of(InMemoryStorage()) is None
    assert database_of(JournalStorage(JournalFileBackend(str(tmp_path / "j")))) is None


def test_the_engine_is_sqlalchemy_s(cached: Any) -> None:
    database = database_of(cached)
    assert database is not None
    with engine_of(database).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM trials")).scalar() == 0


def test_changed_trials_are_the_unfinished_and_the_newer_ones_of_one_study(cached: Any) -> None:
    database = database_of(cached)
    assert database is not None
    study, other = (cached.create_new_study(MINIMIZE, name) for name in ("one", "two"))
    ids = []
    for _ in range(5):
        ids.append(cached.create_new_trial(study))
        cached.create_new_trial(other)
    cached.set_trial_user_attr(ids[1], "key", {"a": [1, None]})
    cached.set_trial_intermediate_value(ids[1], 7, 0.5)
    found = changed_trials(database, study, {ids[1]}, ids[2])
    assert [trial_id(trial) for trial in found] == [ids[1], ids[3], ids[4]]
    assert (found[0].number, found[0].user_attrs, found[0].intermediate_values) == (
        1,
        {"key": {"a": [1, None]}},
        {7: 0.5},
    )
    assert [trial_id(trial) for trial in changed_trials(database, study, set(), -1)] == ids
    assert changed_trials(database, study, set(), ids[4]) == []


def as_text(trial: FrozenTrial) -> str:
    """Return a trial's text, its mappings in order of their keys: Optuna asks for attributes in none."""
    ordered = copy.copy(trial)
    for name in ("user_attrs", "system_attrs", "distributions", "intermediate_values"):
        setattr(ordered, name, dict(sorted(getattr(trial, name).items())))
    ordered.params = dict(sorted(trial.params.items()))
    return repr(ordered)


@pytest.mark.db
def test_postgresql_is_asked_for_changed_trials_in_one_statement_and_answers_as_optuna(postgresql_url: str) -> None:
    storage: Any = connect(postgresql_url).behind
    database = database_of(storage)
    assert database is not None
    study, other = (storage.create_new_study(MINIMIZE, name) for name in ("one", "two"))
    space = {
        "rate": FloatDistribution(1e-5, 1e-2, log=True),
        "rank": IntDistribution(4, 64, log=True),
        "base": CategoricalDistribution(["one", "prob", None, 2]),
    }
    params = {"rate": 1 / 3e3, "rank": 7, "base": None}
    odd = {"text": 'it\'s "quoted" \\ \u00e4 % :name', "figure": 0.1 + 0.2, "none": None}
    started = datetime(2026, 7, 1, 12, 30, 5, 123456)
    made = [
        create_trial(state=TrialState.RUNNING, params=params, distributions=space, user_attrs=odd, system_attrs=odd),
        create_trial(value=-1e-300, params=params, distributions=space, intermediate_values={2: 0.5, 1: math.inf}),
        create_trial(value=math.inf, intermediate_values={7: math.nan, 3: -math.inf}),
        create_trial(state=TrialState.FAIL, user_attrs={"step": {"nll": math.nan}}),
        create_trial(state=TrialState.WAITING),
    ]
    for trial in made:
        trial.datetime_start = started
        storage.create_new_trial(study, trial)
        storage.create_new_trial(other, trial)
    wanted = database._get_trials(study, None, set(), -1)
    ids = [trial_id(trial) for trial in wanted]
    statements: list[str] = []
    event.listen(engine_of(database), "before_cursor_execute", lambda *given: statements.append(given[2]))
    found = changed_trials(database, study, set(), -1)
    assert len(statements) == 1
    assert list(map(as_text, found)) == list(map(as_text, wanted)), "NaN is not equal to itself, its text is"
    assert [list(each.params) for each in found] == [list(each.params) for each in wanted]
    assert [trial_id(each) for each in changed_trials(database, study, {ids[0], ids[2]}, ids[3])] == [
        ids[0],
        ids[2],
        ids[4],
    ]
    assert changed_trials(database, study, set(), ids[-1]) == []
    with pytest.raises(KeyError):
        changed_trials(database, 10**6, set(), -1)


def test_a_newer_trial_is_one_of_this_study_with_a_higher_id(cached: Any) -> None:
    database = database_of(cached)
    assert database is not None
    study, other = (cached.create_new_study(MINIMIZE, name) for name in ("one", "two"))
    assert not has_newer_trial(database, study, -1)
    first = cached.create_new_trial(study)
    cached.create_new_trial(other)
    assert has_newer_trial(database, study, -1)
    assert not has_newer_trial(database, study, first)
    second = cached.create_new_trial(study)
    assert has_newer_trial(database, study, first)
    assert not has_newer_trial(database, study, second)


@pytest.mark.db
def test_a_step_is_written_in_one_statement_as_optuna_would_write_it_in_eleven(postgresql_url: str) -> None:
    storage: Any = connect(postgresql_url).behind
    database = database_of(storage)
    assert database is not None
    study = storage.create_new_study(MINIMIZE, "s")
    ours, plain = storage.create_new_trial(study), storage.create_new_trial(study)
    records: list[Any] = [{"metrics": {"eval/nll": 0.1 + 0.2, "x": float("nan")}}, {"a": "it's 100 % :key"}]
    statements: list[str] = []
    event.listen(engine_of(database), "before_cursor_execute", lambda *given: statements.append(given[2]))
    for record, value in zip(records, (0.1 + 0.2, -1e-300), strict=True):
        assert write_step(database, ours, "step", record, 10, value), "the second one overwrites"
    assert write_step(database, ours, "other", True)
    assert len(statements) == 3
    storage.set_trial_user_attr(plain, "step", records[1])
    storage.set_trial_user_attr(plain, "other", True)
    storage.set_trial_intermediate_value(plain, 10, -1e-300)
    one, other = changed_trials(database, study, {ours, plain}, plain)
    assert one.user_attrs == other.user_attrs == {"step": records[1], "other": True}
    assert one.intermediate_values == other.intermediate_values == {10: -1e-300}
    storage.set_trial_state_values(ours, TrialState.FAIL)
    assert write_step(database, ours, "late", 1, 20, 1.0) is False
    assert write_step(database, 10**6, "nowhere", 1) is False
    [ended] = changed_trials(database, study, {ours}, ours)[:1]
    assert (ended.user_attrs, ended.intermediate_values) == (one.user_attrs, one.intermediate_values)


def test_other_databases_have_no_such_statement(cached: Any) -> None:
    database = database_of(cached)
    assert database is not None
    trial = cached.create_new_trial(cached.create_new_study(MINIMIZE, "s"))
    assert write_step(database, trial, "step", {}, 1, 0.5) is None
    assert cached.get_trial(trial).user_attrs == {}


def test_a_journal_takes_a_lock_of_ours_for_each_write(tmp_path: Path) -> None:
    calls: list[str] = []

    class Lock(BaseJournalFileLock):
        def acquire(self) -> bool:
            calls.append("acquire")
            return True

        def release(self) -> None:
            calls.append("release")

    assert set(BaseJournalFileLock.__abstractmethods__) == {"acquire", "release"}
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "j"), lock_obj=Lock()))
    calls.clear()
    storage.create_new_study(MINIMIZE, "s")
    assert calls == ["acquire", "release"]


def test_studies_are_described_by_this_type(cached: Any) -> None:
    cached.create_new_study(MINIMIZE, "s")
    [study] = cached.get_all_studies()
    assert type(study) is FrozenStudy
    assert (study.study_name, study.user_attrs) == ("s", {})


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_server_with_the_service_answers_optuna_s_proxy(cached: Any) -> None:
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    server = grpc.server(ThreadPoolExecutor(2))
    add_proxy_service(server, cached)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        proxy = optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=port)
        proxy.wait_server_ready(timeout=120)
        study = proxy.create_new_study(MINIMIZE, "s")
        created = proxy.create_new_trial(study)
        proxy.set_trial_user_attr(created, "key", 1)
        assert [trial.user_attrs for trial in cached.get_all_trials(study)] == [{"key": 1}]
        proxy.close()
    finally:
        server.stop(grace=None).wait()
