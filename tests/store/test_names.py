from __future__ import annotations

import sqlite3

from rankray.store import list_studies, open_study
from rankray.store.confirmation import decisions
from rankray.store.warm import check_before
from store.helpers import drive, make_config


def test_what_is_malformed_of_one_study_hinders_no_other(sqlite_url: str) -> None:
    drive(open_study(sqlite_url, make_config(name="good", study={"trials": 2})))
    bad = open_study(sqlite_url, make_config(name="bad"))
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        change = "UPDATE study_user_attributes SET value_json = '{oops' WHERE study_id = ? AND key = 'rankray:trials'"
        assert connection.execute(change, (bad.study_id,)).rowcount == 1
    assert list_studies(sqlite_url) == ["bad", "good"]
    new = make_config(name="new", study={"warm_start": ["good"], "trials": 2}, store=sqlite_url)
    check_before(new)
    drive(open_study(sqlite_url, new))
    confirmation = make_config(name="good.confirm")
    assert decisions(sqlite_url, confirmation, create=False) is None
    assert decisions(sqlite_url, confirmation) is not None
