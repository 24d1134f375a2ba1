import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import datasets
import pytest
from datasets.arrow_writer import ArrowWriter

from rankray.config.sections import DataSection, SourceSection
from rankray.data import cache as cache_module
from rankray.data import tokenize
from rankray.data.tokenize import load_split
from rankray.errors import DataError

COLUMNS = {
    "input_ids": [[1, 2, 3]],
    "labels": [[-100, 2, 3]],
    "start": [1],
    "supervised": [True],
    "length_tokens": [5],
    "length_supervised": [4],
    "length_kept": [2],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKRAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def tokenizer(model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"q": f"{i} plus 1 is?", "a": str(i + 1)}) + "\n" for i in range(5)))
    return path


def section(source, **fields):
    return DataSection(train=str(source), eval=str(source), **{"prompt": "{q}\n", "completion": "{a}", **fields})


TURNS = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]


def never():
    raise AssertionError("made again")


def test_a_table_is_made_once_and_then_mapped(cache):
    made = cache_module.shared_table(["x"], lambda: iter([COLUMNS, COLUMNS]))
    again = cache_module.shared_table(["x"], never)
    assert again.to_dict() == made.to_dict() == {name: value * 2 for name, value in COLUMNS.items()}
    assert [path.suffix for path in sorted(cache.glob("*.arrow"))] == [".arrow"]
    with open("/proc/self/maps") as maps:
        assert any(str(cache) in line for line in maps)


def test_a_table_with_weights_and_one_of_an_earlier_version_without(cache):
    weighted = {**COLUMNS, "weights": [[0.0, 0.5, 2.0]]}
    plain = {**COLUMNS, "weights": [None]}
    found = cache_module.shared_table(["w"], lambda: iter([plain, weighted]))
    assert found["weights"][:] == [None, [0.0, 0.5, 2.0]]
    assert tokenize.Split(found, list).weighted
    assert not tokenize.Split(cache_module.shared_table(["p"], lambda: iter([plain])), list).weighted
    earlier = tokenize.Split(cache_module.shared_table(["x"], lambda: iter([COLUMNS])), list)
    assert not earlier.weighted
    assert earlier.dataset.column_names == ["input_ids", "labels"]


def test_what_was_made_from_something_else_is_another_table():
    cache_module.shared_table(["x"], lambda: iter([COLUMNS]))
    with pytest.raises(AssertionError, match="made again"):
        cache_module.shared_table(["y"], never)


def test_a_table_that_cannot_be_made_leaves_no_file(cache):
    def breaks():
        yield COLUMNS
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        cache_module.shared_table(["x"], breaks)
    assert not [path for path in cache.iterdir() if path.suffix == ".arrow"]
    assert len(cache_module.shared_table(["x"], lambda: iter([COLUMNS]))) == 1


def test_what_a_killed_process_left_of_a_table_is_deleted_by_the_next_one(cache):
    code = (
        "import os, signal; from pathlib import Path; from rankray.data import cache\n"
        f"def parts():\n    yield {COLUMNS}\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"cache._write(Path({str(cache / 'a.arrow')!r}), 'f', parts())"
    )
    cache.mkdir(parents=True)
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(cache.glob(".unfinished-*"))) == 1
    cache_module._write(cache / "a.arrow", "f", [COLUMNS])
    assert [each.name for each in cache.iterdir()] == ["a.arrow"]
    assert (cache / "a.arrow").stat().st_mode & 0o777 == 0o600


def test_where_nothing_can_be_written_tokens_stay_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANKRAY_CACHE", str(tmp_path / "file" / "below"))
    assert cache_module.shared_table(["x"], lambda: iter([COLUMNS])).to_dict() == COLUMNS


