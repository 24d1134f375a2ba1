"""`rankray export`: a directory that others load, from a real trial."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from fixtures.s3 import credentials, s3_server
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rankray.config import config_from
from rankray.contracts import Report
from rankray.errors import UserError
from rankray.finetune.preflight import check_model_files
from rankray.store import attach, open_study
from rankray.store.backend import connect
from rankray.store.confirmation import record_verdict
from rankray.store.migrate import CONFIG
from rankray.studies import Study


@pytest.fixture
def searched(train, tree, tmp_path):
    """Return a store's URL and the directory of its storage: a study `test` of one trained trial, and one without."""

    def make(**changes):
        made = tree(**changes)
        made["storage"] = str(tmp_path / "runs")
        made["space"] = {"train.learning_rate": {"float": [1e-3, 1e-2]}}
        made["study"] = {"trials": 2, "baselines": [], "keep_best": 1}
        url = f"sqlite:///{tmp_path}/store.db"
        prints = {"data": {"train": "sha256:1", "eval": "sha256:2"}} | check_model_files(made["model"]["path"], "test")[
            0
        ]
        study = open_study(url, config_from(made), provenance=prints)
        with study:
            ticket = study.next_trial()
            made["train"]["learning_rate"] = ticket.params["train.learning_rate"]
            outcome, _ = train(made | {"space": {}}, directory="runs/test/0")
            study.report(ticket.number, Report(outcome.steps, outcome.metrics, outcome.checkpoint))
            study.complete(ticket.number, outcome.metrics)
            other = study.next_trial()
            study.report(other.number, Report(2, {"eval/nll": 99.0}))
            study.complete(other.number, {"eval/nll": 99.0})
        return url

    return make


def test_the_best_trial_becomes_a_directory_that_loads_and_trains_again(rankray, searched, tmp_path):
    url = searched()
    said = rankray("export", "test", str(tmp_path / "out"), "--store", url)
    assert "exported trial 0 of test" in said
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "eval/nll" in card
    assert "train.learning\\_rate" in card
    printed = rankray("train", str(tmp_path / "out" / "rankray.yaml"), "--json")
    done = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    best = json.loads(rankray("best", "test", "--store", url, "--json"))
    assert done["metrics"]["eval/nll"] == best["metrics"]["eval/nll"]


def test_without_a_number_it_is_the_trial_that_was_confirmed(rankray, searched, tmp_path):
    """Trial 0 has the better figure; its checkpoint is not written out as if it were the one that was confirmed."""
    url, out = searched(), str(tmp_path / "out")
    study = attach(url, "test")
    rates = [trial.params["train.learning_rate"] for trial in study.trials()]
    assert json.loads(rankray("best", "test", "--store", url, "--json"))["confirmed"] is None
    verdict = {"confirmation": "test.confirm", "finalists": [{"number": 1}]}
    record_verdict(study, study, {**verdict, "verdict": {"word": "indistinguishable", "text": "no difference"}})
    assert "exported trial 0 of test" in rankray("export", "test", str(tmp_path / "first"), "--store", url)
    record_verdict(study, study, {**verdict, "verdict": {"word": "better", "text": "better: by far"}})
    assert "trial 1 of test has no checkpoint" in rankray("export", "test", out, "--store", url, expect=2)
    assert "trial 1 of test has no checkpoint" in rankray("evaluate", "test", "--store", url, expect=2)
    best = json.loads(rankray("best", "test", "--store", url, "--json"))
    assert (best["number"], best["confirmed"]["number"]) == (0, 1)
    assert yaml.safe_load(rankray("best", "test", "--store", url, "--yaml"))["train"]["learning_rate"] == rates[1]
    said = rankray("best", "test", "--store", url)
    assert "verdict (test.confirm): better: by far" in said
    assert "trial 1 was chosen" in said


