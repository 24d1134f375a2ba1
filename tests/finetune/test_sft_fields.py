import dataclasses

import pytest
from trl import SFTConfig

from rankray.errors import ConfigError
from rankray.finetune.sft_fields import OURS, WITHOUT_EFFECT, check_sft_fields, sft_field_names


def test_the_names_are_those_of_the_class():
    assert sft_field_names() == {field.name for field in dataclasses.fields(SFTConfig)}


def test_what_is_refused_exists():
    assert OURS.keys() - {"warmup_ratio"} <= sft_field_names()
    assert sft_field_names() >= WITHOUT_EFFECT


def test_report_to_is_refused_with_the_advice_to_use_logging():
    """The trainer would log one run per process, and a new one after each resume."""
    with pytest.raises(
        ConfigError, match=r"train\.sft\.report_to: .*set logging: \[wandb, mlflow, tensorboard, trackio\]"
    ):
        check_sft_fields({"report_to": "wandb"})
