import json
import os
from pathlib import Path

import pytest
import yaml

from rankray.config import distributions
from rankray.data.sources import Source
from rankray.errors import ConfigError
from rankray.setup.foreign import convert

GIVEN = {
    "model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct", "stage": "sft", "do_train": True,
    "finetuning_type": "lora", "lora_rank": 8, "lora_target": "all", "dataset": "mine,chats,hub",
    "interleave_probs": "0.5,0.3,0.2", "mix_strategy": "interleave_under", "template": "llama3", "cutoff_len": 2048,
    "max_samples": 1000, "overwrite_cache": True, "preprocessing_num_workers": 16, "output_dir": "saves/x",
    "logging_steps": 10, "save_steps": 500, "plot_loss": True, "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8, "learning_rate": 1.0e-4, "num_train_epochs": 3.0, "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1, "bf16": True, "ddp_timeout": 180000000, "flash_attn": "fa2", "quantization_bit": 4,
}  # fmt: skip
INFO = {
    "mine": {"file_name": "m.json", "columns": {"prompt": "q", "query": "more", "response": "a"}},
    "chats": {"file_name": "c.json", "formatting": "sharegpt", "columns": {"messages": "turns"}},
    "hub": {"hf_hub_url": "x/y", "split": "train"},
    "told": {"file_name": "t.json", "columns": {"prompt": "instruction", "query": "input", "response": "output",
                                                "history": "history", "system": "persona"}, "num_samples": 10},
    "open": {"file_name": "o.json", "formatting": "sharegpt", "columns": {"messages": "messages", "tools": "tools"},
             "tags": {"role_tag": "role", "content_tag": "text", "user_tag": "user", "assistant_tag": "assistant"}},
    "pairs": {"file_name": "p.json", "ranking": True},
    "own": {"file_name": "x.json", "columns": {"prompt": "q", "response": "a", "system": "s"}, "load_from": "f"},
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(INFO))

    def make(**changes):
        (tmp_path / "lf.yaml").write_text(yaml.safe_dump(GIVEN | changes))
        return tmp_path / "lf.yaml"

    return make


def test_a_recipe(file, tmp_path):
    config, notes, tool = convert(file())
    assert tool == "LLaMA-Factory"
    assert config.model.lora.model_dump(exclude={"dora"}) == {
        "rank": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": "all-linear"
    }  # fmt: skip
    assert config.model.attn_implementation == "flash_attention_2"
    mine, chats, hub = config.data.train
    assert (mine.path, mine.prompt, mine.completion) == (str(tmp_path / "data" / "m.json"), "{q}{\nmore?}", "{a}")
    assert (chats.format, chats.messages, chats.weight) == ("sharegpt", "turns", 0.3)
    assert (hub.path, hub.max_examples) == ("x/y:train[:95%]", 1000)
    assert (config.data.train_on, config.data.max_length) == ("all", 2048)
    assert (config.train.epochs, config.train.batch_size, config.train.schedule) == (3, 8, "cosine")
    assert config.train.sft == {"bf16": True}
    assert config.model.quantization == "4bit"
    assert notes[0].startswith("template: ")


@pytest.mark.parametrize(
    ("changes", "quantization", "note"),
    [
        ({"quantization_bit": 8, "quantization_method": "bitsandbytes"}, "8bit", ""),
        ({"quantization_bit": 3}, None, "quantization_bit: 3: allowed here are 4 and 8 bits"),
        ({"quantization_method": "hqq"}, None, "quantization_method: 'hqq': allowed here is bnb"),
        ({"finetuning_type": "full"}, None, "quantization_bit: 4: quantized weights are trained below adapters alone"),
    ],
)
def test_quantized_weights(file, changes, quantization, note):
    config, notes, _ = convert(file(**changes))
    assert config.model.quantization == quantization
    assert note in "\n".join(notes)


def test_full_training_on_the_last_turn(file):
    config, _, _ = convert(file(finetuning_type="full", mask_history=True, dataset="hub", interleave_probs=None))
    assert config.model.lora is None
    assert config.data.train_on == "last"


def test_a_dataset_that_no_table_knows(file, tmp_path):
    config, notes, _ = convert(file(dataset="alpaca_en_demo", interleave_probs=None, max_samples=None))
    assert config.data.train == str(tmp_path / "data" / "alpaca_en_demo.json")
    assert any(note.startswith("dataset: 'alpaca_en_demo': is not in") for note in notes)


def test_prompts_that_are_trained_on(file):
    assert convert(file(train_on_prompt=True))[0].data.prompt_weight == 1.0
    assert convert(file())[0].data.prompt_weight == 0.0


def test_what_a_data_set_says_is_taken_over_or_noted(file, tmp_path):
    given = {"dataset": ["told", "open", "own"], "interleave_probs": None, "eval_dataset": "mine, chats", "val_size": 0}
    config, notes, _ = convert(file(**given, report_to="wandb", streaming=True, template="qwen", deepspeed="z3.json"))
    assert len(notes) == len(set(notes)), "a data set that is named twice is noted once"
    assert "deepspeed: 'z3.json': a model is sharded over GPUs with train.parallelism: fsdp here" in "\n".join(notes)
    told, turns, own = config.data.train
    assert (told.format, told.max_examples, turns.max_examples) == ("alpaca", 10, 1000)
    assert (turns.format, turns.messages) == ("sharegpt", "messages")
    assert (own.prompt, own.completion) == ("{q}", "{a}")
    assert [(each.format, each.prompt, each.messages) for each in config.data.eval] == [
        ("columns", "{q}{\nmore?}", None), ("sharegpt", None, "turns")
    ]  # fmt: skip
    assert config.data.streaming
    said = {note.split(": ")[0] for note in notes}
    assert {
        "dataset_info.told.columns.system", "dataset_info.open.tags", "dataset_info.own.columns.system",
        "dataset_info.own.load_from", "template", "report_to",
    } <= said  # fmt: skip
    with pytest.raises(ConfigError, match="'pairs' has ranking: true, a preference set"):
        convert(file(dataset="pairs", interleave_probs=None))


