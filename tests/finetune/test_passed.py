"""What passed is remembered as long as nothing that decides on it has changed."""

import os
import sys
import time

import pytest

from rankray.config import config_from, load_config
from rankray.data.left_out import LeftOut
from rankray.data.lengths import LengthTable
from rankray.errors import ConfigError
from rankray.finetune import passed
from rankray.finetune.preflight import Findings, preflight

TABLE = LengthTable(rows=9, supervised_tokens=90, cut=1, lost=0, cut_tokens=3, median=20, p95=30, longest=40, limit=39)
PRINTS = {"data": {"train": "sha256:a", "eval": "sha256:b"}, "model": "sha256:c", "model_files": "sha256:d"}


def made(tree, **changes):
    """Return a configuration's tree with changes of whole sections, or of a field in one."""
    whole = {name: value for name, value in changes.items() if "__" not in name}
    return tree(**{name: value for name, value in changes.items() if name not in whole}) | whole


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKRAY_CACHE", str(tmp_path / "cache"))


def test_what_was_found_comes_back(tree):
    key = passed.key_of(config_from(tree()), PRINTS)
    assert passed.recall(key) is None
    left_out = {"data.train": LeftOut(11, {"with no turns": (2, "t.jsonl:3")})}
    found = Findings(data={"train": TABLE}, left_out=left_out, notes=["4 GB"], warnings=["short"], unseen=["adapters"])
    passed.remember(key, found)
    assert passed.recall(key) == found
    assert passed.recall(key + "0") is None


@pytest.mark.parametrize(
    "change",
    [
        {"train__learning_rate": 1e-5},
        {"data__max_length": 31},
        {"train__sft": {"adam_beta2": 0.9}},
        {"loss__objective": "sft"},
        {"space": {"train.sft.adam_beta2": {"choice": [0.9, 0.99]}}},
        {"resources": {"gpus_per_worker": 1}},
    ],
)
def test_another_configuration_is_another_check(tree, change):
    assert passed.key_of(config_from(made(tree, **change)), PRINTS) != passed.key_of(config_from(tree()), PRINTS)


@pytest.mark.parametrize(
    "change",
    [
        {"study__trials": 3},
        {"name": "other"},
        {"evaluate__functions": ["mine:own"]},
        {"space": {"loss.temperature": {"float": [0.5, 2.0]}}},
        {"resources": {"workers": 2}},
    ],
)
def test_what_the_check_does_not_look_at_changes_nothing(tree, change):
    assert passed.key_of(config_from(made(tree, **change)), PRINTS) == passed.key_of(config_from(tree()), PRINTS)


def test_other_rates_are_another_check_where_a_schedule_must_fit_them(tree):
    """A least rate of 1e-5 fits rates above it alone (`rate_check`)."""
    sft = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}}
    high, low = ({"train.learning_rate": {"float": [*rates]}} for rates in ((1e-4, 1e-3), (1e-7, 1e-6)))

    def key(space, **more):
        return passed.key_of(config_from(made(tree, space=space, **more)), PRINTS)

    assert len({key(each, train__sft=sft) for each in (high, low, {})}) == 3
    other = high | {"loss.temperature": {"float": [0.5, 2.0]}}
    assert key(other, train__sft=sft) == key(high, train__sft=sft), "the rates alone are looked at"
    assert key(high) == key(low) == key({})


@pytest.mark.parametrize("name", ["model", "model_files"])
def test_other_files_are_another_check(tree, name):
    config = config_from(tree())
    assert passed.key_of(config, PRINTS | {name: "sha256:other"}) != passed.key_of(config, PRINTS)
    other = PRINTS | {"data": {"train": "sha256:other", "eval": "sha256:b"}}
    assert passed.key_of(config, other) != passed.key_of(config, PRINTS)


def test_another_library_is_another_check(tree, tmp_path, monkeypatch):
    config = config_from(tree())
    before = passed.key_of(config, PRINTS)
    (tmp_path / "libraries" / "wandb-1.0.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "libraries")])
    assert passed.key_of(config, PRINTS) != before
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert passed.key_of(config, PRINTS) != before


def test_what_has_no_fingerprint_is_always_checked(tree):
    hub = PRINTS | {"data": {"train": "openai/gsm8k:main:train", "eval": "sha256:b"}}
    assert passed.key_of(config_from(tree()), hub) is None
    model = {"data": PRINTS["data"], "model": "org/tiny"}
    assert passed.key_of(config_from(tree() | {"model": {"path": "org/tiny"}}), model) is None
    pinned = config_from(tree() | {"model": {"path": "org/tiny", "revision": "a" * 40}})
    assert passed.key_of(pinned, model) is not None
    searched = config_from(made(tree, space={"data.max_length": {"choice": [32, 48]}}))
    assert passed.key_of(searched, PRINTS) is None


@pytest.mark.parametrize("content", ["", "null", "{}", '{"data": {"train": {}}, "warnings": [], "unseen": []}'])
def test_a_file_that_cannot_be_read_is_no_file(tree, tmp_path, content):
    key = passed.key_of(config_from(tree()), PRINTS)
    passed.remember(key, Findings())
    (tmp_path / "cache" / "checked" / f"{key}.json").write_text(content)
    assert passed.recall(key) is None


def test_checks_of_long_ago_are_forgotten_and_others_kept(tmp_path):
    for name in ("old", "young"):
        passed.remember(name, Findings(notes=[name]))
    seen = time.time() - (passed.KEPT_DAYS + 1) * 86_400
    os.utime(tmp_path / "cache" / "checked" / "old.json", (seen, seen))
    passed.remember("new", Findings())
    assert sorted(file.name for file in (tmp_path / "cache" / "checked").iterdir()) == ["new.json", "young.json"]
    assert passed.recall("young") == Findings(notes=["young"])


def test_a_cache_that_cannot_be_written_hinders_nothing(tree, tmp_path):
    (tmp_path / "cache").write_text("a file")
    passed.remember("key", Findings())
    assert passed.recall("key") is None


def test_a_search_checks_once(tmp_path, tree, monkeypatch):
    import yaml

    from rankray.cli.common import check_training

    looked = []

    def look(loaded, findings):
        looked.append(loaded.config.loss.objective)
        findings.notes.append("4 GB")
        findings.warnings.append("model.path: small")

    monkeypatch.setattr("rankray.finetune.trial_check.check_trial", look)
    file = tmp_path / "search.yaml"

    def go(again=False, **changes):
        file.write_text(yaml.safe_dump(tree(**changes), sort_keys=False))
        loaded = load_config(file)
        findings = preflight(loaded)
        check_training(loaded, findings, again=again)
        assert findings.notes == ["4 GB"], "said again, though it is not looked at again"
        return findings.warnings

    assert go() == go() == go(study__trials=7) == ["model.path: small"]
    assert looked == ["rri"]
    go(loss__objective="sft")
    assert looked == ["rri", "sft"]
    go(again=True)
    assert looked == ["rri", "sft", "rri"]
    with pytest.raises(ConfigError, match=r"evaluate.functions: nonesuch:own: module 'nonesuch' cannot be imported"):
        go(evaluate__functions=["nonesuch:own"])
