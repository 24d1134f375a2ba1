import contextlib
import errno
import json
import math
import os
import pickle
import shutil
from pathlib import Path

import pytest
from fixtures.training import Killed, Recorder

from rankray.checkpoints import manifest
from rankray.config import config_from
from rankray.errors import ConfigError, ModelError, StorageError, StorageFull
from rankray.finetune.checkpoint import Progress, check_resumable, read_progress, remove_partial, write_checkpoint

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


def fill_up(place):
    """Write to a device that is always full: the system's own error."""
    (Path(place) / "half").write_text("x")
    with open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")


def test_a_full_disk_is_named_and_leaves_no_checkpoint(tmp_path):
    with pytest.raises(StorageFull, match=rf"^storage: {tmp_path} is full, .* step 30 .*No space left"):
        write_checkpoint(tmp_path, PROGRESS, fill_up)
    assert list(tmp_path.iterdir()) == []


def test_torchs_own_words_for_a_full_disk_are_known(tmp_path):
    def save(place):
        try:
            fill_up(place)
        except OSError:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed") from None

    with pytest.raises(StorageFull):
        write_checkpoint(tmp_path, PROGRESS, save)

    def broken(place):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    with pytest.raises(RuntimeError, match="PytorchStreamWriter"):
        write_checkpoint(tmp_path, PROGRESS, broken)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOENT, errno.EACCES])
def test_a_disk_that_fails_is_no_fault_of_the_trial(tmp_path, number):
    def save(place):
        (Path(place) / "half").write_text("x")
        raise OSError(number, os.strerror(number))

    said = rf"^storage: {tmp_path} fails: the checkpoint of step 30 could not be written \(.*{os.strerror(number)}\)"
    with pytest.raises(StorageError, match=said) as caught:
        write_checkpoint(tmp_path, PROGRESS, save)
    assert not isinstance(caught.value, StorageFull)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_takes_no_files_any_more_is_named_whatever_a_library_says(tmp_path):
    directory = tmp_path / "runs"

    def save(place):
        shutil.rmtree(directory)
        directory.touch()
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    with pytest.raises(StorageError, match=rf"^storage: {directory} fails: the checkpoint of step 30 could not"):
        write_checkpoint(directory, PROGRESS, save)


def test_an_error_of_the_model_s_own_is_not_the_storage_s(tmp_path):
    def save(place):
        raise OSError("this model has no file of that name")

    with pytest.raises(OSError, match="no file of that name"):
        write_checkpoint(tmp_path, PROGRESS, save)


@pytest.mark.parametrize(
    "changes",
    [
        {"train__learning_rate": 1.0},
        {"model__lora": {"rank": 2}},
        {"train__sft": {"optim": "sgd"}},
        {"data__prompt": "x"},
    ],
)
def test_a_setting_without_effect_is_refused_by_its_name(tree, changes):
    [name] = changes
    progress = Progress(4, 0, 4, config=config_from(tree()).model_dump(mode="json"))
    said = rf"^{name.replace('__', '.')}: got .*, and 'CK' was trained with .*; set it back"
    with pytest.raises(ConfigError, match=said):
        check_resumable(progress, config_from(tree(**changes)), "CK")


def test_an_extension_and_what_has_its_effect_are_allowed(tree, tmp_path):
    progress = Progress(4, 0, 4, config=config_from(tree()).model_dump(mode="json"))
    (tmp_path / "link").symlink_to(tree()["model"]["path"])
    changes = {
        "train__max_steps": 99,
        "train__threads": 2,
        "evaluate__every_steps": 9,
        "model__path": f"{tmp_path}/link",
    }
    check_resumable(progress, config_from(tree(**changes, loss__temperature=2.0)), "CK")
    check_resumable(Progress(4, 0, 4), config_from(tree(train__learning_rate=1.0)), "of an earlier version")


def test_writing_again_replaces(tmp_path):
    write_checkpoint(tmp_path, PROGRESS, lambda place: (Path(place) / "old").write_text("x"))
    path = write_checkpoint(tmp_path, PROGRESS, lambda place: (Path(place) / "new").write_text("x"))
    assert sorted(p.name for p in Path(path).iterdir()) == ["new", "rankray-manifest.json", "rankray.json"]
    assert manifest.problem(Path(path)) == ""


@pytest.mark.parametrize("text", [None, "{", json.dumps({"step": 1})])
def test_something_else_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "rankray.json").write_text(text)
    with pytest.raises(ModelError, match=r"^checkpoint: .*cannot be resumed"):
        read_progress(str(tmp_path))


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, mark):
        self._mark = mark

    def __reduce__(self):
        return Path.touch, (self._mark,)


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin", "training_args.bin"]
)
def test_a_planted_pickle_is_never_run(name, tree, train, tmp_path):
    short = tree(train__max_steps=4, evaluate__every_steps=2, train__batch_size=8)
    with pytest.raises(Killed):
        train(short, Recorder(die_at=4))
    mark, checkpoint = tmp_path / "ran", tmp_path / "trial" / "step-000002"
    (checkpoint / name).write_bytes(pickle.dumps(Planted(mark)))
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    with contextlib.suppress(Exception):
        train(short, checkpoint=str(checkpoint), directory="again")
    assert not mark.exists()
    pickle.loads((checkpoint / name).read_bytes())
    assert mark.exists()


def test_code_beside_the_weights_is_not_run(tree, train, tmp_path, model_dir):
    planted, mark = tmp_path / "planted", tmp_path / "ran"
    shutil.copytree(model_dir, planted)
    config = json.loads((planted / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (planted / "config.json").write_text(json.dumps(config))
    (planted / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    with contextlib.suppress(Exception):
        train(tree(model__path=str(planted), train__max_steps=2, evaluate__every_steps=2))
    assert not mark.exists()
