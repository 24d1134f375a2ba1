import json
import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rankray.config import load_config
from rankray.errors import ConfigError, DataError, ModelError
from rankray.finetune.preflight import check_functions, leak_warnings, preflight


@pytest.fixture
def check(tmp_path, tree):
    """Return a function that writes a configuration and checks it; it knows the line of every key."""

    def go(**changes):
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump(tree(**changes), sort_keys=False))
        go.line = lambda key: 1 + [line.strip().split(":")[0] for line in file.read_text().splitlines()].index(key)
        return preflight(load_config(file)).fingerprints

    return go


def fails(check, kind, key, said, **changes):
    with pytest.raises(kind) as caught:
        check(**changes)
    text = str(caught.value)
    assert re.match(rf".*search\.yaml:{check.line(key)}: \w+\.{key}\b", text), text
    assert re.search(said, text), text
    assert text.count(";") >= 2, "what was given; what is allowed; what to do"


def test_fingerprints_of_data_and_model(check, data_file, tmp_path, model_dir):
    found = check()
    assert found["data"]["train"] == found["data"]["eval"]
    assert found["data"]["train"].startswith("sha256:")
    other = tmp_path / "other.jsonl"
    other.write_text(data_file.read_text() + '{"question": "a", "answer": "b"}\n')
    assert check(data__train=str(other))["data"]["train"] != found["data"]["train"]
    copied = shutil.copytree(model_dir, tmp_path / "copied")
    assert check(model__path=str(copied))["model"] == found["model"]
    (copied / "config.json").write_text((copied / "config.json").read_text() + "\n")
    assert check(model__path=str(copied))["model"] != found["model"]


def test_fingerprints_of_further_sets_and_of_what_the_space_may_choose(tmp_path, tree, data_file, model_dir):
    """A changed file of either makes other trials, and another metric, as those of the splits do."""
    other, base = tmp_path / "other.jsonl", shutil.copytree(model_dir, tmp_path / "copied")
    shutil.copy(data_file, other)
    made = tree(evaluate__also={"more": {"data": str(other), "prompt": "{question}", "completion": "{answer}"}})
    made["space"] = {
        "data.train": {"choice": [str(data_file), str(other)]},
        "model.path": {"choice": [str(model_dir), str(base)]},
    }
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(made))
    before = preflight(load_config(file)).fingerprints
    other.write_text(data_file.read_text() + '{"question": "a", "answer": "b"}\n')
    (base / "generation_config.json").write_text("{}")
    now = preflight(load_config(file)).fingerprints
    assert {key for key in before["data"] if now["data"][key] != before["data"][key]} == {"evaluate.also.more.data"}
    changed = {key for key in before["choices"] if now["choices"][key] != before["choices"][key]}
    assert changed == {f"data.train: {other}", f"model.path: {base}"}
    assert len(before["choices"]) == 4


def test_hub_ids_are_left_alone(check):
    found = check(data__train="openai/gsm8k:main:train", model__path="Qwen/Qwen2.5-0.5B")
    assert found["data"]["train"] == "openai/gsm8k:main:train"
    assert found["model"] == "Qwen/Qwen2.5-0.5B"


def test_a_revision_of_a_local_directory(check):
    check(model__revision="main")
    fails(check, ModelError, "revision", "got 'v2' for the local directory .*null and main", model__revision="v2")


def test_limits_that_end_nothing_and_settings_that_are_not_tried(tmp_path, tree):
    def warned(space=None, **changes):
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump(tree(**changes) | ({"space": space} if space else {})))
        return "\n".join(preflight(load_config(file)).warnings)

    limits = {"wall_hours": 8, "gpu_hours": 40, "money": 120}
    said = warned(study__budget=limits)
    assert re.search(r"search\.yaml:\d+: study\.budget\.money: .* ends nothing; give study\.budget\.price", said)
    assert re.search(r"search\.yaml:\d+: study\.budget\.gpu_hours: .* ends nothing; set", said)
    priced = warned(study__budget={"wall_hours": 8, "money": 120, "price": {"default": 1.5}})
    assert "study.budget" not in priced
    space = {"loss.objective": {"choice": ["sft", "rri"]}, "loss.temperature": {"float": [2.0, 8.0]}}
    said = warned(space=space, loss__kl_weight=0.1, study__known=["sft", "paper"])
    assert "study.known: sft is not tried, because loss.kl_weight is 0.0 there, 0.1 in this file" in said
    said = warned(space=space, study__known=["sft", "paper"])
    assert "study.known: sft" not in said
    assert "study.known: paper is not tried, because loss.temperature is 1.0 there, which the space does not" in said
    assert "study.known" not in warned(space=space), "the default takes what there is"


def test_a_missing_file(check, data_file):
    near = str(data_file).replace("sums", "summs")
    fails(check, DataError, "train", r"no file .*did you mean 'sums.jsonl'", data__train=near)
    fails(check, DataError, "eval", "there is no directory", data__eval="/nowhere/at/all.jsonl")


