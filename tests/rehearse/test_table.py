"""Recorded tables, as csv and parquet, and what is wrong with them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankray.config import Config
from rankray.errors import UserError
from rankray.rehearse.table import read_table, table_of_trials
from rehearse.conftest import STEPS, made_config, rows, write_csv


def test_csv_and_parquet_say_the_same(file: Path, config: Config) -> None:
    import pyarrow
    import pyarrow.parquet

    listed = [{key: None if value == "" else value for key, value in row.items()} for row in rows(config)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(listed), file.with_suffix(".parquet"))
    one, other = read_table(file, config), read_table(file.with_suffix(".parquet"), config)
    assert (one.steps, one.metrics) == (STEPS, ("eval/nll", "eval/accuracy"))
    assert one.settings == other.settings
    assert len(one.settings) == 60
    assert all(runs.shape == (2, 3, 2) for runs in one.curves)
    np.testing.assert_allclose(one.means, other.means)
    assert all(("loss.temperature" in params) == (params["loss.objective"] == "rri") for params in one.settings)


def test_pairs_of_seeds_are_as_large_as_the_noise_of_one_run(file: Path, config: Config) -> None:
    table = read_table(file, config)
    pairs = table.pairs()
    assert len(pairs) == 60
    index, noise = pairs[7]
    np.testing.assert_allclose(noise, (table.curves[index][0] - table.curves[index][1]) / math.sqrt(2))


def test_values_are_read_as_the_field_s_own(tmp_path: Path, config: Config) -> None:
    space = {
        "loss.max_scale": {"choice": [None, 4.0]},
        "train.batch_size": {"int": [8, 64]},
        "train.sft.packing": {"choice": [True, False]},
    }
    config = Config.model_validate({**config.model_dump(mode="json"), "space": space})
    table = [
        {"loss.max_scale": "" if n % 2 else "4", "train.batch_size": f"{8 + n}.0", "train.sft.packing": str(n % 3 == 0),
         "seed": 1, "step": 10, "eval/nll": n, "note": "ignored"}
        for n in range(10)
    ]  # fmt: skip
    found = read_table(write_csv(tmp_path / "a.csv", table), config)
    assert found.settings[0] == {"loss.max_scale": 4.0, "train.batch_size": 8, "train.sft.packing": True}
    assert found.settings[1] == {"loss.max_scale": None, "train.batch_size": 9, "train.sft.packing": False}
    assert found.metrics == ("eval/nll",)
    assert found.pairs() == []


def test_what_diverged_is_as_bad_as_the_worst(tmp_path: Path, config: Config) -> None:
    table = rows(config, settings=12)
    table[2]["eval/nll"] = table[2]["eval/accuracy"] = "nan"
    found = read_table(write_csv(tmp_path / "a.csv", table), config)
    last = np.concatenate([runs[:, -1] for runs in found.curves])
    assert found.curves[0][0, -1, 0] == last[:, 0].max() == max(row["eval/nll"] for row in table if row is not table[2])
    assert found.curves[0][0, -1, 1] == last[:, 1].min()


def test_runs_that_lack_a_step_and_settings_outside_the_space_are_left_out(tmp_path: Path, config: Config) -> None:
    table = rows(config, settings=12)[:-1]
    table += [{**row, "train.learning_rate": 0.5} for row in table[:3]]
    found = read_table(write_csv(tmp_path / "a.csv", table), config)
    assert found.left_out == 2
    assert sum(len(runs) for runs in found.curves) == 23


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda rows: [{k: v for k, v in row.items() if k != "loss.temperature"} for row in rows],
            "no field loss.temp",
        ),
        (
            lambda rows: [{("sed" if k == "seed" else k): v for k, v in row.items()} for row in rows],
            "did you mean 'sed'",
        ),
        (lambda rows: [{k: v for k, v in row.items() if k != "eval/nll"} for row in rows], "no metric eval/nll"),
        (lambda rows: rows[:12], "has 2 settings that the space can propose"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(change: Any, says: str, tmp_path: Path, config: Config) -> None:
    file = write_csv(tmp_path / "a.csv", change(rows(config, settings=12)))
    with pytest.raises(UserError) as caught:
        read_table(file, config)
    assert says in str(caught.value)
    assert str(caught.value).startswith("rehearse: ")


@pytest.mark.parametrize(
    ("name", "says"), [("none.csv", "there is no such file"), ("a.txt", "allowed: .csv, .parquet")]
)
def test_a_file_that_is_no_table(name: str, says: str, tmp_path: Path, config: Config) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.parquet").write_text("x")
    with pytest.raises(UserError, match=says):
        read_table(tmp_path / name, config)
    with pytest.raises(UserError, match="is no parquet file"):
        read_table(tmp_path / "b.parquet", config)


def test_a_study_s_complete_trials_make_a_table() -> None:
    config = made_config()

    def trial(number: int, state: str) -> dict[str, Any]:
        steps = [{"step": step, "metrics": {"eval/nll": number + 1 / step}} for step in STEPS]
        params = {"loss.objective": "sft", "train.learning_rate": 1e-3 + number * 1e-4}
        return {"number": number, "state": state, "params": params, "steps": steps}

    trials = [trial(number, "complete") for number in range(9)] + [trial(9, "pruned")]
    table = table_of_trials(trials, config)
    assert (len(table.settings), table.steps, table.metrics) == (9, STEPS, ("eval/nll",))
    with pytest.raises(UserError, match="no complete trial"):
        table_of_trials(trials[-1:], config)


def written(table: list[dict[str, Any]], file: Path, **options: Any) -> Path:
    """Write rows with pandas, as a data frame of nullable columns."""
    import pandas

    frame = pandas.DataFrame([{key: None if value == "" else value for key, value in row.items()} for row in table])
    (frame.to_parquet if file.suffix == ".parquet" else frame.to_csv)(file, **options)
    return file


def test_what_pandas_writes_is_read(tmp_path: Path, config: Config) -> None:
    """Index columns, categories (dictionary-encoded), float32, nullable integers with a gap, seeds as texts."""
    import pandas

    table = rows(config)
    expected = read_table(write_csv(tmp_path / "expected.csv", table), config)
    frame = pandas.DataFrame([{key: None if value == "" else value for key, value in row.items()} for row in table])
    frame["loss.objective"] = frame["loss.objective"].astype("category")
    frame["step"], frame["note"] = frame["step"].astype("Int64"), "unknown"
    frame["train.learning_rate"] = frame["train.learning_rate"].astype("float32")
    frame["seed"] = frame["seed"].map("seed-{}".format)
    frame.set_index(["seed", "step"]).to_parquet(tmp_path / "a.parquet")
    frame.to_parquet(tmp_path / "b.parquet", index=True)
    frame.to_csv(tmp_path / "c.csv")
    for name in ("a.parquet", "b.parquet", "c.csv"):
        found = read_table(tmp_path / name, config)
        assert [each["loss.objective"] for each in found.settings] == [e["loss.objective"] for e in expected.settings]
        np.testing.assert_allclose(found.means, expected.means)
        assert found.left_out == 0


def test_float32_ends_of_a_range_are_in_it(tmp_path: Path, config: Config) -> None:
    table = [
        {**row, "train.learning_rate": np.float32(1e-4), "seed": index // len(STEPS)}
        for index, row in enumerate(rows(config, settings=30))
    ]
    file = written(table, tmp_path / "a.parquet")
    assert {each["train.learning_rate"] for each in read_table(file, config).settings} == {1e-4}


def test_a_row_that_is_there_twice_counts_once_and_a_contradiction_is_said(tmp_path: Path, config: Config) -> None:
    table = rows(config, settings=12)
    once = read_table(write_csv(tmp_path / "a.csv", table), config)
    halves = [{**row, "eval/nll": ""} for row in table] + [{**row, "eval/accuracy": ""} for row in table]
    twice = read_table(write_csv(tmp_path / "b.csv", table + halves), config)
    np.testing.assert_array_equal(once.means, twice.means)
    other = [{**row, "lora_rank": 8} for row in table] + [{**table[1], "lora_rank": 16, "eval/nll": 9.5}]
    with pytest.raises(UserError, match=r"rows 2 and 73 are of the same .* .they differ in lora_rank, which the space"):
        read_table(write_csv(tmp_path / "c.csv", other), config)


def test_of_a_fixed_field_that_varies_the_file_s_own_value_counts(tmp_path: Path, config: Config) -> None:
    table = [{**row, "train.weight_decay": 0.0} for row in rows(config, settings=12)]
    own = read_table(write_csv(tmp_path / "a.csv", table), config)
    more = [{**row, "train.weight_decay": 0.1, "eval/nll": 0.0} for row in table]
    found = read_table(write_csv(tmp_path / "b.csv", table + more), config)
    np.testing.assert_array_equal(found.means, own.means)
    assert found.left_out == 24
    others = [{**row, "train.weight_decay": 0.2} for row in table] + more
    with pytest.raises(UserError, match=r"train.weight_decay is 0.1, 0.2 there, 0.0 in the file, and not searched"):
        read_table(write_csv(tmp_path / "c.csv", others), config)


def test_the_field_of_the_seed_beside_the_seed_makes_no_settings(tmp_path: Path, config: Config) -> None:
    table = [{**row, "train.seed": row["seed"]} for row in rows(config, settings=12)]
    read = read_table(write_csv(tmp_path / "a.csv", table), config)
    assert (len(read.settings), len(read.pairs()), read.left_out) == (12, 12, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": ""}, "step is '' in row 4"),
        ({"step": "10.5"}, "step is '10.5' in row 4"),
        ({"step": "inf"}, "step is 'inf' in row 4"),
        ({"step": "-1"}, "step is '-1' in row 4"),
        ({"seed": "nan"}, "seed is empty in row 4"),
        ({"eval/nll": "1.5 nats"}, "eval/nll is '1.5 nats' in row 4; allowed: a number with a point"),
    ],
)
def test_a_cell_that_makes_no_sense_is_named(change: Any, says: str, tmp_path: Path, config: Config) -> None:
    table = rows(config, settings=12)
    table[3] |= change
    with pytest.raises(UserError, match=says):
        read_table(write_csv(tmp_path / "a.csv", table), config)


def test_why_settings_are_outside_is_said(tmp_path: Path, config: Config) -> None:
    table = [{**row, "train.learning_rate": 0.5} for row in rows(config, settings=12)]
    with pytest.raises(UserError, match=r"18 runs that it cannot \(train.learning_rate is '0.5' in row 1\); needed: 8"):
        read_table(write_csv(tmp_path / "a.csv", table), config)


def test_each_of_several_metrics_must_be_there(tmp_path: Path) -> None:
    config = made_config(metrics=["eval/nll", "eval/accuracy"])
    table = rows(config, settings=12)
    assert len(read_table(write_csv(tmp_path / "a.csv", table), config).settings) == 12
    lacking = [{key: value for key, value in row.items() if key != "eval/accuracy"} for row in table]
    with pytest.raises(UserError, match="no metric eval/accuracy"):
        read_table(write_csv(tmp_path / "b.csv", lacking), config)
    empty = [{**row, "eval/accuracy": "nan"} for row in table]
    with pytest.raises(UserError, match="has no number in the column eval/accuracy"):
        read_table(write_csv(tmp_path / "c.csv", empty), config)


def test_trials_of_another_space_count_as_far_as_this_one_has_them() -> None:
    config = made_config()
    fixed = made_config().model_copy(update={"loss": config.loss.model_copy(update={"objective": "sft"})})

    def trial(number: int, rate: float, nll: float | None = 1.0, state: str = "complete") -> dict[str, Any]:
        steps = [{"step": step, "metrics": {"eval/nll": nll and nll + 1 / step}} for step in STEPS]
        return {"number": number, "state": state, "params": {"train.learning_rate": rate}, "steps": steps}

    good = [trial(number, 1e-3 + number * 1e-4) for number in range(8)]
    bad = [trial(8, 1e-2, None, "failed"), trial(9, 1e-3, 1.0, "failed"), trial(10, 0.5)]
    found = table_of_trials(good + bad, config, fixed)
    assert (len(found.settings), found.left_out) == (9, 1)
    assert all(params["loss.objective"] == "sft" for params in found.settings)
    with pytest.raises(UserError, match="the study's trials have no metric eval/accuracy"):
        table_of_trials(good, made_config(metric="eval/accuracy"), fixed)
