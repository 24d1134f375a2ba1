import json
import shutil

import pytest

from rankray.config import LoadedConfig, config_from
from rankray.config.evaluation import AlsoSection
from rankray.errors import ConfigError, DataError, ModelError
from rankray.evaluate.sets import check_sets, read_choices
from rankray.finetune.preflight import preflight


@pytest.mark.parametrize("label", [1, "1", "B", "blue"])
def test_the_right_choice_may_be_given_in_several_ways(label):
    section = AlsoSection(data="x.jsonl", choices="c", label="l")
    assert read_choices({"c": ["red", "blue"], "l": label}, section, "w") == (["red", "blue"], 1)


@pytest.mark.parametrize("row", [{"c": "red", "l": 0}, {"c": ["red"], "l": 0}, {"c": ["red", "blue"], "l": "green"}])
def test_rows_that_do_not_fit_are_named(row):
    with pytest.raises(DataError, match=r"^evaluate\.also\.arc: column '[cl]' holds .*; allowed is .*; name"):
        read_choices(row, AlsoSection(data="x.jsonl", choices="c", label="l"), "evaluate.also.arc")


@pytest.fixture
def loaded(tree, tmp_path):
    def make(rows, **section):
        file = tmp_path / "more.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        also = {"more": {"data": str(file), **section}}
        return LoadedConfig(config_from(tree(evaluate__also=also)), "x.yaml", {})

    return make


CHOICES = {"q": "1", "c": ["a", "b"], "l": 0}


@pytest.mark.parametrize(
    ("rows", "section", "said"),
    [
        (
            [CHOICES],
            {"prompt": "{Q}", "choices": "c", "label": "l"},
            r"more.prompt: no column 'Q' \(did you mean 'q'\?\); columns",
        ),
        (
            [CHOICES, {**CHOICES, "l": 7}],
            {"prompt": "{q}", "choices": "c", "label": "l"},
            r"jsonl:2: column 'l' holds 7",
        ),
        ([CHOICES], {"prompt": "{q}", "choices": "C", "label": "l"}, r"jsonl:1: column 'C' holds 'None'"),
        ([{"q": "1"}], {"prompt": "{q}", "completion": "{a}"}, r"more.completion: no column 'a'"),
        ([{"q": "1"}], {"messages": "m"}, r"more.messages: no column 'm'"),
    ],
    ids=str,
)
def test_a_set_is_checked_before_anything_starts(loaded, rows, section, said):
    with pytest.raises(DataError, match=rf"^x.yaml: evaluate\.also\..*{said}"):
        preflight(loaded(rows, **section))


def test_files_that_are_not_there_and_names_that_are_none(loaded, tree):
    for given, said in (("none.jsonl", "no file .*none.jsonl"), ("notes.doc", "'notes.doc' ends in '.doc'")):
        also = {"more": {"data": given, "metrics": ["nll"]}}
        with pytest.raises(DataError, match=rf"^x.yaml: evaluate\.also\.more\.data: {said}"):
            check_sets(LoadedConfig(config_from(tree(evaluate__also=also)), "x.yaml", {}))


def test_a_chat_needs_a_template(loaded, model_dir, tmp_path):
    made = loaded([{"q": "1", "a": "2"}], prompt="{q}", completion="{a}", chat=True, metrics=["nll"])
    assert check_sets(made)[0]
    bare = tmp_path / "bare"
    shutil.copytree(model_dir, bare)
    (bare / "chat_template.jinja").unlink()
    config = made.config.model_copy(update={"model": made.config.model.model_copy(update={"path": str(bare)})})
    with pytest.raises(ModelError, match=r"^x.yaml: the tokenizer .* has no chat template"):
        preflight(LoadedConfig(config, "x.yaml", {}))


def test_messages_and_choices_exclude_each_other(loaded):
    with pytest.raises(ConfigError, match=r"got messages 'm' beside choices; allowed: one of them"):
        loaded([CHOICES], messages="m", choices="c")


def test_conversations_that_the_chat_template_refuses_are_found_before_an_evaluation(loaded, model_dir, tmp_path):
    strict = tmp_path / "strict"
    shutil.copytree(model_dir, strict)
    (strict / "chat_template.jinja").write_text("{{ raise_exception('no chats today') }}")
    made = loaded([{"q": "1", "a": "2"}], prompt="{q}", completion="{a}", chat=True, metrics=["nll"])
    config = made.config.model_copy(update={"model": made.config.model.model_copy(update={"path": str(strict)})})
    with pytest.raises(DataError, match=r"^x.yaml: evaluate\.also\..*no chats today"):
        preflight(LoadedConfig(config, "x.yaml", {}))
