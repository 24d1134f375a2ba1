"""A new trial on PostgreSQL, in two statements.

The columns are those of Optuna's tables (`optuna_private.tables`), of the version that is named there.
"""

from __future__ import annotations

import json
from datetime import UTC

from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from rankray.store.optuna_private import engine_of


def create_running(database: RDBStorage, study_id: int, template: FrozenTrial) -> int | None:
    """Create a running trial with its parameters and attributes, and return its id.

    `BaseStorage.create_new_trial` is public, but takes three statements and more for each parameter and attribute. As
    there, the study's row is locked while the trial gets its number, the count of the trials before it.

    Args:
        database: PostgreSQL; it alone can do so.
        study_id: the study.
        template: the trial; it runs, and has no values yet.

    Returns:
        None where the database is another one, or there is no such study: nothing was written.
    """
    from sqlalchemy import text

    engine = engine_of(database)
    if engine.name != "postgresql":
        return None
    assert template.state == TrialState.RUNNING
    assert template.values is None
    assert not template.intermediate_values
    kinds = template.distributions
    params = [
        [name, kinds[name].to_internal_repr(value), distribution_to_json(kinds[name])]
        for name, value in template.params.items()
    ]
    user, system = (
        json.dumps([[key, json.dumps(value)] for key, value in each.items()])
        for each in (template.user_attrs, template.system_attrs)
    )
    start = None if template.datetime_start is None else template.datetime_start.astimezone(UTC).replace(tzinfo=None)
    given = {"study": study_id, "start": start, "params": json.dumps(params), "user": user, "system": system}
    with engine.begin() as connection:
        lock = text("SELECT study_id FROM studies WHERE study_id = :study FOR UPDATE")
        if connection.execute(lock, given).first() is None:
            return None
        created: int = connection.execute(text(_CREATE), given).scalar_one()
        return created


_CREATE = """
WITH created AS (
    INSERT INTO trials (study_id, number, state, datetime_start)
    VALUES (:study, (SELECT count(*) FROM trials WHERE study_id = :study), 'RUNNING', :start) RETURNING trial_id
), params AS (
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT trial_id, each ->> 0, CAST(each ->> 1 AS double precision), each ->> 2
    FROM created, json_array_elements(CAST(:params AS json)) WITH ORDINALITY AS listed(each, place) ORDER BY place
), attributes AS (
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT trial_id, each ->> 0, each ->> 1 FROM created, json_array_elements(CAST(:user AS json)) AS listed(each)
), marks AS (
    INSERT INTO trial_system_attributes (trial_id, key, value_json)
    SELECT trial_id, each ->> 0, each ->> 1 FROM created, json_array_elements(CAST(:system AS json)) AS listed(each)
)
SELECT trial_id FROM created
"""
