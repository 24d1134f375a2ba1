"""Whole: mutated model directories. What a check reads of a model, it reads or refuses in one line."""

import random
import shutil

import pytest
import yaml
from config.test_mutations import BYTES, attempt, mutated

from rankray.config import load_config
from rankray.finetune.preflight import preflight

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors")


def broken(directory, dice):
    """Break one file of a model: change its bytes, cut it, remove it, or put a directory in its place."""
    file = directory / dice.choice([name for name in FILES if (directory / name).exists()])
    content, way = file.read_bytes(), dice.random()
    file.unlink()
    if way < 0.1:
        file.mkdir()
    elif way < 0.3:
        file.write_bytes(content[: dice.randrange(len(content))])
    elif way < 0.9:
        file.write_bytes(bytes(mutated(content, BYTES, dice)))


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_mutated_models_are_read_or_refused(tmp_path, tree, model_dir, seed, count):
    dice, read = random.Random(f"models {seed}"), 0
    copied, file = tmp_path / "model", tmp_path / "s.yaml"
    for index in range(count):
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(model_dir, copied)
        broken(copied, dice)
        file.write_text(yaml.safe_dump(tree(model__path=str(copied))))
        try:
            read += attempt(lambda: preflight(load_config(file)))
        except BaseException:
            shutil.copytree(copied, tmp_path / f"failed-{index}")
            print(f"models: input {index} of seed {seed} failed; it is in {tmp_path}/failed-{index}")
            raise
    print(f"models: {count} inputs tried, {read} read, {count - read} refused, 0 failures")
    assert 0 < read < count
