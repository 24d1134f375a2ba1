import pytest
import yaml

from rankray.config import distributions
from rankray.errors import ConfigError
from rankray.setup.foreign import convert

GIVEN = {
    "base_model": "NousResearch/Llama-3.2-1B", "load_in_4bit": True, "strict": False, "val_set_size": 0.1,
    "datasets": [
        {"path": "teknium/GPT4-LLM-Cleaned", "type": "alpaca"},
        {"path": "mlabonne/FineTome-100k", "type": "chat_template", "split": "train[:20%]",
         "field_messages": "conversations"},
        {"path": "json", "data_files": "mine.jsonl", "type": "completion"},
        {"path": "a/b", "type": {"system_prompt": "x"}},
    ],
    "output_dir": "./out", "adapter": "qlora", "sequence_len": 2048, "sample_packing": True, "lora_r": 32,
    "lora_alpha": 16, "lora_dropout": 0.05, "lora_target_linear": True, "gradient_accumulation_steps": 4,
    "micro_batch_size": 2, "num_epochs": 1, "optimizer": "adamw_8bit", "lr_scheduler": "cosine",
    "learning_rate": 0.0002, "bf16": "auto", "tf32": False, "gradient_checkpointing": True, "logging_steps": 1,
    "flash_attention": True, "warmup_ratio": 0.1, "evals_per_epoch": 4, "weight_decay": 0.01,
    "special_tokens": {"pad_token": "<|end_of_text|>"},
}  # fmt: skip


def converted(tmp_path, **changes):
    (tmp_path / "ax.yml").write_text(yaml.safe_dump(GIVEN | changes))
    return convert(tmp_path / "ax.yml")


def test_an_example(tmp_path):
    config, notes, tool = converted(tmp_path)
    assert tool == "Axolotl"
    lora = config.model.lora
    assert (lora.rank, lora.alpha, lora.dropout, lora.target_modules) == (32, 16.0, 0.05, "all-linear")
    alpaca, chat, mine, own = config.data.train
    assert (alpaca.path, alpaca.format) == ("teknium/GPT4-LLM-Cleaned:train[:90%]", "alpaca")
    assert (chat.path, chat.messages) == ("mlabonne/FineTome-100k:train[:20%]", "conversations")
    assert (mine.path, mine.format) == (str(tmp_path / "mine.jsonl"), "text")
    assert (own.format, own.prompt, own.completion) == ("columns", "x{instruction} {input?}", "{output}")
    assert config.data.train_on == "all"
    assert (config.train.epochs, config.train.batch_size, config.train.micro_batch_size) == (1, 8, 2)
    assert config.train.sft == {"optim": "adamw_8bit", "bf16": True, "gradient_checkpointing": True}
    said = [note.split(":")[0] for note in notes]
    assert said[:3] == ["evals_per_epoch", "special_tokens", "packing"]
    assert config.model.quantization == "4bit"
    assert "special_tokens" in said


def test_a_cosine_down_to_a_share_of_the_rate(tmp_path):
    config, notes, _ = converted(tmp_path, cosine_min_lr_ratio=0.1)
    assert config.train.sft["lr_scheduler_type"] == "cosine_with_min_lr"
    assert config.train.sft["lr_scheduler_kwargs"] == {"min_lr_rate": 0.1}
    _, notes, _ = converted(tmp_path, cosine_min_lr_ratio=0.1, lr_scheduler="linear")
    assert "cosine_min_lr_ratio: 0.1: goes with lr_scheduler: cosine" in notes


def test_packing_with_a_number_of_steps(tmp_path):
    config, _, _ = converted(
        tmp_path, max_steps=100, warmup_steps=10, warmup_ratio=None, adapter=None, train_on_inputs=True
    )
    assert config.data.prompt_weight == 1.0
    assert (config.train.max_steps, config.train.epochs, config.train.warmup_ratio) == (100, None, 0.1)
    assert config.train.sft["packing"] is True
    assert config.model.lora is None


@pytest.mark.parametrize(
    ("given", "share", "is_default"),
    [
        ({}, 0.03, True),
        ({"max_steps": 1000}, 0.03, True),
        ({"max_steps": 10000}, 0.01, True),
        ({"max_steps": 40}, 0.05, True),
        ({"max_steps": 20}, 0.0, True),
        ({"warmup_ratio": 0}, 0.0, False),
        ({"warmup_steps": 0}, 0.0, False),
        ({"warmup_steps": 0, "warmup_ratio": 0.1}, 0.0, False),
        ({"max_steps": 100, "warmup_steps": 10}, 0.1, False),
    ],
    ids=str,
)
def test_a_warm_up_that_is_not_given_is_axolotls(tmp_path, given, share, is_default):
    config, notes, _ = converted(tmp_path, **{"warmup_ratio": None, **given})
    assert config.train.warmup_ratio == pytest.approx(share)
    said = [note for note in notes if note.startswith("warmup_ratio: not given: 3 % of the steps are taken, Axolotl's")]
    assert len(said) == is_default


