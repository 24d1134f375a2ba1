import json
import subprocess
import sys

import pytest

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
