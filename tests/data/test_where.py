from datetime import date, datetime

import pytest

from rankray.data.files import Rows, place_of
from rankray.data.where import chosen
from rankray.errors import DataError

TABLE = Rows(
    [
        {"score": "0.7", "flag": "true", "lang": "en"},
        {"score": "", "flag": "false", "lang": "de"},
        {"score": "n/a", "flag": " True", "lang": "en"},
        {"score": "0.20", "flag": "1", "lang": "3"},
        {"score": None, "flag": None, "lang": None},
    ],
    "a.csv",
    "line",
    [2, 3, 4, 5, 9],
)
"""As a .csv file has it: all values are text."""


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ({"score": 0.7}, [0]),
        ({"score": [0.2, 0.7]}, [0, 3]),
        ({"score": "0.7"}, [0]),
        ({"score": "0.2"}, []),
        ({"score": "== 0.2"}, [3]),
        ({"score": "!= 0.2"}, [0, 1, 2]),
        ({"score": ">= 0.2"}, [0, 3]),
        ({"score": "> 0.2"}, [0]),
        ({"score": "<= 0.7"}, [0, 3]),
        ({"score": "< 0.7"}, [3]),
        ({"score": None}, [4]),
        ({"flag": True}, [0, 2]),
        ({"flag": False}, [1]),
        ({"flag": 1}, [3]),
        ({"lang": "en"}, [0, 2]),
        ({"lang": 3}, [3]),
        ({"lang": ["de", 3]}, [1, 3]),
        ({"lang": "== en"}, [0, 2]),
        ({"lang": "!= en"}, [1, 3]),
        ({"lang": "> d"}, [0, 1, 2]),
        ({"lang": "en", "score": ">= 0"}, [0]),
    ],
)
def test_texts_are_compared_as_what_they_write(condition, kept):
    rows = chosen(TABLE, condition, "x")
    assert rows == [TABLE[index] for index in kept]
    assert [place_of(rows, index) for index in range(len(rows))] == [place_of(TABLE, index) for index in kept]


def test_values_with_types_keep_them():
    rows = Rows([{"n": 1}, {"n": 1.5}, {"n": True}, {"n": "x"}, {"n": 2**60 + 1}])
    assert chosen(rows, {"n": 1}, "x") == [{"n": 1}, {"n": True}]
    assert chosen(rows, {"n": "== 1.5"}, "x") == [{"n": 1.5}]
    assert chosen(rows, {"n": f"== {2**60 + 1}"}, "x") == [{"n": 2**60 + 1}]
    assert chosen(rows, {"n": f"> {2**60}"}, "x") == [{"n": 2**60 + 1}]


def test_dates_in_text_are_compared_with_a_year():
    rows = Rows([{"day": "2019-12-31"}, {"day": "2020-01-05"}])
    assert chosen(rows, {"day": ">= 2020"}, "x") == [{"day": "2020-01-05"}]


def test_dates_of_a_table_are_compared_with_their_text():
    days = [{"day": date(2019, 12, 31)}, {"day": datetime(2020, 1, 5, 12)}, {"day": None}]
    assert chosen(Rows(days), {"day": "2019-12-31"}, "x") == days[:1]
    assert chosen(Rows(days), {"day": ">= 2020-01-05"}, "x") == days[1:2]


@pytest.mark.parametrize("sign", [">", ">=", "<", "<=", "==", "!="])
def test_a_comparison_with_nothing_is_refused(sign):
    with pytest.raises(DataError, match=rf"^x: data.where.score: '{sign} ' compares with nothing; .*; add it$"):
        chosen(TABLE, {"score": f"{sign} "}, "x")


def test_a_column_that_no_row_has_is_refused_where_it_must_exist():
    with pytest.raises(DataError, match=r"^x: data.where names no column 'scor' .did you mean 'score'\?.; columns are"):
        chosen(TABLE, {"scor": 1}, "x")
    assert chosen(TABLE, {"scor": 1}, "x", must_exist=False) == []
    assert chosen(Rows(), {"scor": 1}, "x") == []
