"""The private names of Optuna that rankray uses, all of them, behind one door.

Read from optuna 5.0. Each function says why the public API does not do and what the public way beside it is; each is
called for real by `tests/store/test_optuna_private.py`, which fails when an upgrade of Optuna renames or changes what
is behind it. Nothing outside this file imports a module or touches an attribute of Optuna whose name starts with an
underscore, and nothing of Optuna is patched.
"""

from __future__ import annotations

import collections
import functools
import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.samplers import QMCSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import Study
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

if TYPE_CHECKING:
    import grpc
    from sqlalchemy import Engine

READ_FROM = "5.0"
"""The version of Optuna whose source these names were read from."""
TABLES_OF = "v3.2.0.a"
"""The revision of the tables that this version of Optuna writes, as Alembic's table in the database has it."""

__all__ = [
    "READ_FROM",
    "BaseJournalFileLock",
    "FrozenStudy",
    "NumberedQMCSampler",
    "add_proxy_service",
    "changed_trials",
    "database_of",
    "database_to_look_at",
    "engine_of",
    "has_newer_trial",
    "journal_lines_left_out",
    "proxy_with_deadlines",
    "says_not_found",
    "tables",
    "trial_id",
    "write_step",
]
# `BaseJournalFileLock` is what a lock given to `JournalFileBackend` must subclass. The public locks are files, which
# outlive a killed process.
# `FrozenStudy` is the type that `BaseStorage.get_all_studies` returns. No public module has it.


def trial_id(trial: FrozenTrial) -> int:
    """Return the id by which a storage knows a trial.

    `BaseStorage.get_trial_id_from_study_id_trial_number` is public, but asks the store once more for each trial.
    """
    return trial._trial_id


def database_of(storage: BaseStorage) -> RDBStorage | None:
    """Return the database storage behind the cache that `optuna.storages.get_storage` puts before it, else None.

    `RDBStorage` without the cache is public, but its `get_all_trials` reads every trial at each call.
    """
    backend = getattr(storage, "_backend", None)
    return backend if isinstance(backend, RDBStorage) else None


def database_to_look_at(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage | None:
    """Return the storage of a database whose tables are there and of this Optuna's revision, else None.

    `RDBStorage` is public, but imports Alembic and asks it for all revisions that ever were, whether its two options
    against checks are given or not: a third of the time that a look at a study takes. This asks one table.
    """
    from sqlalchemy import create_engine, inspect, orm, text

    class Looking(RDBStorage):
        def __init__(self) -> None:
            self.engine_kwargs, self.skip_compatibility_check = engine_kwargs, True
            self.url = self._fill_storage_url_template(url)
            self.heartbeat_interval = self.grace_period = None
            self.heartbeat_stale_trial_callback = self.failed_trial_callback = None
            self._set_default_engine_kwargs_for_mysql(url, self.engine_kwargs)
            self.engine = create_engine(self.url, **self.engine_kwargs)
            self.scoped_session = orm.scoped_session(orm.sessionmaker(bind=self.engine))

    found = Looking()
    if not inspect(found.engine).has_table("alembic_version"):
        return None
    with found.engine.connect() as connection:
        revisions = [row[0] for row in connection.execute(text("SELECT version_num FROM alembic_version"))]
    return found if revisions == [TABLES_OF] else None


def engine_of(database: RDBStorage) -> Engine:
    """Return the SQLAlchemy engine of a database storage. The attribute is undocumented; no public API has it."""
    engine: Engine = database.engine
    return engine


def changed_trials(database: RDBStorage, study_id: int, unfinished: set[int], last: int) -> list[FrozenTrial]:
    """Return a study's trials of the ids `unfinished`, and those of ids above `last`.

    It is what Optuna's own cache asks of a database. `BaseStorage.get_all_trials` is public; on the cached storage it
    also copies and sorts all trials at each reading. PostgreSQL is asked in one statement instead of Optuna's seven.
    """
    if engine_of(database).name == "postgresql":
        asked = {"study": study_id, "ids": sorted(unfinished), "last": last}
        with _single_statements(engine_of(database)).connect() as connection:
            found = connection.execute(_trials_statement(), asked).all()
        if found:
            return [_trial_of(row) for row in found]
    return database._get_trials(study_id, None, unfinished, last)  # it also says if the study is gone


@functools.cache
def _trials_statement() -> Any:
    """Return what reads trials with all that belongs to them, each kind of it as one JSON array."""
    from optuna.storages._rdb import models
    from sqlalchemy import JSON, bindparam, func, or_, select
    from sqlalchemy.dialects.postgresql import aggregate_order_by

    trials = models.TrialModel.__table__

    def gathered(model: Any, *names: str) -> Any:
        table = model.__table__
        [key] = table.primary_key.columns
        entry = func.json_build_array(*(table.c[name] for name in names))
        entries = func.json_agg(aggregate_order_by(entry, key), type_=JSON)
        return select(entries).where(table.c.trial_id == trials.c.trial_id).scalar_subquery()

    return (
        select(
            trials.c.trial_id,
            trials.c.number,
            trials.c.state,
            trials.c.datetime_start,
            trials.c.datetime_complete,
            gathered(models.TrialValueModel, "objective", "value", "value_type"),
            gathered(models.TrialParamModel, "param_name", "param_value", "distribution_json"),
            gathered(models.TrialUserAttributeModel, "key", "value_json"),
            gathered(models.TrialSystemAttributeModel, "key", "value_json"),
            gathered(models.TrialIntermediateValueModel, "step", "intermediate_value", "intermediate_value_type"),
        )
        .where(
            trials.c.study_id == bindparam("study"),
            or_(trials.c.trial_id.in_(bindparam("ids", expanding=True)), trials.c.trial_id > bindparam("last")),
        )
        .order_by(trials.c.trial_id)
    )


def _trial_of(row: Any) -> FrozenTrial:
    """Return the trial of a row of `_trials_statement`, as `RDBStorage` makes it of its models."""
    identity, number, state, start, complete, values, params, user, system, steps = row
    kinds = {name: _distribution(text) for name, _, text in params or ()}
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        values=[_figure(*each) for _, *each in sorted(values)] if values else None,
        datetime_start=_local(start),
        datetime_complete=_local(complete),
        params={name: kinds[name].to_external_repr(value) for name, value, _ in params or ()},
        distributions=kinds,
        user_attrs={key: json.loads(value) for key, value in user or ()},
        system_attrs={key: json.loads(value) for key, value in system or ()},
        intermediate_values={step: _figure(*each) for step, *each in steps or ()},
        trial_id=identity,
    )


