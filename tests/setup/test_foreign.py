import pytest
import yaml

from rankray.config import load_config
from rankray.errors import ConfigError
from rankray.setup.foreign import convert, text_of


def write(path, tree):
    path.write_text(yaml.safe_dump(tree))
    return path


def test_nothing_is_dropped_without_a_note(tmp_path):
    given = {"model_name_or_path": "a/b", "dataset_name": "c/d", "mystery": 3, "logging_steps": 10}
    _, notes, tool = convert(write(tmp_path / "x.yaml", given))
    assert tool == "TRL"
    assert "mystery: 3: has no counterpart here" in notes
    assert not any("logging_steps" in note for note in notes)


def test_what_is_written_is_read_again(tmp_path):
    given = {"model_name_or_path": "a/b", "dataset_name": "c/d", "learning_rate": 2e-5, "max_steps": 50, "mystery": 1}
    file = write(tmp_path / "x.yaml", given)
    config, notes, tool = convert(file)
    (tmp_path / "out.yaml").write_text(text_of(config, notes, tool, file))
    again = load_config(tmp_path / "out.yaml").config
    assert again.model_dump(exclude={"store", "storage"}) == config.model_dump(exclude={"store", "storage"})
    assert "# left out: mystery: 1: has no counterpart here" in (tmp_path / "out.yaml").read_text()
    assert again.space["train.learning_rate"] == {"float": [2e-6, 2e-4], "log": True}


@pytest.mark.parametrize(
    ("share", "cut"), [(0.1, 90), (0.02, 98), (0.001, 99), (0.5, 50), (0.999, 1), (500, 95), (0, 95), ("0.1", 95)]
)
def test_as_much_is_held_out_as_the_other_tool_set_aside(tmp_path, share, cut):
    """A number of rows is no share of a dataset whose length is unknown here."""
    given = {"base_model": "m/n", "datasets": [{"path": "a/b", "type": "alpaca"}], "val_set_size": share}
    config, notes, _ = convert(write(tmp_path / "x.yaml", given))
    assert config.data.train[0].path == f"a/b:train[:{cut}%]"
    assert [(each.path, each.format) for each in config.data.eval] == [(f"a/b:train[{cut}%:]", "alpaca")]
    assert any(f"the last {100 - cut} % of each" in note for note in notes)


def test_the_last_part_of_hub_datasets_is_held_out(tmp_path):
    both = [{"path": "a/b"}, {"path": "c/d", "split": "train[:20%]"}, {"path": "e/f", "name": "main"}]
    config, notes, _ = convert(write(tmp_path / "x.yaml", {"model_name_or_path": "m/n", "datasets": both}))
    assert [entry.path for entry in config.data.train] == ["a/b:train[:95%]", "c/d:train[:20%]", "e/f:main:train[:95%]"]
    assert [entry.path for entry in config.data.eval] == ["a/b:train[95%:]", "e/f:main:train[95%:]"]
    assert any("last 5 %" in note for note in notes)


def test_held_out_data_may_be_named(tmp_path):
    (tmp_path / "t.jsonl").write_text("{}")
    file = write(tmp_path / "x.yaml", {"model_name_or_path": "m/n", "dataset_name": "t.jsonl"})
    assert convert(file, "e.jsonl")[0].data.eval == str(tmp_path / "e.jsonl")
    config, notes, _ = convert(file)
    assert config.data.eval == config.data.train == str(tmp_path / "t.jsonl")
    assert any("data.eval is the training data" in note for note in notes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rate": 1}, "neither base_model nor model_name_or_path"),
        ({"model_name_or_path": "a/b"}, "neither dataset_name nor datasets"),
        ({"model_name_or_path": "a/b", "dataset_name": "c/d", "learning_rate": -1.0}, "train.learning_rate: got -1.0"),
        ({"model_name_or_path": "a/b", "stage": "dpo"}, "stage 'dpo'; allowed is sft"),
        ({"base_model": "a/b", "rl": "dpo"}, "rl 'dpo'; allowed is supervised"),
    ],
)
def test_what_cannot_be_taken_over_is_said(tmp_path, given, said):
    with pytest.raises(ConfigError, match=said):
        convert(write(tmp_path / "x.yaml", given))


def test_a_file_of_a_fourth_tool_is_not_called_rankrays(tmp_path):
    given = {"model": "unsloth/x", "data": {"dataset": "y"}, "training": {"num_epochs": 1}}
    with pytest.raises(ConfigError, match=r"neither base_model nor .*it has data, model, training; .*rankray init"):
        convert(write(tmp_path / "x.yaml", given))


def test_templates_are_written_on_one_line_and_read_again(tmp_path):
    kind = {"field_instruction": "q", "field_output": "a", "format": "Q: {instruction}\n\nA:\n" + "x" * 200}
    given = {
        "base_model": "m/n",
        "datasets": [{"path": "t.jsonl", "type": kind}, {"path": "u.jsonl", "type": "alpaca"}],
    }
    file = write(tmp_path / "x.yaml", given)
    config, notes, tool = convert(file)
    text = text_of(config, notes, tool, file)
    assert 'prompt: "Q: {q}\\n\\nA:\\n' + "x" * 200 + '"\n' in text
    (tmp_path / "out.yaml").write_text(text)
    again = load_config(tmp_path / "out.yaml").config.data
    assert again.train[0].prompt == config.data.train[0].prompt
    [held_out] = again.eval
    assert (held_out.path, held_out.prompt) == (again.train[0].path, again.train[0].prompt), "read as it is in training"


def test_a_file_of_rankrays_own_is_named_as_one(tmp_path):
    given = {"model": {"path": "a/b"}, "data": {"train": "c/d:e:train"}}
    with pytest.raises(ConfigError, match=r"is a configuration of rankray already .*rankray check"):
        convert(write(tmp_path / "x.yaml", given))


@pytest.mark.parametrize(("stem", "name"), [("é", "e"), ("2024", "2024"), (".x", "x"), ("日本", "study")])
def test_the_file_may_be_called_anything(tmp_path, stem, name):
    file = tmp_path / f"{stem}.yaml"
    file.write_text("model_name_or_path: org/model\ndataset_name: org/set\n")
    config, *_ = convert(file)
    assert config.name == name
