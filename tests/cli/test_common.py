"""What the verbs share."""

import json
import math

import pytest

from rankray.cli.common import print_json


def test_json_has_null_where_there_is_no_number(capsys):
    print_json({"a": [math.nan, (math.inf, 1.5)], "b": {"c": -math.inf, "d": None, "e": "nan", "f": True}})
    assert capsys.readouterr().out == '{"a": [null, [null, 1.5]], "b": {"c": null, "d": null, "e": "nan", "f": true}}\n'


def refuse(name):
    raise AssertionError(f"{name} is no JSON")


def test_train_prints_json_where_a_metric_has_no_error(rankray, tree, tmp_path):
    """One example has none, and weights that are all 0 have no effective share."""
    made = tree(evaluate__max_examples=1, loss__objective="threshold", loss__q=1.0) | {"name": "t"}
    made |= {"storage": str(tmp_path / "runs"), "store": f"sqlite:///{tmp_path}/store.db"}
    (tmp_path / "t.yaml").write_text(json.dumps(made))
    shown = rankray("train", str(tmp_path / "t.yaml"), "--json")
    metrics = json.loads([each for each in shown.splitlines() if each[:1] == "{"][-1], parse_constant=refuse)["metrics"]
    assert metrics["eval/nll"] > 0
    assert metrics["eval/nll_stderr"] is None
    assert metrics["train/effective_share"] is None


@pytest.mark.parametrize(("verb", "link"), [("check", "s"), ("search", "s"), ("train", "s"), ("train", "s/train")])
def test_a_link_in_the_storage_is_refused_before_anything_starts(rankray, tree, tmp_path, verb, link):
    """No link below the storage is followed, so a trial could write nothing; the storage itself may be one."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").symlink_to("elsewhere")
    made = tree() | {"name": "s", "storage": str(tmp_path / "runs"), "store": f"sqlite:///{tmp_path}/store.db"}
    (tmp_path / "t.yaml").write_text(json.dumps(made))
    file = str(tmp_path / "t.yaml")
    assert "is, or lies in, a link" not in rankray("check", file)
    place = tmp_path / "runs" / link
    place.parent.mkdir(exist_ok=True)
    (tmp_path / "other").mkdir()
    place.symlink_to(tmp_path / "other")
    said = rankray(verb, file, expect=2)
    assert f"error: {file}:1: storage: {place}" in said, said
    assert "is, or lies in, a link; allowed: directories of its own below" in said
    assert not (tmp_path / "store.db").exists()


@pytest.mark.parametrize("verb", ["check", "search", "train"])
def test_a_patience_with_a_bucket_that_is_no_number_is_refused_before_anything_starts(
    rankray, tree, tmp_path, monkeypatch, verb
):
    monkeypatch.setenv("RANKRAY_STORAGE_PATIENCE_SECONDS", "soon")
    made = tree() | {"name": "s", "storage": "s3://bucket/runs", "store": f"sqlite:///{tmp_path}/store.db"}
    (tmp_path / "t.yaml").write_text(json.dumps(made))
    said = rankray(verb, str(tmp_path / "t.yaml"), expect=2)
    assert "error: RANKRAY_STORAGE_PATIENCE_SECONDS: got 'soon'; allowed: a number of seconds 0 or more" in said
