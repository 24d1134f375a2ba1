"""Which studies a store holds. Nothing that is stored of them is read, where the store can be asked for names alone."""

from __future__ import annotations

from rankray.store import optuna_private
from rankray.store.backend import RetryingStorage
from rankray.store.migrate import CONFIG
from rankray.store.stored import reading


def study_names(storage: RetryingStorage) -> list[str]:
    """Return the names of all studies. A database is asked for them alone: what else it holds may be malformed."""
    if storage.database is None:
        with reading("list"):
            return sorted(study.study_name for study in storage.get_all_studies() if CONFIG in study.user_attrs)
    from sqlalchemy import select

    found = optuna_private.tables()
    asked = (
        select(found.studies.study_name)
        .join(found.study_attributes, found.study_attributes.study_id == found.studies.study_id)
        .where(found.study_attributes.key == CONFIG)
    )
    return sorted(str(row[0]) for row in storage.ask(asked))
