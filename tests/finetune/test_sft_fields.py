import dataclasses

import pytest
from trl import SFTConfig

from rankray.errors import ConfigError
from rankray.finetune.sft_fields import (
    KINDS,
    MAY_BE_NULL,
    OURS,
    UNUSED,
    WITHOUT_EFFECT,
    check_sft_fields,
    sft_field_names,
    sft_field_types,
    unused_fields,
)


def test_the_names_are_those_of_the_class():
    assert sft_field_names() == {field.name for field in dataclasses.fields(SFTConfig)}


def test_what_is_refused_exists():
    assert OURS.keys() - {"warmup_ratio"} <= sft_field_names()
    assert sft_field_names() >= WITHOUT_EFFECT | UNUSED | MAY_BE_NULL


def test_report_to_is_refused_with_the_advice_to_use_logging():
    """The trainer would log one run per process, and a new one after each resume."""
    with pytest.raises(
        ConfigError, match=r"train\.sft\.report_to: .*set logging: \[wandb, mlflow, tensorboard, trackio\]"
    ):
        check_sft_fields({"report_to": "wandb"})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max_grad_norm", "0.5", r"got '0.5'; allowed: a number; write it without quotes"),
        ("max_grad_norm", "much", r"got 'much'; allowed: a number; correct the value"),
        ("adam_beta1", None, r"got None; allowed: a number"),
        ("adam_beta1", True, r"got True; allowed: a number"),
        ("packing", "false", r"got 'false'; allowed: true or false; write it without quotes"),
        ("packing", 2, r"got 2; allowed: true or false"),
        ("dataloader_num_workers", 2.0, r"got 2.0; allowed: a whole number"),
        ("neftune_noise_alpha", [5], r"got \[5\]; allowed: a number or null"),
        ("optim", 3, r"got 3; allowed: text"),
        ("optim_args", {"rank": 8}, r"got \{'rank': 8\}; allowed: text or null"),
        (
            "gradient_checkpointing_kwargs",
            "use_reentrant",
            r"got .use_reentrant.; allowed: a mapping of names to values or null",
        ),
    ],
)
def test_a_value_of_another_type(name, value, said):
    with pytest.raises(ConfigError, match=rf"search.yaml:3: train\.sft\.{name}: {said}"):
        check_sft_fields({name: value}, lambda path: "search.yaml:3")


def test_values_that_the_fields_take():
    check_sft_fields(
        {
            "max_grad_norm": None,
            "adam_beta1": 1,
            "packing": False,
            "gradient_checkpointing": 1,
            "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
            "optim": "adamw_torch",
            "optim_target_modules": ["q_proj"],
            "accelerator_config": "accelerator.json",
            "dataloader_num_workers": 2,
            "tf32": None,
        }
    )


def test_the_defaults_of_the_class_are_of_the_types_that_are_read():
    for field in dataclasses.fields(SFTConfig):
        is_free = field.name in OURS or field.name in WITHOUT_EFFECT
        if is_free or field.default is dataclasses.MISSING or "post_init" in str(field.metadata):
            continue
        value = getattr(field.default, "value", field.default)
        if field.name not in ("debug", "liger_kernel_config"):
            check_sft_fields({field.name: value})


def test_most_types_are_understood():
    parts = {part.strip() for kind in sft_field_types().values() for part in kind.split("[")[0].split("|")}
    assert parts >= KINDS.keys() - {"list", "None"}


def test_what_changes_nothing_is_a_warning():
    fields = {"logging_steps": 5, "hub_model_id": "a/b", "max_grad_norm": 1.0}
    warnings = unused_fields(fields, lambda path: f"search.yaml:{len(path)}")
    assert [line.split(": ")[1] for line in warnings] == ["train.sft.logging_steps", "train.sft.hub_model_id"]
    check_sft_fields(fields)


@pytest.mark.parametrize("name", ["fsdp", "ignore_data_skip", "eval_on_start", "parallelism_config"])
def test_what_would_work_against_rankray_is_refused(name):
    with pytest.raises(ConfigError, match=rf"train\.sft\.{name}: not a pass-through field"):
        check_sft_fields({name: True})
