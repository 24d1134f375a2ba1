import json
import math
from pathlib import Path

import pytest

from rankray.errors import ModelError
from rankray.finetune.checkpoint import Progress, read_progress, remove_partial, write_checkpoint

PROGRESS = Progress(30, 1, 10, {"eval/nll": 1.5}, {"eval/nll": math.inf}, [{"eval/nll": 2.0}])


def test_what_is_written_is_read(tmp_path):
    path = write_checkpoint(tmp_path, PROGRESS, lambda place: None)
    assert Path(path).name == "step-000030"
    assert read_progress(path) == PROGRESS


def test_a_death_while_writing_leaves_no_checkpoint(tmp_path):
    def save(place):
        (Path(place) / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, PROGRESS, save)
    assert list(tmp_path.glob("step-*")) == []
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_writing_again_replaces(tmp_path):
    write_checkpoint(tmp_path, PROGRESS, lambda place: (Path(place) / "old").write_text("x"))
    path = write_checkpoint(tmp_path, PROGRESS, lambda place: (Path(place) / "new").write_text("x"))
    assert sorted(p.name for p in Path(path).iterdir()) == ["new", "rankray.json"]


@pytest.mark.parametrize("text", [None, "{", json.dumps({"step": 1})])
def test_something_else_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "rankray.json").write_text(text)
    with pytest.raises(ModelError, match=r"^checkpoint: .*cannot be resumed"):
        read_progress(str(tmp_path))