def test_held_out_data_of_its_own(tmp_path):
    config, notes, _ = converted(tmp_path, test_datasets=[{"path": "a/b", "split": "test", "type": "alpaca"}])
    assert [entry.path for entry in config.data.eval] == ["a/b:test"]
    assert not any("held out" in note or "held-out" in note for note in notes)


@pytest.mark.parametrize("held_out", ["", "b.jsonl"])
def test_held_out_data_are_read_as_the_training_data(tmp_path, held_out):
    """Templates stand with the sources of an imported file; without them nothing could read the held-out one."""
    own = {"type": {"field_instruction": "q", "field_output": "a", "format": "{instruction}"}}
    (tmp_path / "ax.yml").write_text(yaml.safe_dump(GIVEN | {"datasets": [{"path": "a.jsonl", **own}]}))
    config, _, _ = convert(tmp_path / "ax.yml", held_out)
    (found,) = config.data.eval
    assert found.path == str(tmp_path / (held_out or "a.jsonl"))
    assert (found.format, found.prompt, found.completion) == ("columns", "{q}", "{a}")
    mixed = [{"path": "a.jsonl", **own}, {"path": "c.jsonl", "type": "alpaca"}]
    (tmp_path / "ax.yml").write_text(yaml.safe_dump(GIVEN | {"datasets": mixed}))
    assert convert(tmp_path / "ax.yml", "b.jsonl")[0].data.eval == str(tmp_path / "b.jsonl"), "nobody knows which"


def test_what_a_data_set_says_is_taken_over_or_noted(tmp_path):
    kind = {"field_instruction": "q", "field_output": "a", "format": "[INST] {instruction} [/INST]",
            "system_prompt": "Be {kind}. ", "no_input_format": "{instruction}", "sep": "x"}  # fmt: skip
    given = [
        {"path": "json", "data_files": ["a.jsonl", "b.jsonl"], "type": "alpaca", "ds_type": "json", "shards": 4},
        {"path": "a/b", "revision": "v1", "split": "train", "type": kind, "data_dir": "sub"},
        {"path": "json", "data_files": {"train": "c.jsonl", "test": "d.jsonl"}, "type": "completion", "field": "body"},
        {"path": "e.jsonl", "type": "chat_template", "roles_to_train": ["human"], "train_on_eos": "last",
         "message_property_mappings": {"role": "from", "content": "value"}, "drop_system_message": True},
        {"path": "f.jsonl", "type": "chat_template.default", "message_property_mappings": {"role": "speaker"},
         "message_field_training": "train", "chat_template": "gemma"},
    ]  # fmt: skip
    config, notes, _ = converted(tmp_path, datasets=given, test_datasets=[{"path": "g.jsonl", "type": "alpaca"}])
    first, second, own, body, chat, other = config.data.train
    assert [each.path.removeprefix(f"{tmp_path}/") for each in (first, second, body)] == [
        "a.jsonl",
        "b.jsonl",
        "c.jsonl",
    ]
    assert (first.format, second.format) == ("alpaca", "alpaca")
    assert (own.path, own.revision) == ("a/b:train", "v1")
    assert (own.prompt, own.completion) == ("Be {{kind}}. [INST] {q} [/INST]", "{a}")
    assert (body.prompt, body.completion, body.format) == ("", "{body}", None)
    assert (chat.messages, other.messages) == ("messages", "messages")
    said = {note.split(": ")[0] for note in notes if note.startswith("datasets")}
    assert said == {
        "datasets.shards", "datasets.data_dir", "datasets.type.sep", "datasets.data_files", "datasets.roles_to_train",
        "datasets.train_on_eos", "datasets.drop_system_message", "datasets.message_property_mappings",
        "datasets.chat_template",
    }  # fmt: skip


def test_what_is_off_needs_no_note(tmp_path):
    keys = ("lora_model_dir", "xformers_attention", "deepspeed", "fsdp", "fsdp_config", "resume_from_checkpoint")
    _, before, _ = converted(tmp_path)
    config, notes, _ = converted(tmp_path, **dict.fromkeys(keys), s2_attention=False, wandb_project="p")
    assert set(notes) - set(before) == {"report_to: wandb: add logging: [wandb], which gives each trial a run"}
    assert not {"fsdp", "fsdp_config"} & config.train.sft.keys()
    assert any("held-out data were named; 0.1 of the rows were to be" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "template", "noted"),
    [
        (
            {"chat_template": "jinja", "chat_template_jinja": "{{ messages[0].content }}"},
            "{{ messages[0].content }}",
            False,
        ),
        ({"chat_template_jinja": "{{ 1 }}"}, "{{ 1 }}", False),
        ({"chat_template": "chatml"}, None, True),
        ({"chat_template": "tokenizer_default"}, None, False),
    ],
)
def test_a_chat_template(tmp_path, changes, template, noted):
    config, notes, _ = converted(tmp_path, **changes)
    assert config.data.chat_template == template
    assert any(note.startswith("chat_template") for note in notes) == noted