def test_on_a_full_disk_tokens_stay_in_memory(cache, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as while_full:
        while_full.setattr(ArrowWriter, "write_batch", full)
        found = cache_module.shared_table(["x"], lambda: iter([COLUMNS]))
    assert (found.to_dict(), found.cache_files) == (COLUMNS, [])
    assert [file.suffix for file in cache.iterdir()] == [".lock"], "nothing half written"
    assert cache_module.shared_table(["x"], lambda: iter([COLUMNS])).cache_files, "where there is room again"


@pytest.mark.parametrize("left", [0, 10, 0.5, 0.9])
def test_a_damaged_table_is_made_again(cache, left):
    columns = {name: value * 500 for name, value in COLUMNS.items()}
    cache_module.shared_table(["x"], lambda: [columns])
    [file] = cache.glob("*.arrow")
    size = file.stat().st_size
    os.truncate(file, left if left > 1 else int(size * left))
    assert cache_module.shared_table(["x"], lambda: [columns]).to_dict() == columns
    assert [file.stat().st_size] == [each.stat().st_size for each in cache.glob("*.arrow")] == [size]


def test_an_error_of_the_source_is_not_taken_for_one_of_the_cache(cache):
    with pytest.raises(FileNotFoundError, match="the source"):
        cache_module.shared_table(["x"], lambda: (_ for _ in ()).throw(FileNotFoundError("the source")))


def test_what_nobody_used_for_long_is_deleted_when_another_is_written(cache):
    cache_module.shared_table(["old"], lambda: iter([COLUMNS]))
    [old] = cache.glob("*.arrow")
    long_ago = time.time() - (cache_module.KEPT_DAYS + 1) * 86_400
    os.utime(old, (long_ago, long_ago))
    cache_module.shared_table(["new"], lambda: iter([COLUMNS]))
    assert not old.exists()
    assert len(list(cache.glob("*.arrow"))) == 1


def test_use_keeps_a_table_from_being_old(cache):
    cache_module.shared_table(["x"], lambda: iter([COLUMNS]))
    [file] = cache.glob("*.arrow")
    os.utime(file, (1, 1))
    cache_module.shared_table(["x"], never)
    cache_module.shared_table(["y"], lambda: iter([COLUMNS]))
    assert file.exists()


def test_processes_at_once_make_a_table_once(tmp_path):
    code = (
        "import sys, time\n"
        "from rankray.data.cache import shared_table\n"
        "def make():\n"
        f"    open({str(tmp_path)!r} + '/made', 'a').write('x')\n"
        "    time.sleep(0.5)\n"
        "    yield {'input_ids': [[1]], 'labels': [[1]], 'start': [0], 'supervised': [False]}\n"
        "print(len(shared_table('x', make)))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["1"] * 3
    assert (tmp_path / "made").read_text() == "x"


def test_a_split_is_tokenised_once_for_all_processes(source, tokenizer, monkeypatch):
    first = load_split("train", section(source), tokenizer, 64)
    monkeypatch.setattr(tokenize, "encode", lambda *_: never())
    second = load_split("train", section(source), tokenizer, 64)
    assert second.tokens == first.tokens
    assert second.rows == first.rows
    assert second.dataset.to_dict() == first.dataset.to_dict()
    assert second.dataset.cache_files


@pytest.mark.parametrize(
    "change", [{"prompt": "{q} "}, {"completion": "{a}!"}, {"limit": 9}, {"first": 2}, {"source": True}, {"eos": True}]
)
def test_everything_the_tokens_depend_on_counts(source, tokenizer, monkeypatch, change):
    load_split("train", section(source), tokenizer, 64)
    monkeypatch.setattr(tokenize, "encode", lambda *_: never())
    if change.pop("source", False):
        source.write_text(source.read_text() + json.dumps({"q": "9", "a": "9"}) + "\n")
    if change.pop("eos", False):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(5)
    limit, first = change.pop("limit", 64), change.pop("first", None)
    with pytest.raises(AssertionError, match="made again"):
        load_split("train", section(source, **change), tokenizer, limit, first)


def test_how_the_tokenizer_was_last_called_does_not_count(source, tokenizer, monkeypatch):
    load_split("train", section(source), tokenizer, 64)
    tokenizer(["1 plus 1", "2"], truncation=True, max_length=3, padding="max_length")
    assert "max_length" in tokenizer.backend_tokenizer.to_str()
    monkeypatch.setattr(tokenize, "encode", lambda *_: never())
    load_split("train", section(source), tokenizer, 64)


OTHERWISE = {
    "train": None, "where": {"q": "2"}, "max_examples": 1, "format": "columns", "prompt": "{q} ", "completion": "{a}!",
    "messages": "m", "chat": True, "train_on": "all", "weight_column": "w", "token_weights": "t", "prompt_weight": 0.5,
}  # fmt: skip
"""Fields of `data` on which the tokens of the same files depend -> another value."""
NOT = {"eval", "test", "max_length", "chat_template", "revision", "streaming"}
"""Those on which they do not: the limit is an argument, the template the tokenizer's, the revision a hub dataset's."""


def test_each_field_of_data_is_among_those_the_tokens_depend_on_or_not():
    assert OTHERWISE.keys() | NOT == DataSection.model_fields.keys()


@pytest.mark.parametrize("field", OTHERWISE)
def test_a_field_that_is_another_takes_no_tokens_of_before(source, tmp_path, tokenizer, field):
    row = {"q": "1", "a": "2", "w": 2.0, "t": [1.0, 0.5]}
    source.write_text("".join(json.dumps(each) + "\n" for each in ({**row, "m": TURNS}, {**row, "q": "2", "m": TURNS})))
    given = DataSection(train=str(source), eval=str(source), prompt="{q}\n", completion="{a}")
    changed = given.model_copy(update={field: OTHERWISE[field]})
    if field == "train":
        changed = given.model_copy(update={"train": str(shutil.copy(source, tmp_path / "other.jsonl"))})
    first = load_split("train", given, tokenizer, 64).table.cache_files
    assert load_split("train", changed, tokenizer, 64).table.cache_files != first
    assert load_split("train", given, tokenizer, 64).table.cache_files == first


ENTRY = {
    "path": None, "weight": 2.0, "max_examples": 1, "where": {"q": "2"}, "format": "columns", "prompt": "{q} ",
    "completion": "{a}!", "messages": "m", "chat": True, "weight_column": "w", "token_weights": "t",
}  # fmt: skip
"""Fields of an entry of a mixture -> another value; `revision` is of hub datasets alone."""


def test_each_field_of_an_entry_is_tried():
    assert ENTRY.keys() | {"revision"} == SourceSection.model_fields.keys()


@pytest.mark.parametrize("field", ENTRY)
def test_an_entry_that_is_another_takes_no_tokens_of_before(source, tmp_path, tokenizer, field):
    row = {"q": "1", "a": "2", "w": 2.0, "t": [1.0, 0.5], "m": TURNS}
    source.write_text("".join(json.dumps({**row, "q": str(number)}) + "\n" for number in (1, 2)))
    entry = {"path": str(source), "weight": 1.0}
    changed = {**entry, field: ENTRY[field]}
    if field == "path":
        changed["path"] = str(shutil.copy(source, tmp_path / "other.jsonl"))

    def files(*entries):
        return load_split("train", section("x").model_copy(update={"train": entries}), tokenizer, 64).table.cache_files

    one, other = SourceSection(**entry), SourceSection(**changed)
    first = files(one, one)
    assert files(one, other) != first
    assert files(other, one) not in (first, files(one, other))
    assert files(one, one.model_copy()) == first


def test_a_trial_s_prompt_weight_takes_the_tokens_of_another_s(source, tokenizer):
    found = [
        load_split("train", section(source, prompt_weight=weight), tokenizer, 64).table.cache_files
        for weight in (0.1, 0.2, 0.0)
    ]
    assert found[0] == found[1] != found[2]


def test_a_form_that_the_first_rows_show_is_not_that_of_all_rows(tmp_path, tokenizer):
    """Of these rows the first 1000 alone are recognised as text: `prompt` and `completion` come later."""
    file = tmp_path / "x.jsonl"
    rows = [{"text": "1"}] * 1000 + [{"text": "2", "prompt": "3", "completion": "4"}] * 2
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataSection(train=str(file), eval=str(file))
    streamed = load_split("train", data.model_copy(update={"streaming": True}), tokenizer, 64)
    assert len(streamed.table) == 1002
    with pytest.raises(DataError, match=r"1,000 of 1,002 rows|no value in column 'prompt'"):
        load_split("train", data, tokenizer, 64)


def test_other_tokens_that_a_chat_template_writes_are_other_tokens(tmp_path, tokenizer):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"messages": TURNS}))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + pad_token }}{% endfor %}"
    data = DataSection(train=str(file), eval=str(file))
    found = []
    for token in ("<pad>", tokenizer.convert_ids_to_tokens(9)):
        tokenizer.pad_token = token
        split = load_split("train", data, tokenizer, 64)
        found.append(tokenizer.convert_ids_to_tokens(split.tokens[0].input_ids)[-1])
    assert found == ["<pad>", tokenizer.convert_ids_to_tokens(9)]
    tokenizer.chat_template = tokenizer.chat_template.replace("pad_token", "eos_token")
    before = load_split("train", data, tokenizer, 64).table.cache_files
    tokenizer.pad_token = "<pad>"
    assert load_split("train", data, tokenizer, 64).table.cache_files == before, "no template names the pad token"


