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
