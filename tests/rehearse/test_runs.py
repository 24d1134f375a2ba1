"""Which runs of foreign tables count: unequal ones, pruned ones, diverged ones, those with gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankray.config import Config
from rankray.errors import UserError
from rankray.rehearse.runs import metric_direction
from rankray.rehearse.table import read_table
from rehearse.conftest import STEPS, rows, write_csv

Rows = list[dict[str, Any]]
LAST = STEPS[-1]


def runs_of(table: Rows) -> list[Rows]:
    return [table[begin : begin + len(STEPS)] for begin in range(0, len(table), len(STEPS))]


def test_a_table_of_a_pruned_search_ends_where_its_whole_runs_end(tmp_path: Path, config: Config) -> None:
    """Two thirds of the runs stop at the first step: the world must not end there, at an early figure."""
    runs = runs_of(rows(config, settings=30, seeds=1))
    table = [row for index, run in enumerate(runs) for row in (run if index % 3 == 0 else run[:1])]
    found = read_table(write_csv(tmp_path / "a.csv", table), config)
    assert (found.steps, len(found.settings), found.left_out) == (STEPS, 10, 20)


def test_a_run_that_goes_on_longer_than_the_others_ends_with_them(tmp_path: Path, config: Config) -> None:
    table = rows(config, settings=12)
    table += [{**table[2], "step": step, "eval/nll": 0.1} for step in (40, 50)]
    found = read_table(write_csv(tmp_path / "a.csv", table), config)
    assert (found.steps, len(found.settings), found.left_out) == (STEPS, 12, 0)


def test_last_steps_alone_are_enough(tmp_path: Path, config: Config) -> None:
    table = [row for row in rows(config, settings=12) if row["step"] == LAST]
    found = read_table(write_csv(tmp_path / "a.csv", table), config)
    assert (found.steps, found.means.shape) == ((LAST,), (12, 1, 2))


@pytest.mark.parametrize("how", ["nan", "stops with nan", "stops with nothing", "inf"])
def test_a_run_that_diverged_is_a_bad_run_however_it_is_written(how: str, tmp_path: Path, config: Config) -> None:
    table = rows(config, settings=12)
    worst = max(row["eval/nll"] for row in table[6:])
    stopped = "stops" in how
    for row in table[1:3]:
        row["eval/nll"] = row["eval/accuracy"] = "" if "nothing" in how else how.split()[-1]
    found = read_table(write_csv(tmp_path / "a.csv", [*table[:2], *table[2 + stopped :]]), config)
    assert found.left_out == 0
    assert found.curves[0][0, -1, 0] == worst
    assert found.curves[0][0, 0, 0] == table[0]["eval/nll"]


def test_a_metric_that_is_measured_at_the_end_alone_tells_nothing_before(tmp_path: Path, config: Config) -> None:
    table = [{**row, "eval/accuracy": row["eval/accuracy"] if row["step"] == LAST else ""} for row in rows(config)]
    found = read_table(write_csv(tmp_path / "a.csv", table), config)
    assert found.steps == STEPS
    before, last = found.means[:, :-1, 1], found.means[:, -1, 1]
    assert len(np.unique(before)) == 1
    assert len(np.unique(last)) == 60


def test_rows_of_what_a_search_does_not_read_are_no_steps(tmp_path: Path, config: Config) -> None:
    """A log has a training loss every few steps and an evaluation now and then: an evaluation is what is reported."""
    log = [{**row, "train/loss": 1.0} for row in rows(config)]
    log += [{**row, "step": row["step"] - 5, "eval/nll": "", "eval/accuracy": ""} for row in log]
    log += [{**row, "step": LAST + 5, "eval/nll": "", "eval/accuracy": ""} for row in log if row["step"] == LAST]
    found = read_table(write_csv(tmp_path / "a.csv", log), config)
    assert (found.steps, found.metrics) == (STEPS, ("eval/nll", "eval/accuracy", "train/loss"))


def test_a_metric_of_a_few_runs_is_none(tmp_path: Path, config: Config) -> None:
    table = [{**row, "eval/math/accuracy": 0.5 if index < 9 else ""} for index, row in enumerate(rows(config))]
    assert read_table(write_csv(tmp_path / "a.csv", table), config).metrics == ("eval/nll", "eval/accuracy")


def test_no_common_end_is_said(tmp_path: Path, config: Config) -> None:
    runs = runs_of(rows(config, settings=14, seeds=1))
    table = [{**row, "step": row["step"] + index} for index, run in enumerate(runs) for row in run]
    with pytest.raises(UserError, match=r"has 14 settings .* but no step at which so many have .* needed: 8"):
        read_table(write_csv(tmp_path / "a.csv", table), config)


def test_steps_need_not_be_evenly_apart(tmp_path: Path, config: Config) -> None:
    table = [{**row, "step": {10: 3, 20: 17, 30: 400}[row["step"]]} for row in rows(config)]
    assert read_table(write_csv(tmp_path / "a.csv", table), config).steps == (3, 17, 400)


def test_the_direction_of_a_metric_is_the_study_s_or_its_own(config: Config) -> None:
    names = ("eval/nll", "eval/arc/accuracy", "eval/pass@4", "train/loss", "eval/bits_per_byte", "eval/mine")
    found = [metric_direction(name, config) for name in names]
    assert found == ["minimize", "maximize", "maximize", "minimize", "minimize", "maximize"]


def test_which_runs_make_a_pair_does_not_depend_on_the_order_of_rows(tmp_path: Path, config: Config) -> None:
    """Seeds may be numbers, of which 10 comes after 2, or names."""
    for name in ("{}", "run {}"):
        runs = runs_of([{**row, "seed": name.format(row["seed"])} for row in rows(config, settings=12, seeds=12)])
        first = read_table(write_csv(tmp_path / "a.csv", [row for run in runs for row in run]), config)
        mixed = [runs[at] for at in np.random.default_rng(0).permutation(len(runs))]
        other = read_table(write_csv(tmp_path / "b.csv", [row for run in mixed for row in run]), config)
        curves = dict(zip(map(str, other.settings), other.curves, strict=True))
        for setting, expected in zip(first.settings, first.curves, strict=True):
            np.testing.assert_array_equal(curves[str(setting)], expected)
        if name == "{}":
            assert [run[0, 0] for run in first.curves[0]] == [run[0]["eval/nll"] for run in runs[:12]]
