import dataclasses

import pytest
import yaml

from rankray.errors import ConfigError
from rankray.setup.foreign import convert

GIVEN = {
    "model_name_or_path": "Qwen/Qwen2.5-0.5B", "dtype": "bfloat16", "attn_implementation": "sdpa", "use_peft": True,
    "lora_r": 32, "lora_alpha": 16, "lora_target_modules": ["q_proj", "v_proj"], "use_dora": True,
    "load_in_4bit": True, "dataset_name": "trl-lib/Capybara", "eval_strategy": "steps", "eval_steps": 100,
    "learning_rate": 2e-4, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8,
    "warmup_ratio": 0.03, "weight_decay": 0.1, "lr_scheduler_type": "polynomial", "max_length": 1024, "seed": 7,
    "gradient_checkpointing": True, "assistant_only_loss": True, "loss_type": "dft", "output_dir": "out",
    "eos_token": "<|im_end|>",
}  # fmt: skip


def test_a_scripts_file(tmp_path):
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(GIVEN))
    config, notes, tool = convert(tmp_path / "sft.yaml")
    assert tool == "TRL"
    model, train = config.model, config.train
    assert (model.path, model.dtype, model.attn_implementation) == ("Qwen/Qwen2.5-0.5B", "bfloat16", "sdpa")
    assert model.lora.model_dump() == {
        "rank": 32, "alpha": 16.0, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"], "dora": True
    }  # fmt: skip
    assert (config.data.train, config.data.eval) == ("trl-lib/Capybara:train", "trl-lib/Capybara:test")
    assert (config.data.max_length, config.data.train_on) == (1024, "all")
    assert (train.epochs, train.batch_size, train.micro_batch_size) == (2, 16, 2)
    assert (train.learning_rate, train.warmup_ratio, train.weight_decay, train.seed) == (2e-4, 0.03, 0.1, 7)
    assert train.sft == {"gradient_checkpointing": True, "lr_scheduler_type": "polynomial"}
    assert model.quantization == "4bit"
    assert (config.loss.objective, config.evaluate.every_steps) == ("dft", 100)
    assert config.storage == str(tmp_path / "out")
    assert [note for note in notes if not note.startswith("this machine")] == [
        "eos_token: '<|im_end|>': has no counterpart here"
    ]


@pytest.mark.parametrize(
    ("changes", "quantization", "note"),
    [
        ({"load_in_4bit": False, "load_in_8bit": True}, "8bit", ""),
        ({"use_peft": False, "use_dora": False}, None, "load_in_4bit: 4: quantized weights are trained below adapters"),
        ({"bnb_4bit_quant_type": "fp4"}, "4bit", "bnb_4bit_quant_type: 'fp4': 4 bits are nf4 here"),
    ],
)
def test_quantized_weights(tmp_path, changes, quantization, note):
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(GIVEN | changes))
    config, notes, _ = convert(tmp_path / "sft.yaml")
    assert config.model.quantization == quantization
    assert note in "\n".join(notes)


@pytest.mark.parametrize(
    ("name", "settings", "where"),
    [
        ("cosine_with_min_lr", {"min_lr": 1e-6}, "lr_scheduler_type"),
        ("warmup_stable_decay", {"num_decay_steps": 10}, "lr_scheduler_type"),
        ("reduce_lr_on_plateau", None, ""),
    ],
)
def test_a_schedule_with_settings_is_passed_through(tmp_path, name, settings, where):
    given = GIVEN | {"lr_scheduler_type": name} | ({"lr_scheduler_kwargs": settings} if settings else {})
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(given))
    config, notes, _ = convert(tmp_path / "sft.yaml")
    assert config.train.sft.get("lr_scheduler_type") == (name if where else None)
    assert config.train.sft.get("lr_scheduler_kwargs") == settings
    assert any(note.startswith("lr_scheduler_type: ") for note in notes) is not bool(where)


def test_a_text_column_of_another_name(tmp_path):
    given = {"model_name_or_path": "a/b", "dataset_name": "c/d", "dataset_text_field": "body", "warmup_steps": 10}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(given))
    config, notes, _ = convert(tmp_path / "x.yaml")
    assert (config.data.prompt, config.data.completion) == ("", "{body}")
    assert "warmup_steps: 10: a share of all steps here; set train.warmup_ratio" in notes