@pytest.mark.parametrize(
    ("given", "loss", "noted"),
    [
        ({"use_eaft": True}, {"objective": "eaft", "alpha": 1.0, "eaft_scale": 1}, ""),
        ({"use_eaft": True, "eaft_k": 50}, {"objective": "eaft"}, "eaft_k: 50: the entropy is that of the 20 most"),
        ({"liger_use_token_scaling": True}, {"objective": "dft"}, ""),
    ],
)
def test_the_loss_it_is_told_to_use(tmp_path, given, loss, noted):
    config, notes, _ = converted(tmp_path, **given)
    assert {name: getattr(config.loss, name) for name in loss} == loss
    assert config.loss.objective in distributions(config)["loss.objective"].choices
    assert noted in "\n".join(notes)
    assert not [note for note in notes if note.startswith(tuple(given)) and not noted]


@pytest.mark.parametrize(
    "given", ["d.jsonl", ["d.jsonl"], {"path": "d.jsonl"}, [{"path": "d.jsonl", "split": "train[:5]"}]]
)
def test_data_sets_however_they_are_written(tmp_path, given):
    (tmp_path / "d.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 20)
    held_out = [{"path": "d.jsonl", "split": "train[90%:]"}]
    config, notes, _ = converted(tmp_path, datasets=given, test_datasets=held_out, save_steps=7, eval_steps="soon")
    path = config.data.train if isinstance(config.data.train, str) else config.data.train[0].path
    assert path.endswith("/d.jsonl")
    assert isinstance(config.data.train, str) or config.data.train[0].max_examples == 5
    assert config.train.checkpoint_every_steps == 7
    assert "test_datasets.split: 'train[90%:]': all rows of a file are read" in "\n".join(notes)
    assert "eval_steps: 'soon': no number of steps" in "\n".join(notes)


def test_a_part_of_a_hub_data_set_is_read_as_the_rest(tmp_path):
    entry = {"path": "a/b", "type": {"field_instruction": "q", "field_output": "a", "format": "{instruction}"}}
    config, _, _ = converted(tmp_path, datasets=[entry], val_set_size=0.1)
    [train], [held_out] = config.data.train, config.data.eval
    assert (train.path, held_out.path) == ("a/b:train[:90%]", "a/b:train[90%:]")
    assert (held_out.format, held_out.prompt, held_out.completion) == ("columns", "{q}", "{a}")
    assert (train.format, train.prompt, train.completion) == ("columns", "{q}", "{a}")


@pytest.mark.parametrize(
    ("kind", "prompt", "noted"),
    [
        ({"format": "{instruction}\n{input}\n", "no_input_format": "{instruction}\n"}, "{q}{\nc?}\n", ""),
        ({"format": "{instruction} {input}", "no_input_format": "{instruction}"}, "{q} {c?}", "no_input_format"),
        ({"format": "{instruction}", "field_system": "s"}, "{s?}{q}", ""),
        ({"format": "{instruction}", "field_system": "s", "system_prompt": "x"}, "{s?}{q}", ""),
        ({"format": "{instruction}", "field_system": "s", "system_format": "{system}\n"}, "{s?}\n{q}", "system_format"),
        ({"format": "{instruction}", "system_prompt": "Be {kind}.", "system_format": "{system}\n"}, "Be {{kind}}.\n{q}",
         ""),
        ({"format": "{instruction}", "system_format": "S: {system}\n"}, "{q}", ""),
    ],
)  # fmt: skip
def test_formats_of_the_users_own(tmp_path, kind, prompt, noted):
    kind |= {"field_instruction": "q", "field_input": "c", "field_output": "a"}
    config, notes, _ = converted(tmp_path, datasets=[{"path": "a.jsonl", "type": kind}])
    assert config.data.train[0].prompt == prompt
    assert [note for note in notes if note.startswith("datasets.type.")] == [
        note for note in notes if noted and note.startswith(f"datasets.type.{noted}:")
    ]
    with pytest.raises(ConfigError, match=r"datasets.type: the column 'a\.b' cannot stand in a template"):
        converted(tmp_path, datasets=[{"path": "a.jsonl", "type": {**kind, "field_output": "a.b"}}])


def test_segments_are_said_not_to_be_read(tmp_path):
    _, notes, _ = converted(tmp_path, datasets=[{"path": "a.jsonl", "type": "input_output"}])
    assert (
        "datasets.type: 'input_output': segments are not read; docs/coming-from.md shows how to convert them" in notes
    )
