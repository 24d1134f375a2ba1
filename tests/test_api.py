"""The Python interface: the examples in its docstrings run, and the trainer drops into a TRL script."""

import doctest
import errno
import importlib
import json
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

import rankray
from rankray import api, studies
from rankray.errors import CheckpointDamaged, ConfigError, DataError, StorageError, StoreError, UserError
from rankray.store import looking

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def world(tmp_path_factory, model_dir, data_file):
    """A configuration file, and the URL of a store in which its study `demo` is searched by the first example."""
    place = tmp_path_factory.mktemp("api")
    url = f"sqlite:///{place / 'store.db'}"
    tree = {
        "name": "demo",
        "model": {"path": str(model_dir)},
        "data": {
            "train": str(data_file), "eval": str(data_file), "prompt": "{question}\n", "completion": "{answer}",
            "max_length": 48,
        },
        "train": {"max_steps": 4, "batch_size": 8, "threads": 1},
        "evaluate": {"every_steps": 2, "max_examples": 8},
        "space": {"loss.temperature": {"float": [0.5, 4.0], "log": True}},
        "study": {"pruner": "none"},
        "store": url,
        "storage": str(place / "runs"),
        "resources": {"concurrency": 1},
    }  # fmt: skip
    (place / "demo.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return {"file": str(place / "demo.yaml"), "url": url, "model": str(model_dir), "place": str(place / "trainer")}


STUDY = ("report", "evaluate", "confirm", "export")
EXPLAINED = ("load", "check", "rehearse", "search", "train", "best", "trials", "Study", "TrialStore")


def explained(name):
    """Return a function or class of the interface; two of them are packages as well."""
    return getattr(studies if name in ("Study", "TrialStore") else api, name)


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_examples_of_the_docstrings(world, name):
    """In this order: `search` makes the study that the later ones look at."""
    found = doctest.DocTestFinder(recurse=False).find(explained(name), name, globs=dict(world))
    assert sum(len(test.examples) for test in found) >= 2
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in found:
        assert runner.run(test).failed == 0, name


@pytest.mark.parametrize("name", sorted(set(rankray.__all__) - set(EXPLAINED) - {"__version__"}))
def test_the_examples_of_all_other_public_names(world, name):
    found = doctest.DocTestFinder(recurse=False).find(getattr(rankray, name), name, globs=dict(world))
    assert sum(len(test.examples) for test in found) >= 2, "each public name has an example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in found:
        assert runner.run(test).failed == 0, name


def test_every_function_has_an_example():
    documented = {name for name in EXPLAINED if ">>>" in (explained(name).__doc__ or "")}
    functions = {name for name, home in rankray._HOMES.items() if home in ("rankray.api", "rankray.studies")}
    assert functions == documented - {"search", "rehearse"}


@pytest.mark.parametrize("name", STUDY)
def test_the_examples_of_what_is_done_with_a_study(world, name):
    found = doctest.DocTestFinder(recurse=False).find(getattr(rankray.Study, name), name, globs=dict(world))
    assert sum(len(test.examples) for test in found) >= 2
    for test in found:
        assert doctest.DocTestRunner().run(test).failed == 0, name


def test_packages_are_still_packages():
    search = importlib.import_module("rankray.search")
    assert rankray.search is search
    assert callable(rankray.search)
    assert search.run_search is importlib.import_module("rankray.search.experiment").run_search


@pytest.mark.parametrize("name", ["loss.token_stats", "loss.weighted_nll", "evaluate.same_answer", "errors.UserError"])
def test_one_import_reaches_what_rankray_promises(name):
    """In a fresh process: elsewhere another import has set the attribute already."""
    words = [sys.executable, "-c", f"import rankray; assert callable(rankray.{name})"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_check_says_what_the_command_says(world):
    found = rankray.check(world["file"])
    assert found["data"]["train"]["rows"] > 0
    assert any("data.eval: of" in line for line in found["warnings"]), "it is evaluated on what it is trained on"
    wrong = rankray.check(rankray.load(world["file"], {"data.train": "nowhere.jsonl"}))
    assert (wrong["ok"], wrong["warnings"], wrong["data"]) == (False, [], {})


def test_what_is_wrong_is_said_with_its_line(world, tmp_path):
    """As the command line does: `load` knows the lines, and `check` and `search` find more than it does."""
    text = Path(world["file"]).read_text(encoding="utf-8").replace("{question}", "{qestion}")
    file = tmp_path / "wrong.yaml"
    file.write_text(text, encoding="utf-8")
    line = 1 + next(number for number, each in enumerate(text.splitlines()) if "qestion" in each)
    config = rankray.load(file)
    assert rankray.check(config)["errors"][0].startswith(f"{file}:{line}: ")
    with pytest.raises(DataError, match=re.escape(f"{file}:{line}: ")):
        rankray.search(config, show=False)
    assert rankray.check(config.model_copy())["errors"][0].startswith("demo: "), "a copy is no longer that file's"


def test_a_search_from_python_knows_its_file(world):
    """What the report prints to train a trial again names the file."""
    with looking(world["url"], "demo") as study:
        assert study.provenance["file"] == world["file"]
        assert study.provenance["places"]["study.pruner"].startswith(f"{world['file']}:")


def test_a_training_is_resumed_as_the_command_does(world):
    """From another configuration, or from a damaged checkpoint, it would be another run than it is said to be."""
    config = rankray.load(world["file"])
    done = rankray.train(config)
    assert rankray.train(config, checkpoint=done.checkpoint).metrics == done.metrics
    with pytest.raises(UserError, match=r"train.learning_rate: got 0.5, and .* was trained with"):
        rankray.train(rankray.load(world["file"], {"train.learning_rate": 0.5}), checkpoint=done.checkpoint)
    (Path(done.checkpoint) / "optimizer.pt").unlink()
    with pytest.raises(CheckpointDamaged, match=r"optimizer.pt"):
        rankray.train(config, checkpoint=done.checkpoint)


def test_it_trains_in_a_thread(world):
    """There are no signals there, which the main thread's `train` answers by saving a checkpoint."""
    with ThreadPoolExecutor() as threads:
        assert threads.submit(rankray.train, world["file"]).result().steps == 4


def test_an_interrupted_training_says_how_to_resume(world, monkeypatch):
    from rankray.report.training import LineReporter

    monkeypatch.setattr(LineReporter, "preemption", lambda self: "interrupted" if self.checkpoint else "")
    with pytest.raises(KeyboardInterrupt, match=r"rankray.train\(config, checkpoint='.*step-00000\d'\) resumes"):
        rankray.train(world["file"])


def test_a_training_whose_storage_fails_says_how_to_resume(world, monkeypatch):
    replace = os.replace

    def fail_later(source, target):
        if str(target).endswith("step-000004"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_later)
    said = r"^storage: .* fails: the checkpoint of step 4 could not .*; then resume from .*/step-000002$"
    with pytest.raises(StorageError, match=said) as caught:
        rankray.train(world["file"])
    monkeypatch.undo()
    checkpoint = str(caught.value).rpartition(" ")[2]
    assert rankray.train(world["file"], checkpoint=checkpoint).metrics == rankray.train(world["file"]).metrics


def test_a_mapping_is_a_configuration(world):
    tree = yaml.safe_load(Path(world["file"]).read_text(encoding="utf-8"))
    assert rankray.load(tree, {"study.trials": 3}).study.trials == 3
    with pytest.raises(rankray.RankrayError, match=r"space.loss.temprature"):
        rankray.load({**tree, "space": {"loss.temprature": {"float": [0.5, 4.0]}}})


def test_a_table_has_every_metric_and_its_numbers_are_taken(world):
    pytest.importorskip("pandas")
    study = rankray.TrialStore(world["url"])["demo"]
    table = rankray.trials("demo", store=world["url"])
    number = table.loc[table.value.idxmin(), "number"]
    assert table.set_index("number")["eval/nll"][number] == study.trial(number)["metrics"]["eval/nll"]
    assert "metrics" not in table.columns
    for wrong in ("7", None, 1.5):
        with pytest.raises(StoreError, match=r"trial: got .*; allowed: a trial's number, an integer"):
            study.trial(wrong)


def test_a_store_is_a_mapping(world):
    store = rankray.TrialStore(world["url"])
    assert (len(store), list(store), "demo" in store, "other" in store) == (1, ["demo"], True, False)
    assert [name for name, study in store.items() if study.status["study"] == name] == ["demo"]
    assert (dict(store).keys(), store.get("other")) == ({"demo"}, None)


def test_a_mapping_may_hold_paths_and_numbers_of_numpy(world):
    import numpy

    tree = yaml.safe_load(Path(world["file"]).read_text())
    tree["data"]["train"] = Path(tree["data"]["train"])
    tree["train"]["max_steps"] = numpy.int64(4)
    assert rankray.load(tree).train.max_steps == 4
    for wrong in ({1, 2}, object()):
        with pytest.raises(ConfigError, match=r"mapping: got (set|object) .*; allowed: what YAML can hold"):
            rankray.load(tree | {"name": wrong})


@pytest.mark.parametrize("of_a_mapping", [False, True])
def test_overrides_may_hold_what_a_mapping_may(world, of_a_mapping):
    import numpy

    base = yaml.safe_load(Path(world["file"]).read_text()) if of_a_mapping else world["file"]
    space = {"train.seed": {"choice": list(numpy.arange(3))}, "train.learning_rate": {"float": numpy.array([0.1, 1.0])}}
    given = {"train.max_steps": numpy.int64(4), "storage": Path("elsewhere"), "space": space}
    config = rankray.load(base, given)
    assert (config.train.max_steps, config.storage) == (4, str(Path("elsewhere").absolute()))
    assert config.space == {"train.seed": {"choice": [0, 1, 2]}, "train.learning_rate": {"float": [0.1, 1.0]}}
    assert config.model_dump_json()
    with pytest.raises(ConfigError, match=r"^overrides: name: got object .*; allowed: what YAML can hold"):
        rankray.load(base, {"name": object()})


@pytest.mark.parametrize(
    "given",
    [
        *({"seeds": 0}, {"slots": 0}, {"trials": 0}, {"slots": 1.5}, {"seeds": "3"}, {"trials": True}),
        *({"slots": None}, {"strategies": [None]}, {"strategies": ()}, {"strategies": 5}),
    ],
)
def test_a_rehearsal_of_nothing_is_refused(world, given):
    with pytest.raises(UserError, match=r"^rehearse: \w+ .*; allowed: (1 or more, whole|names of samplers, .*); corr"):
        rankray.rehearse(world["file"], **given)


@pytest.mark.parametrize("wrong", [Path("store.db"), 7, b"sqlite:///store.db", ["sqlite:///store.db"]])
def test_a_store_is_a_url_as_text(wrong):
    calls = [lambda: rankray.best("demo", store=wrong), lambda: rankray.trials("demo", store=wrong)]
    for call in (*calls, lambda: rankray.TrialStore(wrong), lambda: rankray.Study("demo", wrong)):
        with pytest.raises(StoreError, match=rf"^store: got a {type(wrong).__name__}; allowed: a URL as text, as in"):
            call()


def test_overrides_are_named_as_they_are_given(world):
    """In Python there is no `--set`."""
    study = rankray.TrialStore(world["url"])["demo"]
    with pytest.raises(ConfigError, match=r"^overrides: loss.temperature: changes nothing of an evaluation"):
        study.evaluate(overrides={"loss.temperature": 3})
    with pytest.raises(ConfigError, match=r"^overrides: evaluate.batch_size: evaluate.batch_size: got 0"):
        study.evaluate(overrides={"evaluate.batch_size": 0})
    for path, value in {"train.max_steps": 7, "resources.workers": 0}.items():
        with pytest.raises(ConfigError, match=rf"^overrides: {path}: "):
            study.confirm(plan=True, overrides={path: value})


OPTIONS = {
    "confirm: seeds 0; allowed: 2 or more": lambda study, _: study.confirm(seeds=0),
    "confirm: choose_seeds -1; allowed: 1 or more": lambda study, _: study.confirm(choose_seeds=-1),
    "confirm: looks: got [8, 4]; allowed: increasing": lambda study, _: study.confirm(looks=(8, 4)),
    "confirm: seeds 3 beside looks that end with 8": lambda study, _: study.confirm(looks=(4, 8), seeds=3),
    "confirm: spending without looks changes nothing": lambda study, _: study.confirm(plan=True, spending="pocock"),
    "confirm: label 5: it becomes a part": lambda study, _: study.confirm(plan=True, label=5),
    "confirm: metric eval/acc: demo was not": lambda study, _: study.confirm(plan=True, metric="eval/acc"),
    "evaluate: split: got 'dev'; allowed": lambda study, _: study.evaluate("dev"),
    "export: merge=True: this model has no": lambda study, world: study.export(world["place"] + "-merged", merge=True),
    "report: kind: unknown format 'pdf'": lambda study, _: study.report(kind="pdf"),
    "report: path a.doc: unknown format 'doc'": lambda study, _: study.report("a.doc"),
    "give one of these, or another store": lambda _, world: rankray.best("none", store=world["url"]),
    "start a search with it, or correct store": lambda *_: list(rankray.TrialStore("sqlite:////no/where.db")),
    "give one of these, by store, as store: in": lambda *_: rankray.TrialStore("file.db"),
    "rehearse: no.csv: there is no such file": lambda _, world: rankray.rehearse(world["file"], table="no.csv"),
    "rehearse: strategies: got 'x'; allowed": lambda _, world: rankray.rehearse(world["file"], strategies="x"),
    "start another study with name other": lambda _, world: rankray.search(
        rankray.load(world["file"], {"train.learning_rate": 0.5})
    ),
}
"""What an error says -> what it says it of. On the command line the same is said of options."""


@pytest.mark.parametrize("said", OPTIONS)
def test_errors_name_arguments_and_no_options(world, said):
    study = rankray.TrialStore(world["url"])["demo"]
    with pytest.raises(UserError) as refused:
        OPTIONS[said](study, world)
    assert said in str(refused.value)
    assert "--" not in str(refused.value)


def test_check_names_no_options_either(world):
    found = rankray.check(rankray.load(world["file"], {"store": "file.db"}))
    assert "give one of these, by store, as store: in" in found["errors"][0]


@pytest.mark.parametrize("wrong", ["study.trials=3", 5])
def test_overrides_of_another_type_are_refused(world, wrong):
    for call in (
        lambda: rankray.load(world["file"], wrong),
        lambda: rankray.Study("demo", world["url"]).evaluate(overrides=wrong),
    ):
        with pytest.raises(ConfigError, match=r"^overrides: got .*; allowed: a mapping of dotted paths to values"):
            call()


def test_trials_without_pandas(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert all("loss.temperature" in row for row in rankray.trials("demo", store=world["url"]))


def test_what_it_returns_is_json(world):
    study = rankray.TrialStore(world["url"])["demo"]
    assert json.loads(json.dumps(study.trial(0)))["number"] == 0
    assert math.isfinite(study.best["value"])
    assert repr(study) == "<rankray study demo>"
