"""Checkpoints that are not as they were written."""

import json
import os
import random
import shutil

import pytest

from rankray.checkpoints import manifest
from rankray.errors import CheckpointDamaged

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json")


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "step-000010"
    (directory / "nested").mkdir(parents=True)
    draw = random.Random(0)
    for name in FILES:
        (directory / name).write_bytes(draw.randbytes(5000))
    (directory / "nested" / "file").write_bytes(b"x")
    (directory / "empty").write_bytes(b"")
    (directory / "rankray.json").write_text(json.dumps({"step": 10, "manifest": True}))
    manifest.write(directory)
    return directory


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path):
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


ATTACKS = {
    "gone": lambda path: path.unlink(),
    "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "one bit": flip,
    "a link": link,
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


def test_a_checkpoint_as_it_was_written_is_sound(checkpoint):
    noted = []
    assert manifest.problem(checkpoint) == ""
    manifest.check(checkpoint, "place", noted.append)
    assert noted == []


@pytest.mark.parametrize("name", [*FILES, "nested/file", "rankray.json", "rankray-manifest.json"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_change_is_noticed(checkpoint, name, attack):
    if (name, attack) == ("rankray-manifest.json", "a link"):
        pytest.skip("what is listed is the same")
    ATTACKS[attack](checkpoint / name)
    if (name, attack) == ("rankray-manifest.json", "one bit") and _lists_the_same(checkpoint):
        pytest.skip("white space")
    with pytest.raises(CheckpointDamaged, match="checkpoint: place is damaged: ") as refused:
        manifest.check(checkpoint, "place")
    assert refused.value.place == "place"
    assert "\n" not in str(refused.value)


def _lists_the_same(checkpoint):
    return manifest.problem(checkpoint) == ""


def test_all_lists_of_a_checkpoint_count(checkpoint):
    """Workers on several nodes upload to one place, and each node's first one writes a list."""
    (checkpoint / "rng_state_1.pth").write_bytes(b"abc")
    whole = json.loads((checkpoint / "rankray-manifest.json").read_text())
    manifest.write(checkpoint, rank=1)
    (checkpoint / "rankray-manifest.json").write_text(json.dumps(whole))
    assert manifest.problem(checkpoint) == ""
    flip(checkpoint / "rng_state_1.pth")
    assert manifest.problem(checkpoint) == "rng_state_1.pth is not as it was written"


def test_a_list_names_nothing_outside(checkpoint):
    file = checkpoint / "rankray-manifest.json"
    listed = json.loads(file.read_text())
    for name in ("../secret", "/etc/passwd"):
        file.write_text(json.dumps({"files": listed["files"] | {name: {"bytes": 1, "sha256": ""}}}))
        assert "which is not in the checkpoint" in manifest.problem(checkpoint)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {"rankray.json": 3}}', '{"files": {}}'])
def test_a_list_that_is_none_is_damage(checkpoint, content):
    (checkpoint / "rankray-manifest.json").write_text(content)
    assert manifest.problem(checkpoint)


def test_a_checkpoint_of_an_earlier_version_is_used_and_said_to_be_unchecked(checkpoint):
    (checkpoint / "rankray-manifest.json").unlink()
    (checkpoint / "rankray.json").write_text('{"step": 10}')
    noted = []
    manifest.check(checkpoint, "place", noted.append)
    assert noted == [
        "checkpoint place was made by an earlier version and has no list of its files; it is used unchecked"
    ]
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(CheckpointDamaged, match=r"optimizer\* is missing"):
        manifest.check(checkpoint, "place")


def test_one_that_is_not_there_says_so(checkpoint):
    shutil.rmtree(checkpoint)
    with pytest.raises(CheckpointDamaged, match="place is damaged: it is not there"):
        manifest.check(checkpoint, "place")