@functools.lru_cache(1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _figure(value: float | None, kind: str) -> float:
    return _NOT_FINITE[kind] if value is None else float(value)


_NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


def _local(utc: datetime | None) -> datetime | None:
    """Return a naive time in UTC as a naive local one; Optuna stores the one and shows the other."""
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def has_newer_trial(database: RDBStorage, study_id: int, last: int) -> bool:
    """Return whether a study has a trial of an id above `last`, by one small query.

    `BaseStorage.get_n_trials` is public, but reads all trials in order to count them.
    """
    with _single_statements(engine_of(database)).connect() as connection:
        return connection.execute(_newer_statement(), {"study": study_id, "last": last}).first() is not None


@functools.cache
def _newer_statement() -> Any:
    from optuna.storages._rdb.models import TrialModel
    from sqlalchemy import bindparam, select

    trials = TrialModel.__table__.c
    asked = (trials.study_id == bindparam("study"), trials.trial_id > bindparam("last"))
    return select(trials.trial_id).where(*asked).limit(1)


def write_step(
    database: RDBStorage, trial: int, key: str, record: Any, step: int | None = None, value: float | None = None
) -> bool | None:
    """Write an attribute of a trial and one intermediate value, in one statement.

    `BaseStorage.set_trial_user_attr` and `set_trial_intermediate_value` are public, but take eleven round trips.

    Args:
        database: PostgreSQL; it alone can do so.
        trial: the trial's id.
        key: the attribute.
        record: what it is set to, plain JSON types.
        step: of the intermediate value; None writes none.
        value: the intermediate value, finite.

    Returns:
        Whether the trial was there and had not ended; nothing was written otherwise. None where the database is another
        one.
    """
    engine = engine_of(database)
    if engine.name != "postgresql":
        return None
    given = {"trial": trial, "key": key, "record": json.dumps(record)}
    if step is not None:
        given |= {"step": step, "value": value}
    with _single_statements(engine).connect() as connection:
        return bool(connection.execute(_step_statement(step is not None), given).scalar_one())


@functools.cache
def _step_statement(with_value: bool) -> Any:
    from optuna.storages._rdb import models
    from sqlalchemy import bindparam, func, literal, select
    from sqlalchemy.dialects.postgresql import insert

    trials, attributes, values = (
        model.__table__
        for model in (models.TrialModel, models.TrialUserAttributeModel, models.TrialIntermediateValueModel)
    )
    finite = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    still_open = [TrialState.RUNNING, TrialState.WAITING]
    there = select(trials.c.trial_id).where(trials.c.trial_id == bindparam("trial"), trials.c.state.in_(still_open))
    found = there.cte("found")

    def upsert(table: Any, keys: list[str], columns: dict[str, Any]) -> Any:
        source = select(found.c.trial_id, *columns.values())
        added = insert(table).from_select(["trial_id", *columns], source)
        changed = {name: added.excluded[name] for name in columns if name not in keys}
        return added.on_conflict_do_update(index_elements=keys, set_=changed).returning(table.c.trial_id)

    record = upsert(
        attributes,
        ["trial_id", "key"],
        {name: bindparam(given, type_=attributes.c[name].type) for name, given in _ATTRIBUTE.items()},
    ).cte("record")
    statement = select(func.count()).select_from(record)
    if with_value:
        columns = {name: bindparam(given, type_=values.c[name].type) for name, given in _VALUE.items()}
        columns["intermediate_value_type"] = literal(finite, type_=values.c.intermediate_value_type.type)
        statement = statement.add_cte(upsert(values, ["trial_id", "step"], columns).cte("value"))
    return statement


_ATTRIBUTE = {"key": "key", "value_json": "record"}
_VALUE = {"step": "step", "intermediate_value": "value"}
"""Columns, and the names of what they are set to."""


@functools.lru_cache(8)
def _single_statements(engine: Engine) -> Engine:
    """Return an engine of the same pool, each of whose statements is committed by itself, in one round trip."""
    return engine.execution_options(isolation_level="AUTOCOMMIT") if engine.name == "postgresql" else engine


def journal_lines_left_out(storage: BaseStorage) -> set[int]:
    """Return the lines that a journal's backend of ours has left out; none for other storages.

    `JournalStorage` is public, but does not give back the backend that it was made with.
    """
    left_out: set[int] = getattr(getattr(storage, "_backend", None), "left_out", set())
    return left_out


def proxy_with_deadlines(host: str, port: int, seconds: float, ready_seconds: float) -> BaseStorage:
    """Return the client of Optuna's proxy, each of whose calls ends after so many seconds.

    Raises `ConnectionError` where no server is ready after `ready_seconds`.

    `optuna.storages.GrpcStorageProxy` is public, but its calls have no deadline: a frozen proxy holds them for ever.
    Its stub is made again over a channel with an interceptor, which gRPC offers for that.
    """
    import grpc
    from optuna.storages import GrpcStorageProxy
    from optuna.storages._grpc.auto_generated import api_pb2_grpc
    from optuna.storages._grpc.client import GrpcClientCache

    class Deadline(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            limited = _Details(
                details.method, seconds, details.metadata, details.credentials, details.wait_for_ready,
                details.compression,
            )  # fmt: skip
            return continuation(limited, request)

    class _Details(
        collections.namedtuple("_Details", "method timeout metadata credentials wait_for_ready compression"),
        grpc.ClientCallDetails,  # type: ignore[misc]
    ):
        pass

    proxy: Any = GrpcStorageProxy(host=host, port=port)
    make_stub: Any = api_pb2_grpc.StorageServiceStub
    proxy._channel = grpc.intercept_channel(proxy._channel, Deadline())
    proxy._stub = make_stub(proxy._channel)
    proxy._cache = GrpcClientCache(proxy._stub)
    proxy.wait_server_ready(timeout=ready_seconds)
    storage: BaseStorage = proxy
    return storage


def says_not_found(error: KeyError) -> bool:
    """Return whether a storage raised an error because a study or a trial is not in it (any more).

    `KeyError` is the documented type, but a storage that reads something malformed raises it too. Storages of databases
    and journals have one text for what is not there, and the proxy's client has none.
    """
    from optuna.storages.journal._storage import NOT_FOUND_MSG

    return error.args in ((), (NOT_FOUND_MSG,))


class NumberedQMCSampler(QMCSampler):
    """Trial n gets the n-th point. The public one counts its questions in the study, also those without a trial."""

    _number = 0

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._number = trial.number
        return super().sample_relative(study, trial, search_space)

    @override
    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


class Tables(NamedTuple):
    """The tables of a database storage that are asked directly, as SQLAlchemy's mapped classes."""

    studies: Any
    study_attributes: Any
    trials: Any
    values: Any
    params: Any
    attributes: Any


def tables() -> Tables:
    """Return Optuna's tables. No public API asks a database for a part of a study."""
    from optuna.storages._rdb import models

    return Tables(
        models.StudyModel,
        models.StudyUserAttributeModel,
        models.TrialModel,
        models.TrialValueModel,
        models.TrialParamModel,
        models.TrialUserAttributeModel,
    )


def add_proxy_service(server: grpc.Server, storage: BaseStorage) -> None:
    """Let a gRPC server serve a storage as Optuna's proxy does.

    `optuna.storages.run_grpc_proxy_server` is public, but it never returns, cannot be stopped, and does not say which
    port it got or that it got none.
    """
    from optuna.storages._grpc.auto_generated import api_pb2_grpc
    from optuna.storages._grpc.servicer import OptunaStorageProxyService

    register: Any = api_pb2_grpc.add_StorageServiceServicer_to_server
    register(OptunaStorageProxyService(storage), server)
