"""A key that does not exist where it stands: what it may mean."""

import pytest

from rankray.config.fields import all_fields, keys_of
from rankray.config.other_names import OTHER_NAMES, did_you_mean


def test_every_name_of_another_tool_stands_for_a_field_or_a_section():
    for path in OTHER_NAMES.values():
        assert path in all_fields() or path == "space" or keys_of(path), path


@pytest.mark.parametrize(
    ("section", "name", "said"),
    [
        ("train", "lr", " (did you mean 'learning_rate'?)"),
        ("evaluate", "batch", " (did you mean 'batch_size'?)"),
        ("evaluate", "steps", " (did you mean 'every_steps' or 'train.max_steps'?)"),
        ("train", "scheduler", " (did you mean 'schedule' or 'study.pruner'?)"),
        ("", "lr", " (did you mean 'train.learning_rate'?)"),
        ("", "learning_rate", " (did you mean 'train.learning_rate'?)"),
        ("train", "per_device_train_batch_size", " (did you mean 'micro_batch_size'?)"),
        ("train", "max_length", " (did you mean 'max_steps' or 'data.max_length'?)"),
        ("evaluate", "metric", " (did you mean 'metrics' or 'study.metric'?)"),
        ("loss", "temprature", " (did you mean 'temperature'?)"),
        ("", "revision", " (did you mean 'model.revision' or 'data.revision'?)"),
        ("", "seed", ""),
        ("", "no_such_thing_at_all_1", ""),
    ],
)
def test_what_a_key_may_mean(section, name, said):
    assert did_you_mean(name, keys_of(section)) == said


def test_a_key_that_is_allowed_there_is_not_another_one():
    assert did_you_mean("lora", ["lora", "path"]) == " (did you mean 'lora'?)"