def test_special_tokens_that_are_split_in_texts_are_other_tokens(source, tokenizer):
    source.write_text(json.dumps({"q": "<pad>", "a": "2"}))
    whole = load_split("train", section(source), tokenizer, 64).tokens
    tokenizer.split_special_tokens = True
    assert load_split("train", section(source), tokenizer, 64).tokens != whole


@pytest.mark.parametrize(("form", "again"), [("messages", True), ("columns", False)])
def test_conversations_of_an_earlier_version_are_tokenised_again(tmp_path, tokenizer, monkeypatch, form, again):
    """It knew no turns of `train: false`; its other tables are as they were."""
    turns = [{"role": "assistant", "content": "1", "train": False}, {"role": "assistant", "content": "2"}]
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"q": "1", "a": "2", "messages": turns}))
    data = section(file, format=form, train_on="all")
    with monkeypatch.context() as earlier:
        earlier.setattr(tokenize, "_may_read_more", lambda data: False)
        columns = tokenize._columns
        earlier.setattr(
            tokenize, "_columns", lambda *given: {k: v for k, v in columns(*given).items() if k != "weights"}
        )
        old = load_split("train", data, tokenizer, 64).table.cache_files
    assert (load_split("train", data, tokenizer, 64).table.cache_files != old) == again