def test_adapters_are_merged_on_request(rankray, searched, tmp_path):
    url = searched(model__lora={"rank": 2}, model__dtype="bfloat16")
    rankray("export", "test", "0", str(tmp_path / "kept"), "--store", url)
    rankray("export", "test", "0", str(tmp_path / "merged"), "--merge", "--store", url)
    assert (tmp_path / "kept" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "merged" / "adapter_model.safetensors").exists()
    cards = [(tmp_path / name / "README.md").read_text() for name in ("kept", "merged")]
    assert ["rounded to bfloat16" in card for card in cards] == [False, True]
    assert yaml.safe_load((tmp_path / "kept" / "rankray.yaml").read_text())["model"]["lora"]["rank"] == 2
    assert list(tmp_path.glob(".kept*")) == []


def test_adapters_are_not_merged_with_a_model_that_has_changed(rankray, searched, model_dir, tmp_path):
    base = shutil.copytree(model_dir, tmp_path / "base")
    url = searched(model__lora={"rank": 2}, model__path=str(base))
    rankray("export", "test", "0", str(tmp_path / "merged"), "--merge", "--store", url)
    weights = load_file(base / "model.safetensors")
    save_file({name: 2 * each for name, each in weights.items()}, base / "model.safetensors", {"format": "pt"})
    words = ("export", "test", "0", str(tmp_path / "again"), "--store", url)
    said = rankray(*words, "--merge", expect=2)
    assert f"the base model '{base}' has changed since study test was made" in said
    assert not (tmp_path / "again").exists()
    rankray(*words)


def test_what_cannot_be_exported_is_named(rankray, searched, tmp_path, monkeypatch):
    url, out = searched(), str(tmp_path / "out")
    assert "trial 1 of test has no checkpoint" in rankray("export", "test", "1", out, "--store", url, expect=2)
    assert "there is no trial 7" in rankray("export", "test", "7", out, "--store", url, expect=2)
    assert "allowed: DIR, or a trial's number" in rankray("export", "test", "x", out, "--store", url, expect=2)
    assert "has no adapters" in rankray("export", "test", out, "--merge", "--store", url, expect=2)
    assert not Path(out).exists()
    Path(out).mkdir()
    (Path(out) / "mine").touch()
    assert "is there and not empty" in rankray("export", "test", out, "--store", url, expect=2)
    shutil.rmtree(tmp_path / "runs")
    again = rankray("export", "test", str(tmp_path / "new"), "--store", url, expect=2)
    assert "is not there, and was not deleted by study.keep_best; allowed: where the search wrote it; bring it" in again
    assert "rankray train test.yaml" in again
    monkeypatch.setattr("rankray.store.views.retention", lambda study: ({0, 1}, {1}))
    again = rankray("export", "test", "0", str(tmp_path / "new"), "--store", url, expect=2)
    assert "was deleted: study.keep_best keeps those of the best 1 trials" in again


def test_what_cannot_be_done_afterwards_is_refused_before(rankray, searched, tmp_path):
    url, out = searched(), str(tmp_path / "out")
    words = ["export", "test", out, "--store", url]
    assert "--push-to-hub 'a b': " in rankray(*words, "--push-to-hub", "a b", expect=2)
    assert "--public without --push-to-hub changes nothing" in rankray(*words, "--public", expect=2)
    (tmp_path / "file").touch()
    inside = rankray("export", "test", str(tmp_path / "file" / "out"), "--store", url, expect=2)
    assert f"error: export: DIR in {tmp_path}/file: cannot be made or written to" in inside
    assert not Path(out).exists()


def test_a_path_in_the_store_outside_of_its_storage_is_not_read(rankray, searched, tmp_path, monkeypatch):
    from rankray.store import views

    url, real = searched(), views.trial
    monkeypatch.setattr(views, "trial", lambda *given: real(*given) | {"checkpoint": str(tmp_path)})
    said = rankray("export", "test", str(tmp_path / "out"), "--store", url, expect=2)
    assert "is not in the study's storage" in said