def test_an_unknown_ending(check):
    fails(check, DataError, "train", r"ends in '.md'", data__train="data/train.md")


def test_an_unknown_column(check):
    fails(
        check,
        DataError,
        "prompt",
        r"did you mean 'question'\?\); columns are question, answer",
        data__prompt="{questoin}",
    )
    fails(check, DataError, "completion", "no column 'nothing'", data__completion="{nothing}")
    fails(check, DataError, "messages", "no column 'chat'", data__messages="chat")


@pytest.mark.parametrize(
    ("changes", "noted"),
    [({}, True), ({"data__format": "text"}, False), ({"data__prompt": "{text}", "data__completion": "{label}"}, False)],
)
def test_a_label_that_is_not_learnt_is_noted(tmp_path, tree, changes, noted):
    rows = tmp_path / "labelled.jsonl"
    rows.write_text(json.dumps({"text": "a good film", "label": "good"}) + "\n")
    given = tree(data__train=str(rows), data__eval=str(rows), **changes)
    for name in ("prompt", "completion"):
        if f"data__{name}" not in changes:
            given["data"].pop(name, None)
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(given))
    notes = [line for line in preflight(load_config(tmp_path / "search.yaml")).notes if "format text" in line]
    assert len(notes) == noted
    assert all("labelled.jsonl: format text learns the column text alone, and not label; " in line for line in notes)


def test_an_empty_file(check, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    fails(check, DataError, "eval", "holds no rows", data__eval=str(tmp_path / "empty.jsonl"))


def test_malformed_messages(check, tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps({"chat": [{"role": "user", "content": "x"}]}) + "\n")
    source = str(tmp_path / "chat.jsonl")
    fails(check, DataError, "messages", "no assistant turn", data__messages="chat", data__train=source)


def test_messages_need_a_chat_template(check, tmp_path, model_dir):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"chat": turns}) + "\n")
    source = str(tmp_path / "chat.jsonl")
    assert check(data__messages="chat", data__train=source, data__eval=source)["model"]
    bare = shutil.copytree(model_dir, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    changes = {"data__train": source, "data__eval": source, "model__path": str(bare)}
    fails(check, ModelError, "messages", "no chat template", data__messages="chat", **changes)
    fails(check, ModelError, "chat", "no chat template", data__chat=True, model__path=str(bare))
    for template in ("plain", "{% for m in messages %}{{ m.content }}{% endfor %}"):
        assert check(data__messages="chat", data__chat_template=template, **changes)["model"]
    broken = {"data__messages": "chat", "data__chat_template": "{{ messages[0].nothing.at_all }}"}
    fails(check, DataError, "messages", "chat template refuses", **broken, **changes)


def test_every_completion_cut_away(check):
    fails(
        check,
        DataError,
        "max_length",
        r"no completion token of any of the 24 examples of data.train",
        data__max_length=2,
    )


def test_one_surviving_completion_is_enough(check, tmp_path, data_file):
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(json.dumps({"question": "long " * 60, "answer": "1"}) + "\n" + data_file.read_text())
    assert check(data__train=str(mixed))["data"]["train"].startswith("sha256:")


def test_the_models_context_counts_as_well(check, tmp_path):
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"question": "word " * 80, "answer": "1"}) + "\n")
    said = "2048, and the model's context of 64, leaves no completion token"
    fails(check, DataError, "max_length", said, data__max_length=2048, data__train=str(long))


def test_incomplete_models(check, tmp_path, model_dir):
    fails(check, ModelError, "path", "no directory", model__path="./nowhere")
    for missing, said in [("config.json", "lacks config.json"), ("model.safetensors", "lacks weights")]:
        copied = shutil.copytree(model_dir, tmp_path / missing)
        (copied / missing).unlink()
        fails(check, ModelError, "path", said, model__path=str(copied))
    copied = shutil.copytree(model_dir, tmp_path / "untokenised")
    for file in copied.glob("*token*"):
        file.unlink()
    fails(check, ModelError, "path", "lacks a tokenizer", model__path=str(copied))


def test_weights_that_torch_saved_are_opened_and_counted(check, tmp_path, model_dir):
    copied = shutil.copytree(model_dir, tmp_path / "pickled")
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")
    assert check(model__path=str(copied))
    (copied / "pytorch_model.bin").write_bytes((copied / "pytorch_model.bin").read_bytes()[:-100])
    fails(check, ModelError, "path", "pytorch_model.bin' is not a file of weights", model__path=str(copied))
    (copied / "pytorch_model.bin").unlink()
    (copied / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    (copied / "pytorch_model-2.bin").write_bytes(b"")
    fails(check, ModelError, "path", "names 'pytorch_model-1.bin', which is not there", model__path=str(copied))


def test_a_model_that_is_not_json(check, tmp_path, model_dir):
    copied = shutil.copytree(model_dir, tmp_path / "broken")
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"search\.yaml:\d+: model.path: .* is not JSON"):
        check(model__path=str(copied))