def test_rows_of_a_source_that_has_changed_are_refused(source, tokenizer):
    split = load_split("train", section(source), tokenizer, 64)
    source.write_text(json.dumps({"q": "9", "a": "9"}) + "\n")
    with pytest.raises(DataError, match=r"^data.train: .*x.jsonl' was changed while it was in use"):
        _ = split.rows


def test_what_datasets_derives_from_a_table_is_found_again(cache, source, tokenizer):
    for _ in range(2):
        table = load_split("train", section(source), tokenizer, 64).dataset
        os.utime(next(iter(cache.glob("[0-9a-f]*.arrow"))))
        table.map(lambda row: {"length": len(row["input_ids"])})
    assert len(list(cache.glob("cache-*.arrow"))) == 1


@pytest.mark.parametrize("change", ["source", "file", "nothing"])
def test_a_hub_dataset_is_found_again_by_its_name_and_cache_files(tmp_path, tokenizer, monkeypatch, change):
    def load(name, config, split):
        return datasets.Dataset.from_file(str(tmp_path / "hub.arrow"))

    with ArrowWriter(path=str(tmp_path / "hub.arrow")) as writer:
        writer.write_batch({"q": ["1"], "a": ["2"]})
        writer.finalize()
    monkeypatch.setattr(datasets, "load_dataset", load)
    first = load_split("train", section("a/b:train"), tokenizer, 64)
    monkeypatch.setattr(tokenize, "encode", lambda *_: never())
    if change == "file":
        os.utime(tmp_path / "hub.arrow", (1, 1))
    if change == "nothing":
        assert load_split("train", section("a/b:train"), tokenizer, 64).tokens == first.tokens
    else:
        with pytest.raises(AssertionError, match="made again"):
            load_split("train", section("a/b:train[:1]" if change == "source" else "a/b:train"), tokenizer, 64)


def test_a_table_in_memory_has_the_columns_of_a_mapped_one():
    mapped = cache_module.shared_table(["x"], lambda: iter([COLUMNS, COLUMNS]))
    in_memory = cache_module.table_in_memory(iter([COLUMNS, COLUMNS]))
    assert in_memory.features == mapped.features
    assert in_memory.to_dict() == mapped.to_dict()
    assert not in_memory.cache_files
