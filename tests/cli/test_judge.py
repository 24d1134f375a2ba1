"""`rankray evaluate` and `rankray diagnose`, as a person calls them."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from rankray.cli.judge import check_overrides
from rankray.config import load_config
from rankray.contracts import Report
from rankray.finetune.preflight import preflight
from rankray.loss import WEIGHTS
from rankray.model.export import export_model
from rankray.report.explain import best_yaml
from rankray.store import open_study


@pytest.fixture
def file(tree, tmp_path, data_file):
    tree = tree(evaluate__metrics=["nll", "accuracy", "avg@2"], evaluate__max_new_tokens=3, data__test=str(data_file))
    tree |= {"name": "judged", "storage": str(tmp_path / "runs"), "store": f"sqlite:///{tmp_path / 'store.db'}"}
    made = tmp_path / "judged.yaml"
    made.write_text(yaml.safe_dump(tree))
    return made


def last(printed):
    return json.loads([line for line in printed.splitlines() if line.startswith("{")][-1])


def test_a_checkpoint_has_the_metrics_that_training_reported(rankray, file, data_file, tmp_path):
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
    shown = rankray("evaluate", trained["checkpoint"])
    assert "± standard error" in shown
    assert shown.startswith(f"{trained['checkpoint']}, on data.eval: {data_file}\n")
    exported = tmp_path / "exported"
    config = load_config(file).config
    export_model(Path(trained["checkpoint"]), exported, config)
    (exported / "rankray.yaml").write_text(best_yaml(config, {}))
    assert last(rankray("evaluate", str(exported), "--json"))["metrics"] == found
    words = ("--split", "test", "--set", "evaluate.metrics=[nll]", "--json")
    assert last(rankray("evaluate", str(exported), *words))["metrics"]["eval/nll"]["n"] == 24
    (exported / "rankray.yaml").write_text(best_yaml(config, {"model.trust_remote_code": True}))
    assert "read that code, then give the file" in rankray("evaluate", str(exported), expect=2)


def test_the_best_of_a_study_is_said_with_the_data_that_chose_it(rankray, file, data_file, tmp_path):
    space = {"loss.temperature": {"float": [0.5, 2.0]}, "data.max_length": {"choice": [48, 47]}}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"space": space}))
    config = load_config(file).config
    trained = last(rankray("train", str(file), "--json"))
    with open_study(config.store, config) as study:
        ticket = study.next_trial()
        study.report(ticket.number, Report(config.full_steps, trained["metrics"], trained["checkpoint"]))
        study.complete(ticket.number, trained["metrics"])
    words = ("evaluate", "judged", "--store", config.store)
    shown = rankray(*words)
    assert (
        f"trial {ticket.number} of study judged, on data.eval: {config.data.eval}, which the search has seen" in shown
    )
    assert "on others (--split test)\n" in shown
    other = tmp_path / "other.jsonl"
    other.write_bytes(data_file.read_bytes())
    for more in (("--split", "test"), ("--set", f"data.eval={other}")):
        assert "has seen" not in rankray(*words, *more)
    said = rankray(*words, "--set", "data.max_length=0", expect=2)
    assert said.startswith("error: --set data.max_length: data.max_length: got 0")
    said = rankray(*words, "--set", "data.max_length=2", expect=2)
    assert "data.max_length" in said, "what is asked for now takes the place of what the trial was trained with"
    assert last(rankray(*words, "--json"))["metrics"]["eval/nll"]["value"] == pytest.approx(
        trained["metrics"]["eval/nll"]
    )


def test_data_and_a_base_model_that_have_changed_since_the_study_are_said(
    rankray, file, data_file, model_dir, tmp_path
):
    held_out, further, base = tmp_path / "held_out.jsonl", tmp_path / "further.jsonl", tmp_path / "base"
    shutil.copy(data_file, held_out)
    shutil.copy(data_file, further)
    shutil.copytree(model_dir, base)
    tree = yaml.safe_load(file.read_text()) | {"space": {"loss.temperature": {"float": [0.5, 2.0]}}}
    tree["data"]["eval"], tree["evaluate"]["metrics"] = str(held_out), ["nll"]
    section = {"data": str(further), "prompt": "{question}", "completion": "{answer}", "max_examples": 2}
    tree["evaluate"]["also"] = {"more": section}
    tree["model"] |= {"path": str(base), "lora": {"rank": 2}}
    file.write_text(yaml.safe_dump(tree))
    loaded = load_config(file)
    config = loaded.config
    trained = last(rankray("train", str(file), "--json"))
    with open_study(config.store, config, provenance=preflight(loaded).fingerprints) as study:
        ticket = study.next_trial()
        study.report(ticket.number, Report(config.full_steps, trained["metrics"], trained["checkpoint"]))
        study.complete(ticket.number, trained["metrics"])
    words = ("evaluate", "judged", "--store", config.store)
    assert "changed" not in rankray(*words)
    held_out.write_text(held_out.read_text().replace("1 plus", "1 and"))
    shown = rankray(*words)
    assert "warning: data.eval has changed since study judged was made: these figures are not those" in shown
    assert "has seen" not in shown
    assert "data.eval has changed" in last(rankray(*words, "--json"))["warnings"][0]
    assert "changed" not in rankray(*words, "--split", "test")
    assert "changed" not in rankray(*words, "--set", f"data.eval={data_file}"), "other data are no changed ones"
    further.write_text(further.read_text().replace("1 plus", "1 and"))
    assert "evaluate.also.more.data has changed since study judged was made" in rankray(*words, "--split", "test")
    settings = base / "generation_config.json"
    settings.write_text(settings.read_text().replace("{", '{"top_k": 7,', 1))
    assert "model.path has changed since study judged was made: its adapters" in rankray(*words, "--split", "test")


def test_adapters_of_another_model_are_said(rankray, file, model_dir, tmp_path):
    tree = yaml.safe_load(file.read_text())
    tree["model"] |= {"lora": {"rank": 2}}
    tree["evaluate"]["metrics"] = ["nll"]
    file.write_text(yaml.safe_dump(tree))
    checkpoint = last(rankray("train", str(file), "--json"))["checkpoint"]
    copy = shutil.copytree(model_dir, tmp_path / "copy")
    words = ("evaluate", checkpoint, str(file), "--set", f"model.path={copy}")
    assert "warning" not in rankray(*words), "the same model in another place"
    weights = load_file(copy / "model.safetensors")
    save_file({name: 2 * each for name, each in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    said = f"model.path: the adapters in '{checkpoint}' were trained on '{model_dir}', and are put on '{copy}'"
    assert f"warning: {said}" in rankray(*words)
    assert said in last(rankray(*words, "--json"))["warnings"][0]


def test_the_untrained_model_is_evaluated_with_a_file(rankray, file, model_dir):
    assert last(rankray("evaluate", str(model_dir), str(file), "--json"))["metrics"]["eval/nll"]["value"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["./nowhere"], "evaluate: no directory './nowhere'; allowed is a checkpoint"),
        (["MODEL"], "does not say what it was trained with; allowed is a checkpoint of this version"),
        (["MODEL", "FILE", "--split", "train"], "evaluate: --split: got 'train'; allowed: eval, test"),
        (["MODEL", "FILE", "--limit", "3"], "evaluate: --limit without --tasks changes nothing; allowed"),
        (["MODEL", "FILE", "--include", "."], "evaluate: --include without --tasks changes nothing"),
        (["MODEL", "FILE", "--tasks", "arc", "--split", "test"], "evaluate: --split beside --tasks, which have data"),
        (["MODEL", "FILE", "--set", "data.test=null", "--split", "test"], "data.test: there is none; allowed is"),
        (["MODEL", "FILE", "--set", "loss.temperature=3"], "error: --set loss.temperature: changes nothing of an eval"),
        (["MODEL", "FILE", "--set", "evaluate.rungs={answers: 0}"], "--set evaluate.rungs: changes nothing of an"),
        (["MODEL", "FILE", "--set", "data.train=x.jsonl"], "--set data.train: changes nothing of an evaluation, whose"),
        (["MODEL", "FILE", "--set", "data.weight_column=w"], "--set data.weight_column: changes nothing of an eval"),
        (["MODEL", "FILE", "--set", "model.lora.rank=4"], "--set model.lora.rank: changes nothing of an evaluation"),
        (["MODEL", "FILE", "--set", "train.sft.optim=sgd"], "--set train.sft.optim: changes nothing of an evaluation"),
        (
            ["MODEL", "FILE", "--set", "data.test=x.jsonl"],
            "--set data.test: changes nothing of the split eval; allowed",
        ),
        (
            ["MODEL", "FILE", "--split", "test", "--set", "evaluate.max_examples=3"],
            "--set evaluate.max_examples: changes nothing of the split test; allowed",
        ),
        (
            ["MODEL", "FILE", "--tasks", "arc", "--set", "data.where={a: 1}"],
            "--set data.where: changes nothing of tasks of lm-eval; allowed: fields of model, evaluate.batch_size,",
        ),
        (["judged", "--set", "store=sqlite:///other.db"], "allowed: fields of model, data, evaluate, train.sft.bf16,"),
        (["MODEL", "FILE", "--set", "evalute.batch_size=3"], "evalute: unknown key (did you mean 'evaluate'?)"),
    ],
)
def test_what_cannot_be_evaluated_is_said(rankray, file, model_dir, words, said):
    words = [{"MODEL": str(model_dir), "FILE": str(file)}.get(word, word) for word in words]
    assert said in rankray("evaluate", *words, expect=2)


@pytest.mark.parametrize(
    ("path", "split", "tasks"),
    [
        *[(path, "eval", False) for path in ("data.eval", "data.train_on", "evaluate.max_examples", "model.lora")],
        *[(path, "test", False) for path in ("data.test", "data.where", "train.sft", "train.sft.bf16")],
        *[(path, "eval", True) for path in ("model.dtype", "evaluate.batch_size", "train.sft.fp16")],
    ],
)
def test_overrides_with_an_effect_are_taken(path, split, tasks):
    check_overrides({path: None}, split, tasks=tasks)


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