def test_what_is_evaluated_is_in_the_studys_storage_and_as_it_was_written(rankray, searched, tmp_path, monkeypatch):
    """As it is for `export`: the store is input, and figures of half a checkpoint would be wrong ones."""
    from rankray.store import views

    url, real = searched(), views.recommended
    found = json.loads(rankray("evaluate", "test", "--store", url, "--json").splitlines()[0])["metrics"]
    best = real(attach(url, "test"))
    assert found["eval/nll"]["value"] == pytest.approx(best["value"], rel=1e-6)
    monkeypatch.setattr(views, "recommended", lambda *given: real(*given) | {"checkpoint": str(tmp_path)})
    assert "is not in the study's storage" in rankray("evaluate", "test", "--store", url, expect=2)
    monkeypatch.undo()
    weights = next(Path(best["checkpoint"]).glob("*.safetensors"))
    held = bytearray(weights.read_bytes())
    held[-5] ^= 1
    weights.write_bytes(held)
    for given in (("test", "--store", url), (best["checkpoint"],)):
        assert f"{weights.name} is not as it was written" in rankray("evaluate", *given, expect=2)


def test_a_model_in_an_object_store_is_evaluated(rankray, searched, tmp_path, monkeypatch):
    """It is downloaded, as `export` does, and nothing of it stays."""
    from rankray.checkpoints import places
    from rankray.store import views

    url, real = searched(), views.recommended
    best = real(attach(url, "test"))
    expected = rankray("evaluate", "test", "--store", url, "--json")
    place = "s3://bucket/runs"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with s3_server(tmp_path) as options, credentials():
        remote = f"{place}/test/0?{options}"
        places.upload(Path(best["checkpoint"]), remote)
        monkeypatch.setattr(views, "recommended", lambda *given: real(*given) | {"checkpoint": remote})
        monkeypatch.setattr("rankray.store.origin.storages", lambda study: [f"{place}?{options}"])
        assert rankray("evaluate", "test", "--store", url, "--json") == expected
        monkeypatch.setattr(
            places, "download", lambda *given: pytest.fail("nothing is downloaded for a wrong override")
        )
        said = rankray("evaluate", "test", "--store", url, "--set", "evaluate.batch_size=0", expect=2)
        assert "evaluate.batch_size: got 0" in said
    assert list(scratch.glob("rankray-evaluated-*")) == []


def test_a_model_of_another_version_is_exported_and_evaluated(rankray, searched, tmp_path):
    """What it refuses is said, and stays; what is trained from it, a confirmation, is refused."""
    url = searched()
    words = ("evaluate", "test", "--store", url, "--json")
    expected = printed_json(rankray(*words))
    storage = connect(url)
    study_id = storage.get_study_id_from_name("test")
    config = storage.get_study_user_attrs(study_id)[CONFIG]
    config["study"]["known"], config["loss"]["gone"], config["evaluate"]["samples"] = ["gone"], 1, 20_000
    storage.set_study_user_attr(study_id, CONFIG, config)
    line = "test: another version of rankray made it, with what this one refuses: "
    assert line in rankray("export", "test", str(tmp_path / "out"), "--store", url)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    printed = rankray("best", "test", "--yaml", "--store", url)
    assert "samples: 20000" in printed
    for verb in ("status", "show", "best"):
        assert line in rankray(verb, "test", *(["0"] if verb == "show" else []), "--store", url)
    assert "evaluate.samples: got 20000" in rankray(*words, expect=2)
    assert printed_json(rankray(*words, "--set", "evaluate.samples=null")) == expected
    assert Study("test", url).evaluate(overrides={"evaluate.samples": None}) == expected["metrics"]
    for said in (rankray("confirm", "test", "--plan", "--store", url, expect=2), refused_in_python(url)):
        assert f"confirm: {line}" in said
        assert "allowed: a search of which all is known" in said


def printed_json(text):
    return json.loads(next(line for line in text.splitlines() if line.startswith("{")))


def refused_in_python(url):
    with pytest.raises(UserError) as refused:
        Study("test", url).confirm(plan=True)
    return str(refused.value)
