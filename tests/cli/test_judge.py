"""`rankray evaluate` and `rankray diagnose`, as a person calls them."""

import json
from pathlib import Path

import pytest
import yaml

from rankray.config import load_config
from rankray.loss import WEIGHTS
from rankray.model.export import export_model
from rankray.report.explain import best_yaml


@pytest.fixture
def file(tree, tmp_path, data_file):
    tree = tree(evaluate__metrics=["nll", "accuracy", "avg@2"], evaluate__max_new_tokens=3, data__test=str(data_file))
    tree |= {"name": "judged", "storage": str(tmp_path / "runs"), "store": f"sqlite:///{tmp_path / 'store.db'}"}
    made = tmp_path / "judged.yaml"
    made.write_text(yaml.safe_dump(tree))
    return made


def last(printed):
    return json.loads([line for line in printed.splitlines() if line.startswith("{")][-1])


def test_a_checkpoint_has_the_metrics_that_training_reported(rankray, file, tmp_path):
    trained = last(rankray("train", str(file), "--json"))
    found = last(rankray("evaluate", trained["checkpoint"], "--json"))["metrics"]
    assert found.keys() == {"eval/nll", "eval/accuracy", "eval/avg@2"}
    for name, each in found.items():
        assert each["value"] == pytest.approx(trained["metrics"][name], rel=1e-6)
        assert each["n"] == 10
        assert each["stderr"] is not None
    assert (
        last(rankray("evaluate", trained["checkpoint"], "--split", "test", "--json"))["metrics"]["eval/accuracy"]["n"]
        == 24
    )
    assert (
        last(rankray("evaluate", trained["checkpoint"], str(file), "--set", "evaluate.max_examples=3", "--json"))[
            "metrics"
        ]["eval/accuracy"]["n"]
        == 3
    )
    assert "± standard error" in rankray("evaluate", trained["checkpoint"])
    exported = tmp_path / "exported"
    config = load_config(file).config
    export_model(Path(trained["checkpoint"]), exported, config)
    (exported / "rankray.yaml").write_text(best_yaml(config, {}))
    assert last(rankray("evaluate", str(exported), "--json"))["metrics"] == found
    words = ("--split", "test", "--set", "evaluate.metrics=[nll]", "--json")
    assert last(rankray("evaluate", str(exported), *words))["metrics"]["eval/nll"]["n"] == 24
    (exported / "rankray.yaml").write_text(best_yaml(config, {"model.trust_remote_code": True}))
    assert "read that code, then give the file" in rankray("evaluate", str(exported), expect=2)


def test_the_untrained_model_is_evaluated_with_a_file(rankray, file, model_dir):
    assert last(rankray("evaluate", str(model_dir), str(file), "--json"))["metrics"]["eval/nll"]["value"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["./nowhere"], "evaluate: no directory './nowhere'; allowed is a checkpoint"),
        (["MODEL"], "does not say what it was trained with; allowed is a checkpoint of this version"),
        (["MODEL", "FILE", "--split", "train"], "evaluate --split: got 'train'; allowed: eval, test"),
        (["MODEL", "FILE", "--set", "data.test=null", "--split", "test"], "data.test: there is none; allowed is"),
    ],
)
def test_what_cannot_be_evaluated_is_said(rankray, file, model_dir, words, said):
    words = [{"MODEL": str(model_dir), "FILE": str(file)}.get(word, word) for word in words]
    assert said in rankray("evaluate", *words, expect=2)


def test_diagnose_prints_every_objective_and_writes_a_page(rankray, file, tmp_path):
    found = last(rankray("diagnose", str(file), "--noise-rate", "0.05", "--json"))
    assert found["objectives"].keys() == WEIGHTS.keys()
    assert {"precision_top10", "recall_top10", "sequence_hit_rate"} <= found["objectives"]["rri"].keys()
    assert "times chance" in rankray("diagnose", str(file), "--noise-rate", "0.05", "-o", str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert "--noise: got" in rankray("diagnose", str(file), "--noise", "typos", expect=2)


def test_tasks_of_the_harness_need_its_package(rankray, file, model_dir, monkeypatch):
    from rankray.evaluate import harness

    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    assert "needs the package lm-eval" in rankray(
        "evaluate", str(model_dir), str(file), "--tasks", "arc_easy", expect=2
    )
