from rankray.data.lengths import Length, length_table, table_lines


def test_the_table_counts_what_cutting_takes():
    lengths = [Length(10, 4, 4), Length(30, 12, 2), Length(25, 3, 0), Length(5, 0, 0)]
    table = length_table(lengths, limit=20)
    assert table.as_json() == {
        "rows": 4, "supervised_tokens": 6, "cut": 2, "lost": 2, "cut_tokens": 13,
        "median": 10, "p95": 30, "longest": 30, "limit": 20,
    }  # fmt: skip


def test_quantiles_are_values_that_occur():
    table = length_table([Length(n, 1, 1) for n in range(1, 101)], limit=1000)
    assert (table.median, table.p95, table.longest) == (50, 95, 100)
    assert length_table([], limit=3).longest == 0


def test_lines_are_aligned():
    table = length_table([Length(7, 3, 3)], limit=9)
    head, row = table_lines({"data.train": table})
    assert len(head) == len(row)
    assert row.split() == ["data.train", "1", "3", "0", "0", "7", "7", "7", "9"]
    assert table_lines({}) == []
    head, *rows = table_lines({"data.train": table, "also": length_table([Length(1234, 3, 3)], limit=9)})
    assert {len(head), *map(len, rows)} == {len(head)}
    assert rows[1].startswith("also      ")
    assert [row.index("  1234") for row in rows[1:]] == [rows[0].index("     7")], "numbers end below each other"


def test_advice_on_cut_rows_fits_the_models_context():
    table = length_table([Length(700, 300, 112)], limit=512)
    assert "raise data.max_length (up to the model's context), or" in table.warning("train")
    assert "raise data.max_length (up to the model's context, 1,024), or" in table.warning("train", 1024)
    said = table.warning("train", 512)
    assert said.endswith("; that is the model's context; shorten the rows, or take another model")
    assert "raise" not in said


def test_rows_as_long_as_the_limit_are_not_cut():
    table = length_table([Length(512, 300, 300)] * 9, limit=512)
    assert (table.cut, table.lost, table.warning("train")) == (0, 0, "")


def test_a_row_that_keeps_nothing_is_said_however_many_there_are():
    whole, cut, lost = Length(5, 3, 3), Length(9, 3, 2), Length(9, 3, 0)
    assert length_table([whole] * 95 + [cut] * 5, limit=8).warning("eval") == ""
    said = length_table([whole] * 94 + [cut] * 6, limit=8).warning("eval")
    assert said.startswith("data.max_length: 6 of 100 rows of data.eval lose their end at 8 tokens; 9 tokens would fit")
    said = length_table([whole] * 99 + [lost], limit=8).warning("eval")
    assert (
        "1 of 100 rows of data.eval lose their end at 8 tokens, and 1 rows keep nothing to train on; 5 tokens" in said
    )


def test_rows_without_a_token_to_train_on_are_not_called_too_long():
    said = length_table([Length(5, 3, 3), Length(4, 0, 0)], limit=8).warning("train")
    assert said.startswith("data.train: 1 of 2 rows have no token to train on and are left out")
    assert "max_length" not in said