def test_a_mixture_and_what_has_a_counterpart_by_now(tmp_path):
    mixture = [
        {"path": "a.jsonl", "columns": ["messages"]},
        {"path": "b/c", "name": "SFT", "split": "x", "data_dir": "sub", "columns": ["chosen"]},
        {"path": "json", "data_files": {"train": ["d.jsonl", "e.jsonl"]}},
    ]
    given = {"model_name_or_path": "m/n", "datasets": mixture, "dataset_streaming": True, "max_steps": 10,
             "completion_only_loss": False, "lora_task_type": "CAUSAL_LM", "report_to": ["wandb", "tensorboard"],
             "eval_packing": False, "pad_token": None, "bf16": None}  # fmt: skip
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(given))
    config, notes, _ = convert(tmp_path / "x.yaml")
    assert [entry.path.removeprefix(f"{tmp_path}/") for entry in config.data.train] == [
        "a.jsonl", "b/c:SFT:x[:95%]", "d.jsonl", "e.jsonl"
    ]  # fmt: skip
    assert (config.data.streaming, config.data.prompt_weight, config.train.sft) == (True, 1.0, {})
    assert {note.split(": ")[0] for note in notes if not note.startswith(("this machine", "no held-out"))} == {
        "datasets.data_dir", "datasets.columns", "report_to"
    }  # fmt: skip


def test_packing_needs_a_number_of_steps(tmp_path):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(GIVEN | {"packing": True}))
    config, notes, _ = convert(tmp_path / "x.yaml")
    assert "packing" not in config.train.sft
    assert (
        "packing: True: epochs are not counted with packing; with it, set train.max_steps in place of train.epochs"
        in notes
    )
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(GIVEN | {"packing": True, "max_steps": 10}))
    assert convert(tmp_path / "x.yaml")[0].train.sft["packing"]


@pytest.mark.parametrize("where", ["chat.jinja", "model/chat_template.jinja"])
def test_a_chat_template_is_taken_over(tmp_path, where):
    (tmp_path / "model").mkdir()
    (tmp_path / where).write_text("{{ messages[0].content }}")
    given = GIVEN | {"chat_template_path": where.removesuffix("/chat_template.jinja")}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(given))
    assert convert(tmp_path / "x.yaml")[0].data.chat_template == "{{ messages[0].content }}"


def test_a_chat_template_that_is_not_here_is_noted(tmp_path):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(GIVEN | {"chat_template_path": "HuggingFaceTB/SmolLM3-3B"}))
    config, notes, _ = convert(tmp_path / "x.yaml")
    assert config.data.chat_template is None
    assert any(note.startswith("chat_template_path: 'HuggingFaceTB/SmolLM3-3B': no file") for note in notes)


def test_what_a_file_leaves_out_is_as_trl_has_it(tmp_path):
    """The defaults of SFTConfig and ModelConfig, read from the installed version."""
    trl = pytest.importorskip("trl")
    plain, model = (
        {each.name: each.default for each in dataclasses.fields(kind)} for kind in (trl.SFTConfig, trl.ModelConfig)
    )
    (tmp_path / "x.yaml").write_text(
        yaml.safe_dump({"model_name_or_path": "m/n", "dataset_name": "a/b", "use_peft": True})
    )
    config, notes, _ = convert(tmp_path / "x.yaml")
    lora = config.model.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (model["lora_r"], model["lora_alpha"], model["lora_dropout"])
    assert (config.train.learning_rate, config.data.max_length) == (plain["learning_rate"], plain["max_length"])
    assert config.data.train_on == "all"
    assert [note.partition(":")[0] for note in notes[:2]] == ["lora_target_modules", "assistant_only_loss"]


def test_splits_of_a_file_and_numbers_that_are_none(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    given = {
        "model_name_or_path": "m/n",
        "dataset_name": "d.jsonl",
        "per_device_train_batch_size": "auto",
        "eval_steps": 0.1,
    }
    given |= {"dataset_train_split": "train[:10]", "dataset_test_split": "train[15:]", "max_steps": 40}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(given))
    config, notes, _ = convert(tmp_path / "x.yaml")
    assert [entry.max_examples for entry in config.data.train] == [10]
    assert (config.train.batch_size, config.evaluate.every_steps) == (8, 4)
    said = "\n".join(notes)
    for part in (
        "dataset_test_split: 'train[15:]': a file has no splits",
        "per_device_train_batch_size: 'auto': no number; 8",
    ):
        assert part in said
    given |= {"dataset_train_split": "train[5:]", "max_steps": -1}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(given))
    said = "\n".join(convert(tmp_path / "x.yaml")[1])
    assert "dataset_train_split: 'train[5:]': all rows of a file are read" in said
    assert "eval_steps: 0.1: a share of all steps, whose number is not given; set evaluate.every_steps" in said


def test_a_text_field_that_no_template_can_name(tmp_path):
    (tmp_path / "x.yaml").write_text("model_name_or_path: a/b\ndataset_name: c/d\ndataset_text_field: body.text\n")
    with pytest.raises(ConfigError, match=r"dataset_text_field: the column 'body\.text' cannot stand in a template"):
        convert(tmp_path / "x.yaml")
