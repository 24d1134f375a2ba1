"""`rankray rehearse` through the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rehearse.conftest import made_config, rows, write_csv

from rankray.store import list_studies, open_study


@pytest.fixture
def search_file(tmp_path: Path) -> Path:
    tree = made_config().model_dump(mode="json", include={"model", "data", "train", "evaluate", "space"})
    tree["study"] = {"trials": 8, "known": ["sft", "paper"]}
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def rehearse(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rankray", "rehearse", *map(str, words)], capture_output=True, text=True
    )


def test_a_table_gives_figures_per_strategy_as_json(search_file: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "runs.csv", rows(made_config()))
    words = ("--table", table, "--slots", 2, "--seeds", 2, "--strategies", "auto,random,tpe", "--json")
    done = rehearse(search_file, *words)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["slots"] == 2
    assert shown["synthetic"] is False
    assert 1.0 < shown["target"] < 2.0
    assert shown["random_median"] >= 1
    assert [each["name"] for each in shown["strategies"]] == ["auto", "random", "tpe"]
    for each in shown["strategies"]:
        assert set(each["found"]) == set(each["chosen"]) == {"median", "p90"}
        assert each["driver_cpu_seconds_per_trial"] > 0
    assert "60 settings, steps 10, 20, 30" in done.stderr


def test_targets_have_their_digits_whatever_a_metric_s_scale_is(search_file: Path, tmp_path: Path) -> None:
    table = [{**row, "eval/nll": row["eval/nll"] * 1e-9} for row in rows(made_config())]
    words = ("--table", write_csv(tmp_path / "runs.csv", table), "--seeds", 1, "--strategies", "random", "--json")
    done = rehearse(search_file, *words)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert all(1e-9 < target < 2e-9 for target in [shown["target"], *shown["targets"].values()])


def test_an_earlier_study_that_is_not_there_is_left_out(search_file: Path, tmp_path: Path) -> None:
    words = ("--set", "study.warm_start=[earlier]", "--store", f"sqlite:///{tmp_path}/none.db", "--worlds", 1)
    done = rehearse(search_file, "--seeds", 1, "--strategies", "file", *words)
    assert done.returncode == 0, done.stderr
    assert "left out of the rehearsal: earlier: store: sqlite:///" in done.stdout


def test_made_up_figures_are_called_synthetic_everywhere(search_file: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    done = rehearse(search_file, "--seeds", 1, "--strategies", "auto", "--plot", plot, "--worlds", 2)
    assert done.returncode == 0, done.stderr
    assert "synthetic: the curves are made up (2 bowls)" in done.stdout
    assert "synthetic 1" in done.stderr
    assert "synthetic 2" not in done.stderr
    assert done.stdout.count("synthetic 0") == 1
    assert "random search finds the target after" in done.stdout
    assert "(synthetic)" in plot.read_text()


def test_a_rehearsal_loads_neither_torch_nor_ray(search_file: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "runs.csv", rows(made_config(), settings=12))
    words = ["rankray", "rehearse", str(search_file), "--table", str(table), "--seeds", "1", "--trials", "4"]
    code = (
        f"import sys; sys.argv = {[*words, '--strategies', 'auto,tpe,random', '--json']!r}\n"
        "from rankray.cli.app import app\n"
        "try: app()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'ray', 'transformers', 'datasets', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_store_that_is_given_is_driven_and_left_as_it_was(search_file: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/real.db"
    for name in ("rehearsal-0123456789ab", "rehearsal-of-mine"):  # what a killed rehearsal left; and a user's own
        with open_study(url, made_config().model_copy(update={"name": name}), lease_seconds=1) as study:
            assert study.next_trial() is not None
    done = rehearse(search_file, "--seeds", 1, "--trials", 4, "--strategies", "random", "--on", url, "--json")
    assert done.returncode == 0, done.stderr
    [shown] = json.loads(done.stdout)["strategies"]
    assert 0 < shown["driver_cpu_seconds_per_report"] < shown["driver_cpu_seconds_per_trial"]
    assert 0 < shown["busy_share"] <= 1
    assert list_studies(url) == ["rehearsal-of-mine"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--table", "missing.csv"), "there is no such file"),
        (("--strategies", "ato"), "did you mean 'auto'"),
        (("--strategies", ","), "--strategies: got ',', which names none; allowed: samplers"),
        (("--table", "a.csv", "--from", "s"), "--table and --from"),
    ],
)
def test_bad_input_ends_with_two(words: tuple[str, ...], says: str, search_file: Path) -> None:
    done = rehearse(search_file, *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_options_without_effect_are_refused(rankray, search_file: Path) -> None:
    alone = rankray("rehearse", str(search_file), "--seconds-per-report", "3", expect=2)
    assert "rehearse: --seconds-per-report changes nothing here; allowed: beside --seconds-per-step; " in alone
    with_table = rankray("rehearse", str(search_file), "--table", "runs.csv", "--reports", "4", expect=2)
    assert "rehearse: --reports changes nothing here; allowed: without --table and --from; " in with_table
