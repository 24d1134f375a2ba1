import yaml

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
    assert (alpaca.path, alpaca.format) == ("teknium/GPT4-LLM-Cleaned:train[:95%]", "alpaca")
    assert (chat.path, chat.messages) == ("mlabonne/FineTome-100k:train[:20%]", "conversations")
    assert (mine.path, mine.format) == (str(tmp_path / "mine.jsonl"), "text")
    assert own.format is None
    assert config.data.train_on == "all"
    assert (config.train.epochs, config.train.batch_size, config.train.micro_batch_size) == (1, 8, 2)
    assert config.train.sft == {"optim": "adamw_8bit", "bf16": True, "gradient_checkpointing": True}
    said = [note.split(":")[0] for note in notes]
    assert said[:2] == ["datasets.type", "sample_packing"]
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


def test_held_out_data_of_its_own(tmp_path):
    config, notes, _ = converted(tmp_path, test_datasets=[{"path": "a/b", "split": "test", "type": "alpaca"}])
    assert [entry.path for entry in config.data.eval] == ["a/b:test"]
    assert not any("held out" in note or "held-out" in note for note in notes)