@pytest.mark.parametrize(
    ("template", "name", "renders"), [("qwen", "chat", True), ("qwen", "base", False), ("alpaca", "chat", False)]
)
def test_texts_become_turns_where_the_model_has_a_template(file, tmp_path, template, name, renders):
    for each in ("chat", "base"):
        (tmp_path / each).mkdir()
    (tmp_path / "chat" / "chat_template.jinja").write_text("{{ messages }}")
    config, _, _ = convert(file(model_name_or_path=f"./{name}", template=template))
    assert config.data.chat == renders


@pytest.mark.parametrize(
    ("given", "loss"),
    [
        ({"use_dft_loss": True}, {"objective": "dft"}),
        ({"use_eaft_loss": True, "eaft_alpha": 0.5}, {"objective": "eaft", "alpha": 0.5, "eaft_scale": 3}),
        ({"use_asft_loss": True}, {"objective": "dft", "kl_weight": 0.1}),
        ({"use_dft_loss": False, "eaft_alpha": 1.0}, {"objective": "rri"}),
    ],
)
def test_the_loss_it_is_told_to_use(file, given, loss):
    config, notes, _ = convert(file(**given))
    assert {name: getattr(config.loss, name) for name in loss} | {"objective": config.loss.objective} == loss
    assert config.loss.objective in distributions(config)["loss.objective"].choices
    assert not [note for note in notes if "loss" in note.partition(":")[0]]


PRESET = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


@pytest.mark.parametrize(
    ("columns", "template", "form", "prompt"),
    [
        (None, "qwen", "alpaca", None),
        (None, "alpaca", "columns", PRESET + "### Instruction:\n{instruction}{\ninput?}\n\n### Response:\n"),
        (None, "empty", "columns", "{instruction}{\ninput?}"),
        ({"prompt": "instruction", "response": "output"}, "qwen", "columns", "{instruction}"),
        ({"prompt": "q", "response": "output"}, "qwen", "columns", "{q}"),
        ({"query": "q", "response": "output"}, "qwen", "columns", "{q}"),
        ({"prompt": "q", "query": "more", "response": "output"}, "default", "columns",
         "Human: {q}{\nmore?}\nAssistant:"),
        ({"prompt": "q", "response": "output"}, None, "columns", "{q}"),
        ({"prompt": "instruction", "query": "input", "response": "output", "system": "system"}, "alpaca", "alpaca",
         None),
    ],
)  # fmt: skip
def test_questions_are_written_as_llama_factory_writes_them(file, tmp_path, columns, template, form, prompt):
    """It joins question and input, those that are there, with a new line; nothing is read that `columns` leaves out."""
    info = {"d": {"file_name": "d.json"} | ({"columns": columns} if columns else {})}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    config, _, _ = convert(file(dataset="d", interleave_probs=None, template=template))
    [entry] = config.data.train
    assert (entry.format, entry.prompt) == (form, prompt)
    rows = [{"instruction": "i", "q": "i", "input": "", "more": "", "output": "o", "system": ""},
            {"instruction": "i", "q": "i", "input": "x", "more": "x", "output": "o", "system": ""}]  # fmt: skip
    (tmp_path / "data" / "d.json").write_text(json.dumps(rows))
    examples = [placed.example for placed in Source("train", config.data).examples()]
    if config.data.chat:
        given = "i\nx" if columns is None or {"query", "prompt"} <= columns.keys() else "i"
        assert [example.turns[0] for example in examples] == [
            {"role": "user", "content": "i"}, {"role": "user", "content": given}
        ]  # fmt: skip


def test_columns_beside_templates_have_one_note(file, tmp_path):
    columns = {"prompt": "q", "response": "a", "system": "persona", "history": "h", "tools": "t"}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"d": {"file_name": "d.json", "columns": columns}}))
    _, notes, _ = convert(file(dataset="d", interleave_probs=None))
    for key in ("system", "history", "tools"):
        [note] = [note for note in notes if note.startswith(f"dataset_info.d.columns.{key}")]
        assert "is not part of templates; name the other columns instruction, input and output" in note


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": "text"}, "dataset_info.d.columns has no response; needed are prompt and response"),
        ({"response": "text"}, "dataset_info.d.columns has no prompt"),
        ({"prompt": "why?", "response": "a"}, r"'why\?' cannot stand in a template; allowed are names without"),
    ],
)
def test_columns_that_cannot_be_taken_over(file, tmp_path, columns, said):
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"d": {"file_name": "d.json", "columns": columns}}))
    with pytest.raises(ConfigError, match=said):
        convert(file(dataset="d", interleave_probs=None))


def test_data_sets_are_found_from_wherever_the_file_is_named(file, tmp_path, monkeypatch):
    """As in LLaMA-Factory's own tree: `examples/train_lora/x.yaml` beside `data`."""
    below = tmp_path / "examples" / "train_lora"
    below.mkdir(parents=True)
    made = file(dataset="mine", interleave_probs=None, max_samples=None)
    moved = made.rename(below / made.name)
    for directory in (tmp_path, below, tmp_path.parent):
        monkeypatch.chdir(directory)
        named = Path(os.path.relpath(moved))
        assert convert(named)[0].data.train[0].path == str(tmp_path / "data" / "m.json"), named
