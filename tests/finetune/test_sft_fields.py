import dataclasses

from trl import SFTConfig

from rankray.finetune.sft_fields import OURS, WITHOUT_EFFECT, sft_field_names


def test_the_names_are_those_of_the_class():
    assert sft_field_names() == {field.name for field in dataclasses.fields(SFTConfig)}


def test_what_is_refused_exists():
    assert OURS.keys() - {"warmup_ratio"} <= sft_field_names()
    assert sft_field_names() >= WITHOUT_EFFECT
