import json
import shutil

import pytest
from fixtures.training import build_model

from rankray.config import load_config
from rankray.errors import UserError
from rankray.finetune.preflight import preflight
from rankray.setup.starter import Answers, start

CHAT = [{"role": "user", "content": "1 plus 2 is?"}, {"role": "assistant", "content": "3"}]
SAID = [{"from": "human", "value": "1 plus 2 is?"}, {"from": "gpt", "value": "3"}]
KINDS = {
    "alpaca": {"instruction": "Add", "input": "1 2", "output": "3"},
    "sharegpt": {"conversations": SAID},
    "messages": {"messages": CHAT},
    "prompt_completion": {"prompt": CHAT[:1], "completion": CHAT[1:]},
    "text": {"text": "1 plus 2 is 3"},
    "columns": {"Question": "1 plus 2 is?", "final": True, "Answer": "3"},
}


@pytest.fixture(scope="module")
def long_model(tmp_path_factory):
    """A model with room for Alpaca's template."""
    return build_model(tmp_path_factory.mktemp("long"), max_position_embeddings=512)


@pytest.fixture
def begin(tmp_path, long_model):
    """Make a file from answers; return its configuration and what was said."""

    def go(*kinds, rows=20, model=long_model, **given):
        said = []
        for kind in kinds:
            (tmp_path / f"{kind}.jsonl").write_text((json.dumps(KINDS.get(kind, {"a": 1, "b": 2})) + "\n") * rows)
        sources = [str(tmp_path / f"{kind}.jsonl") for kind in kinds]
        start(Answers(str(model), sources, **given), tmp_path / "s.yaml", said.append)
        return load_config(tmp_path / "s.yaml"), said

    return go


@pytest.mark.parametrize("kind", KINDS)
def test_check_accepts_what_is_made_for_any_form(begin, kind):
    loaded, said = begin(kind)
    preflight(loaded)
    data = loaded.config.data
    assert data.format == kind
    assert any(f"18 rows, format {kind}" in line for line in said)
    assert (data.train_on == "all") == (kind in ("messages", "sharegpt"))
    assert (loaded.config.train.batch_size, data.max_length) == (2, 256 if kind == "alpaca" else 128)
    if kind == "columns":
        assert (data.prompt, data.completion) == ("{Question}\n", "{Answer}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_a_chat_template_gets_the_plain_one_for_conversations(begin, long_model, tmp_path, kind):
    bare = shutil.copytree(long_model, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    loaded, _ = begin(kind, model=bare)
    preflight(loaded)
    is_chat = kind in ("sharegpt", "messages", "prompt_completion")
    assert loaded.config.data.chat_template == ("plain" if is_chat else None)


def test_a_mixture(begin):
    loaded, _ = begin("alpaca", "sharegpt", "columns")
    preflight(loaded)
    assert [entry.format for entry in loaded.config.data.train] == ["alpaca", "sharegpt", "columns"]
    assert loaded.config.data.eval[2].prompt == "{Question}\n"


@pytest.mark.parametrize(
    ("train", "held_out"),
    [(["columns"], "alpaca"), (["alpaca"], "columns"), (["columns", "sharegpt"], "columns"), (["text"], "messages")],
)
def test_held_out_data_have_a_form_of_their_own(begin, tmp_path, train, held_out):
    (tmp_path / "held.jsonl").write_text((json.dumps(KINDS[held_out]) + "\n") * 3)
    loaded, said = begin(*train, eval=[str(tmp_path / "held.jsonl")])
    preflight(loaded)
    assert [entry.format for entry in loaded.config.data.eval] == [held_out]
    assert any(line.startswith(f"{tmp_path / 'held.jsonl'}: 3 rows, format {held_out}") for line in said)


def test_answers_are_followed(begin, tmp_path):
    (tmp_path / "e.jsonl").write_text(json.dumps({"a": "1", "b": "2"}) + "\n")
    loaded, _ = begin(
        "other", eval=[str(tmp_path / "e.jsonl")], metric="accuracy", prompt="{a}:", completion="{b}", lora=True,
        trials=5, gpus=2,
    )  # fmt: skip
    config = loaded.config
    assert (config.study.metric, config.evaluate.metrics) == ("eval/accuracy", ["nll", "accuracy"])
    assert (config.data.prompt, config.data.completion) == ("{a}:", "{b}")
    assert config.data.eval == str(tmp_path / "e.jsonl")
    assert config.model.lora is not None
    assert (config.study.trials, config.resources.gpus_per_worker) == (5, 2)
    assert config.space["train.learning_rate"]["float"] == [3e-5, 3e-3]


def test_nothing_is_left_behind_where_it_fails(begin, tmp_path):
    with pytest.raises(UserError, match="has the columns a, b, and which is asked and which answered is not plain"):
        begin("other")
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["other.jsonl"]
    assert not (tmp_path / "s.yaml").exists()
    (tmp_path / "s.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"s.yaml' exists"):
        begin("text")
    assert (tmp_path / "s.yaml").read_text() == "mine"


def test_a_hub_dataset_is_sliced(tmp_path):
    start(Answers("a/model", ["b/data:train"]), tmp_path / "s.yaml", lambda line: None)
    data = load_config(tmp_path / "s.yaml").config.data
    assert (data.train, data.eval, data.format) == ("b/data:train[:95%]", "b/data:train[95%:]", "auto")


@pytest.mark.parametrize("seed", range(3))
def test_no_row_is_held_out_that_nothing_is_made_from(long_model, tmp_path, monkeypatch, seed):
    monkeypatch.setattr("rankray.setup.held_out.SEED", seed)
    rows = [{"conversations": SAID}, {"conversations": SAID[:1]}] * 9 + [{"conversations": SAID}] * 2
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = []
    start(Answers(str(long_model), [str(tmp_path / "chats.jsonl")]), tmp_path / "s.yaml", said.append)
    assert (tmp_path / "chats.eval.jsonl").read_text() == json.dumps({"conversations": SAID}) + "\n"
    assert said[-2].startswith("data.train: 9 of 19 rows left out, with nothing to train on: 9 with no assistant turn")


@pytest.mark.parametrize(("stem", "name"), [("é", "e"), ("2024", "2024"), ("no", "no"), (".x", "x"), ("日本", "study")])
def test_the_file_may_be_called_anything(begin, long_model, tmp_path, stem, name):
    begin("text")
    file, source = tmp_path / f"{stem}.yaml", str(tmp_path / "text.train.jsonl")
    start(Answers(str(long_model), [source], eval=[str(tmp_path / "text.eval.jsonl")]), file, lambda line: None)
    assert load_config(file).config.name == name
