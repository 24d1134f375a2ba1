import json
import subprocess
import sys

import pytest
import typer

from rankray.config import load_config

ROWS = [{"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}]}] * 3


@pytest.fixture
def file(tmp_path, model_dir):
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"train": str(tmp_path / "chat.jsonl"), "eval": str(tmp_path / "chat.jsonl")}
    (tmp_path / "x.yaml").write_text(json.dumps({"model": {"path": str(model_dir)}, "data": data}))
    return str(tmp_path / "x.yaml")


def test_preview_marks_what_is_trained_on(rankray, file):
    said = rankray("preview", file, "--rows", "1")
    assert "chat.jsonl: format sharegpt" in said
    assert "<user> 1\n<assistant>« 2<eos>\n»" in said
    assert said.count("trained on") == 1
    assert said.splitlines()[-1].split()[:2] == ["data.train", "3"]


def test_preview_as_json(rankray, file):
    found = json.loads(rankray("preview", file, "--rows", "2", "--json"))
    assert found["format"] == "sharegpt"
    assert len(found["rows"]) == 2
    assert {"text", "supervised_text", "tokens", "supervised", "ends_with_stop_token"} <= found["rows"][0].keys()


def test_preview_of_a_split_that_is_not_there(rankray, file):
    assert "error: --split: got 'evl' (did you mean 'eval'?)" in rankray("preview", file, "--split", "evl", expect=2)


def test_preview_in_a_pipe_has_no_colour_and_needs_no_torch(file):
    probe = (
        "import sys; from rankray.cli.app import main; sys.argv = ['rankray', 'preview', sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\nprint('torch' in sys.modules, code)"
    )
    done = subprocess.run([sys.executable, "-c", probe, file], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1] == "False 0"


def test_init_by_flags_then_check(rankray, file, tmp_path, model_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = rankray("init", "--model", str(model_dir), "--data", "chat.jsonl", "-o", "mine.yaml", "--trials", "3")
    assert "set 1 example aside" in said
    assert "chat.train.jsonl: 2 rows, format sharegpt" in said
    assert "mine.yaml: ok" in rankray("check", "mine.yaml")
    assert "mine.yaml' exists" in rankray(
        "init", "--model", str(model_dir), "--data", "chat.jsonl", "-o", "mine.yaml", expect=2
    )


def test_init_learns_a_text_itself_where_the_prompt_is_empty(rankray, file, tmp_path, model_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.csv").write_text("text,label\n" + "a good one,good\na bad one,bad\n" * 8)
    words = ("--model", str(model_dir), "--data", "reviews.csv")
    assert 'completion: "{label}"' in rankray("init", *words, "-o", "label.yaml")
    for name in ("reviews.train.jsonl", "reviews.eval.jsonl"):
        (tmp_path / name).unlink()
    said = rankray("init", *words, "--prompt", "", "--completion", "{text}", "-o", "text.yaml")
    assert 'format columns, prompt: "", completion: "{text}"; columns not used: label' in said
    assert "text.yaml: ok" in rankray("check", "text.yaml")
    asked = ("--prompt", r"Review: {text}\nVerdict:", "--completion", "{label}")
    for name in ("reviews.train.jsonl", "reviews.eval.jsonl"):
        (tmp_path / name).unlink()
    assert r'prompt: "Review: {text}\nVerdict:"' in rankray("init", *words, *asked, "-o", "asked.yaml")
    assert load_config(tmp_path / "asked.yaml").config.data.prompt == "Review: {text}\nVerdict:"


def test_what_is_printed_to_be_typed_is_quoted(rankray, file, tmp_path, model_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = rankray("init", "--model", str(model_dir), "--data", "chat.jsonl", "-o", "my file.yaml")
    assert "rankray preview 'my file.yaml'\nsearch: rankray search 'my file.yaml'" in said


def test_init_without_a_terminal_says_what_is_missing(rankray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--model and --data missing" in rankray("init", expect=2)


def test_init_writes_a_cluster_file(rankray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "wrote aws.yaml" in rankray("init", "--cluster", "aws")
    assert (tmp_path / "aws.yaml").read_text().startswith("#")


def test_import_prints_or_writes(rankray, tmp_path):
    given = {"model_name_or_path": "a/b", "dataset_name": "c/d", "mystery": 1}
    (tmp_path / "trl.yaml").write_text(json.dumps(given))
    said = rankray("import", str(tmp_path / "trl.yaml"))
    assert "note: mystery: 1: has no counterpart here" in said
    assert "  path: a/b" in said
    out = str(tmp_path / "ours.yaml")
    assert f"TRL: wrote {out}" in rankray("import", str(tmp_path / "trl.yaml"), "-o", out)
    assert "ours.yaml' exists" in rankray("import", str(tmp_path / "trl.yaml"), "-o", out, expect=2)


def test_rows_with_nothing_to_train_on_are_counted_beside_the_others(rankray, file, tmp_path):
    rows = [*ROWS, {"conversations": [{"from": "human", "value": "1"}]}, {"conversations": []}]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = tmp_path / "chat.jsonl"
    line = (
        "data.train: 2 of 5 rows left out, with nothing to train on: 1 with no assistant turn "
        f"(first: {chats}:4), 1 with no turns (first: {chats}:5)"
    )
    assert rankray("preview", file).splitlines()[-1] == line
    assert json.loads(rankray("preview", file, "--json"))["left_out"]["rows"] == 2
    assert f"warning: {line}" in rankray("check", file, "--offline")
    found = json.loads(rankray("check", file, "--offline", "--json"))
    assert (found["data"]["train"]["rows"], found["data"]["train"]["left_out"]["of"]) == (3, 5)
    assert found["data"]["eval"]["left_out"]["reasons"]["with no turns"] == {"rows": 1, "first": f"{chats}:5"}
    assert line in found["warnings"]


def test_who_leaves_at_a_question_is_interrupted_and_has_no_file(rankray, tmp_path, monkeypatch):
    """Typer ends a question so at Ctrl-C, and at the end of the input."""

    def leave(*_given, **_options):
        raise typer.Abort

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.prompt", leave)
    assert "stopped; nothing was written" in rankray("init", expect=130)
    assert list(tmp_path.iterdir()) == []
