"""Every field of the configuration, and what it allows."""

import pytest

from rankray.config.fields import limits


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("loss.entropy_weight", (0, None)),
        ("data.prompt_weight", (0, 1)),
        ("train.micro_batch_size", (1, None)),
        ("train.learning_rate", (None, None)),  # above zero, which is no value of its own
        ("loss.objective", (None, None)),
        ("train.sft.anything", (None, None)),
    ],
)
def test_the_limits_are_what_the_field_itself_allows(path, expected):
    assert limits(path) == expected
