"""What an interruption means to `rankray search` once nothing is left to be saved: nothing."""

import json

import pytest
import typer
from search.confirming import run_all

from rankray.cli import search
from rankray.config import load_config
from rankray.errors import SearchFailed

train_all = run_all(lambda params: 1.0, 0.1, "eval/nll")


@pytest.mark.parametrize("cut", ["while Ray ends", "while the summary is printed", "before the last trial"])
def test_an_interruption_after_the_last_trial_changes_no_exit_code(place, monkeypatch, cut):
    def run(study, observer, *, verbose):
        if cut != "before the last trial":
            train_all(study, observer)
        if cut != "while the summary is printed":
            raise KeyboardInterrupt
        return True

    def print_summary(study, file):
        raise KeyboardInterrupt

    monkeypatch.setattr("rankray.search.run_search", run)
    monkeypatch.setattr(search, "print_summary", print_summary)
    loaded = load_config(place.file, ["study.trials=2", "study.known=[]"])
    if cut == "before the last trial":
        with pytest.raises(KeyboardInterrupt):
            search._search(loaded, verbose=False)
    else:
        search._search(loaded, verbose=False)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"wall_hours": 1}, r"ended by study.budget.wall_hours: .*; raise study.budget.wall_hours and run the same"),
        ({"gpu_hours": 1}, r"ended by study.budget.gpu_hours: .*; raise study.budget.gpu_hours"),
    ],
)
def test_a_search_without_a_complete_trial_has_failed(place, monkeypatch, budget, said):
    def run(study, observer, *, verbose):
        with study:
            study.charge({"from": 0, "to": 7200, "gpu_seconds": 7200, "nodes": {}})
            study.note_end()
        return study.done

    monkeypatch.setattr("rankray.search.run_search", run)
    loaded = load_config(place.file, ["study.trials=2", f"study.budget={json.dumps(budget)}"])
    for _ in range(2):  # run again, it still has no result
        with pytest.raises(SearchFailed, match=rf"no trial is complete, so there is no result .*{said}") as failed:
            search._search(loaded, verbose=False)
        assert failed.value.exit_code == 1


def test_an_interrupted_search_says_how_to_resume(place, monkeypatch, capsys):
    monkeypatch.setattr("rankray.search.run_search", lambda study, observer, verbose: False)
    with pytest.raises(typer.Exit) as end:
        search._search(load_config(place.file, ["study.trials=2"]), verbose=False)
    assert end.value.exit_code == 130
    assert (
        "interrupted at 0 of 2 finished trials; nothing is lost: run the same command again" in capsys.readouterr().out
    )


@pytest.mark.parametrize(("directory", "why"), [("a.txt", "is no directory"), ("a.txt/below", "is no directory")])
def test_a_quickstart_where_nothing_can_be_made(rankray, tmp_path, directory, why):
    (tmp_path / "a.txt").write_text("")
    said = rankray("quickstart", "--directory", str(tmp_path / directory), expect=2)
    assert f"quickstart: --directory {tmp_path / directory}: cannot be made or written to" in said
    assert why in said