@pytest.mark.parametrize(
    ("path", "values", "error", "said"),
    [
        ("data.prompt", {"choice": ["{question}", "{questoin}"]}, DataError, "data.prompt: no column 'questoin'"),
        ("data.max_length", {"int": [2, 48]}, DataError, "data.max_length: 2 leaves no completion"),
        ("model.path", {"choice": ["./nowhere"]}, ModelError, "model.path: no directory"),
        ("train.sft.adam_beta3", {"float": [0.1, 0.9]}, ConfigError, "train.sft.adam_beta3: no such field"),
    ],
)
def test_what_the_space_may_choose_is_checked_too(tmp_path, tree, path, values, error, said):
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump({**tree(), "space": {path: values}}, sort_keys=False))
    line = 1 + [line.strip() for line in file.read_text().splitlines()].index(f"{path}:")
    with pytest.raises(error, match=rf"search\.yaml:{line}: {said}"):
        preflight(load_config(file))


def test_pass_through_fields(check):
    said = r"train.sft.max_grad_nrom: no such field \(did you mean 'max_grad_norm'\?\)"
    with pytest.raises(ConfigError, match=said):
        check(train__sft={"max_grad_nrom": 1.0})
    with pytest.raises(ConfigError, match=r"search\.yaml:\d+: train.sft.learning_rate: .*set train.learning_rate"):
        check(train__sft={"learning_rate": 1.0})
    assert check(train__sft={"max_grad_norm": 0.5})["model"]


def test_a_test_split_is_checked_and_has_a_fingerprint(check, data_file):
    found = check(data__test=str(data_file))
    assert found["data"]["test"] == found["data"]["eval"]
    assert "test" not in check()["data"]
    fails(check, DataError, "test", "no file", data__test=str(data_file).replace("sums", "summs"))


def test_references_that_would_be_misread_are_found_before_training(check, tmp_path):
    file = tmp_path / "latex.jsonl"
    file.write_text(json.dumps({"question": "1", "answer": "so $\\sqrt{2}$"}) + "\n")
    said = r"search\.yaml.*: evaluate\.answer: auto would misread .*; set evaluate\.answer: math"
    with pytest.raises(ConfigError, match=said):
        check(data__eval=str(file), evaluate__metrics=["accuracy"])
    assert check(data__eval=str(file), evaluate__metrics=["nll"])
    with pytest.raises(ConfigError, match=r"evaluate\.answer: '\(' is not a regular expression"):
        check(evaluate__metrics=["pass@2"], evaluate__answer="(")


def test_leaks_are_warned_about(tmp_path, tree, data_file):
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(tree(data__test=str(data_file))))
    lines = leak_warnings(load_config(file))
    assert [line.split(":")[0] for line in lines] == ["data.eval", "data.test"]
    assert "of 24 prompts 24 exactly also stand in data.train" in lines[0]
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "9 minus 9 is?", "answer": "0"}\n')
    file.write_text(yaml.safe_dump(tree(data__eval=str(other))))
    assert leak_warnings(load_config(file)) == []


def test_tools_that_the_chat_template_does_not_write_are_warned_of_once(tmp_path, tree):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    file = tmp_path / "tools.jsonl"
    file.write_text("".join(json.dumps({"messages": turns, "tools": [{"name": "add"}]}) + "\n" for _ in range(3)))
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.role + m.content + (eos_token or '') }}{% endfor %}")
    path = tmp_path / "tools.yaml"
    data = {"train": str(file), "eval": str(file), "chat_template": str(template)}
    path.write_text(yaml.safe_dump(tree() | {"data": data}))
    said = [line for line in preflight(load_config(path)).warnings if "the tools of 3 of 3 rows" in line]
    assert len(said) == 1
    assert said[0].startswith(f"{path}:")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"functions": ["no_module:f"]}, "evaluate.functions"),
        ({"engine": "no_module:f"}, "evaluate.engine"),
        ({"answer": "no_module:f"}, "evaluate.answer"),
        ({"also": {"x": {"data": "a:b", "answer": "no_module:f"}}}, "evaluate.also.x.answer"),
        ({"engine": "http://host:1/v1"}, "evaluate.engine"),
    ],
)
def test_functions_that_cannot_be_called_are_named_with_their_place(tree, tmp_path, changes, field):
    file = tmp_path / "s.yaml"
    made = tree()
    file.write_text(yaml.safe_dump(made | {"evaluate": {**made["evaluate"], **changes}}, sort_keys=False))
    with pytest.raises(
        ConfigError, match=rf"s.yaml:\d+: {field}: (no_module:f: module 'no_module'|http.* own weights)"
    ):
        check_functions(load_config(file))
