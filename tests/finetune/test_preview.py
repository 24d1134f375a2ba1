import json
import shutil

import pytest

from rankray.config import load_config
from rankray.errors import ModelError
from rankray.finetune.preview import preview


@pytest.fixture
def loaded(tmp_path, model_dir):
    def make(rows, model=model_dir, **data):
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tree = {
            "model": {"path": str(model)},
            "data": {"train": str(tmp_path / "t.jsonl"), "eval": str(tmp_path / "t.jsonl"), **data},
        }
        (tmp_path / "x.yaml").write_text(json.dumps(tree))
        return load_config(tmp_path / "x.yaml")

    return make


CHAT = [{"role": role, "content": text} for role, text in (("user", "1"), ("assistant", "2")) * 2]


def test_rows_show_what_training_uses(loaded, tree):
    from rankray.config import config_from
    from rankray.model.resident import split_of, tokenizer_of

    found = preview(loaded([{"prompt": "1 plus 2 is?\n", "completion": "3"}] * 4), count=2)
    config = config_from(
        {**tree(), **loaded([{"prompt": "1 plus 2 is?\n", "completion": "3"}] * 4).config.model_dump()}
    )
    [row, _] = found.rows
    trained = split_of("train", config, tokenizer_of(config)).dataset[0]
    assert (row.ids, row.labels) == (trained["input_ids"], trained["labels"])
    shown = row.as_json()
    assert shown["text"] == "1 plus 2 is?\n3<eos>"
    assert shown["supervised_text"] == "3<eos>"
    assert (shown["tokens"], shown["supervised"]) == (len(row.ids), sum(label != -100 for label in row.labels))
    assert shown["ends_with_stop_token"] is True
    assert found.table.rows == 4
    assert (found.eos, found.template) == ("<eos>", None)


def test_a_conversation_ends_with_a_stop_token_whatever_space_follows(loaded):
    found = preview(loaded([{"messages": CHAT}], train_on="all"))
    [row] = found.as_json()["rows"]
    assert list(found.formats.values()) == ["messages"]
    assert row["supervised_text"] == " 2<eos>\n" * 2
    assert row["ends_with_stop_token"] is True
    assert found.template.startswith("{% for m in messages %}")


def test_what_is_cut_does_not_end(loaded):
    found = preview(loaded([{"prompt": "1", "completion": "1 plus 2 is? " * 9}], max_length=10))
    [row] = found.as_json()["rows"]
    assert row["tokens"] == 10
    assert row["cut_tokens"] == found.table.longest - 10 > 0
    assert row["ends_with_stop_token"] is False
    assert (found.table.cut, found.table.lost) == (1, 0)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "{"),
        ("config.json", "[1]"),
        ("tokenizer.json", "{"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", "{"),
    ],
)
def test_a_model_whose_files_are_damaged_is_named(loaded, model_dir, tmp_path, file, text):
    damaged = shutil.copytree(model_dir, tmp_path / "damaged")
    (damaged / file).write_text(text)
    with pytest.raises(
        ModelError, match=r"^[^ ]+: model.path: .*damaged.*; needed is .*; save the (model|tokenizer) again$"
    ):
        preview(loaded([{"prompt": "1", "completion": "2"}], model=damaged))
