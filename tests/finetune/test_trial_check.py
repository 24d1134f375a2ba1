"""What a trial would be refused for is refused by the check, with the place of the field."""

import json
import re

import pytest
import yaml
from fixtures.training import ROWS, build_model
from transformers import AutoModelForCausalLM

from rankray.config import load_config
from rankray.errors import ConfigError, DataError, ModelError, UserError
from rankray.finetune.preflight import preflight
from rankray.finetune.trial_check import check_trial


@pytest.fixture
def check(tmp_path, tree):
    def go(space=None, **changes):
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump(tree(**changes) | {"space": space or {}}, sort_keys=False))
        loaded = load_config(file)
        findings = preflight(loaded)
        check_trial(loaded, findings)
        return findings

    return go


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_sizes_of_the_splits(check):
    found = check(evaluate__max_examples=5)
    train, held_out = found.data["train"], found.data["eval"]
    assert (train.rows, train.cut, train.lost) == (len(ROWS), 0, 0)
    assert held_out.rows == 5
    assert train.supervised_tokens > train.rows
    assert found.warnings == []


def test_more_than_five_percent_cut_is_a_warning_with_the_length_that_fits(check):
    whole = check().data["train"]
    longest = whole.longest
    found = check(data__max_length=longest - 1)
    assert found.data["train"].cut > 0
    [warning, _] = found.warnings
    assert f"{longest:,} all of them" in warning
    assert check(data__max_length=longest).warnings == []


@pytest.mark.parametrize(
    ("fields", "named", "said"),
    [
        ({"optim": "adamw_bnb_8bit"}, "optim", "bitsandbytes"),
        ({"optim": "nothing_of_the_kind"}, "optim", "nothing_of_the_kind"),
        ({"adam_beta2": 1.5, "adam_beta1": 0.8}, "adam_beta2", "(?i)beta"),
        ({"adam_epsilon": -1.0}, "adam_epsilon", "(?i)epsilon"),
        ({"optim_args": "a"}, "optim_args", ""),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor", ""),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers", "num_workers"),
        ({"router_aux_loss_coef": 0.1}, "router_aux_loss_coef", "no mixture of experts"),
        ({"train_sampling_strategy": "randm"}, "train_sampling_strategy", "did you mean 'random'"),
        ({"packing": True, "packing_strategy": "bfg"}, "packing_strategy", "allowed: bfd"),
    ],
)
def test_what_a_library_refuses_names_the_field(check, fields, named, said):
    with pytest.raises(ConfigError) as caught:
        check(train__sft=fields)
    assert re.match(rf".*search.yaml:\d+: train.sft.{named}: got ", str(caught.value)), caught.value
    assert re.search(said, str(caught.value))
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__quantization": "4bit", "model__lora": {}}, "model.quantization: 4bit without a CUDA device; .*GPU"),
        (
            {"train__sft": {"use_liger_kernel": True}},
            "train.sft.use_liger_kernel: got true without a CUDA device.*remove it",
        ),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(check, monkeypatch, changes, said):
    """And the library, wherever the GPU is; with GPUs for the workers it is not known whether they have one."""
    monkeypatch.setattr("rankray.model.extras.find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=r"search.yaml:\d+: [a-z_.]+: [a-z-]+ is not installed; .*rankray\[[a-z]+\]"):
        check(**changes, resources__gpus_per_worker=1)
    monkeypatch.setattr("rankray.model.extras._problem", lambda extra: "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(ConfigError, match=rf"search.yaml:\d+: {said}"):
        check(**changes)
    found = check(**changes, resources__gpus_per_worker=1)
    assert found.warnings == []


def test_how_much_of_a_gpu_a_quantized_model_takes(check, monkeypatch):
    monkeypatch.setattr("rankray.model.extras._problem", lambda extra: "")
    lora = {"model__lora": {}, "resources__gpus_per_worker": 1}
    assert check(**lora).notes == []
    [note] = check(**lora, model__quantization="8bit").notes
    assert re.fullmatch(r"model.quantization 8bit: .* about 0.\d+ MB of each GPU, 0.\d+ MB without", note)
    assert note in check(**lora, model__quantization="8bit").lines()


def test_quantized_weights_are_not_sharded(check, monkeypatch):
    monkeypatch.setattr("rankray.model.extras._problem", lambda extra: "")
    with pytest.raises(ConfigError, match=r"model.quantization: 4bit with train.parallelism fsdp"):
        check(
            model__lora={}, model__quantization="4bit", train__parallelism="fsdp", resources__workers=2,
            resources__gpus_per_worker=1,
        )  # fmt: skip


@pytest.mark.parametrize(("modules", "said"), [(["c_attn"], "q_proj"), (["q_proj", "lm_head"], "the output head")])
def test_adapters_that_cannot_be_made(check, modules, said):
    with pytest.raises(ConfigError, match=rf"search.yaml:\d+: model.lora.target_modules: .*{said}"):
        check(model__lora={"rank": 2, "target_modules": modules})
    check(model__lora={"rank": 2, "target_modules": ["q_proj"]})


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (["q_proj", "v_prjo"], r"'v_prjo' \(did you mean 'v_proj'\?\): no layer .*down_proj"),
        (["layers.7.self_attn.q_proj", "v_proj"], r"'layers.7.self_attn.q_proj'.*: no layer"),
        ("q_proj", r"write \[q_proj\]"),
        ("all-liner", r"did you mean 'all-linear'\?"),
    ],
)
def test_one_misspelt_module_among_several(check, modules, said):
    """peft passes over a name that nothing has, where another one of the list is there."""
    with pytest.raises(ConfigError, match=rf"search.yaml:\d+: model.lora.target_modules: .*{said}"):
        check(model__lora={"rank": 2, "target_modules": modules})
    check(model__lora={"rank": 2, "target_modules": ["layers.0.self_attn.q_proj", "v_proj"]})


def test_modules_that_the_space_chooses(check):
    space = {"model.lora.target_modules": {"choice": ["all-linear", "qq_proj"]}}
    with pytest.raises(ConfigError, match=r"search.yaml:\d+: model.lora.target_modules: 'qq_proj'"):
        check(space, model__lora={"rank": 2})


def test_weights_that_do_not_fit_the_config(check, tmp_path):
    directory = build_model(tmp_path / "odd")
    given = json.loads((directory / "config.json").read_text())
    for changes, said in [
        ({"num_hidden_layers": 3}, r"lack 9 of the model's tensors \(first: model.layers.2"),
        ({"intermediate_size": 40}, r"6 of the weights of .* another shape .*is 32 x 48, and 32 x 40 by config.json"),
    ]:
        (directory / "config.json").write_text(json.dumps(given | changes))
        with pytest.raises(ModelError, match=rf"search.yaml:\d+: model.path: .*{said}"):
            check(model__path=str(directory))
    (directory / "config.json").write_text(json.dumps(given | {"num_hidden_layers": 1}))
    [warning] = check(model__path=str(directory)).warnings
    assert "9 of the weights" in warning
    assert "model.layers.1" in warning


def test_nothing_would_be_trained(check, tmp_path):
    few = write_rows(tmp_path / "few.jsonl", ROWS[:4])
    dropping = {"dataloader_drop_last": True}
    with pytest.raises(ConfigError, match=r"train.sft.dataloader_drop_last: .*the 4 rows of data.train"):
        check(data__train=few, train__batch_size=8, train__sft=dropping)
    check(data__train=few, train__batch_size=8)
    check(data__train=few, train__batch_size=8, train__micro_batch_size=4, train__sft=dropping)


def test_a_tokenizer_that_writes_more_than_the_model_embeds(check, tmp_path):
    small = build_model(tmp_path / "small", vocab_size=200)
    with pytest.raises(ModelError, match=r"search.yaml:\d+: model.path: the tokenizer writes token \d+, .* 200 emb"):
        check(model__path=str(small))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only users here') }}", "only users here"),
        ("{% for m in messages %}{{ m.content }}", "unexpected end of template|Unexpected end of template"),
        ("{{ messages[0].nothing.at_all }}", "has no attribute"),
    ],
)
def test_a_chat_template_that_fails(check, tmp_path, template, said):
    chat = build_model(tmp_path / "chat")
    (chat / "chat_template.jinja").write_text(template)
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    rows = write_rows(tmp_path / "chat.jsonl", [{"chat": turns}])
    with pytest.raises(DataError, match=rf"data.messages: .*chat.jsonl:1: .*chat template refuses .*{said}"):
        check(model__path=str(chat), data__train=rows, data__eval=rows, data__messages="chat")


def test_a_chat_template_without_an_end_is_a_warning(check, tmp_path):
    chat = build_model(tmp_path / "chat")
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    rows = write_rows(tmp_path / "chat.jsonl", [{"chat": turns}])
    changes = {"model__path": str(chat), "data__train": rows, "data__eval": rows, "data__messages": "chat"}
    assert check(**changes).warnings == []
    (chat / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    [warning] = check(**changes).warnings
    assert "never learns to stop" in warning
    assert warning.endswith("let the chat template end an answer with it, as data.chat_template: plain does")
    assert check(**changes, data__chat_template="plain").warnings == []
    assert "'<eos>'" in warning


def test_what_the_space_may_choose_is_checked_too(check):
    with pytest.raises(ConfigError, match=r"train.sft.optim: got 'nothing'"):
        check(space={"train.sft.optim": {"choice": ["adamw_torch", "nothing"]}})


def test_the_eval_split_is_cut_as_the_run_cuts_it(check, tmp_path):
    """The first rows alone are used; none of them keeps a token of its completion."""
    long = [{"question": "1 plus " * 60, "answer": "2"}] * 4
    rows = write_rows(tmp_path / "long.jsonl", [*long, *ROWS])
    check(data__eval=rows, evaluate__max_examples=5)
    with pytest.raises(UserError, match=r"data.max_length: .*leaves no completion token of any of the 4 examples"):
        check(data__eval=rows, evaluate__max_examples=4)


def test_no_answer_to_compare_with(check, tmp_path):
    empty = [{"question": "a", "answer": ""}]
    rows = write_rows(tmp_path / "none.jsonl", empty * 3)
    with pytest.raises(DataError, match=r"data.eval: none of the 3 rows has an answer"):
        check(data__eval=rows, evaluate__metrics=["nll", "accuracy"])
    check(data__eval=rows)
    [taught] = check(data__train=write_rows(tmp_path / "taught.jsonl", [*ROWS, *empty])).warnings
    assert re.search(r"data.train: 1 of \d+ rows have no answer .*taught.jsonl", taught)
    some = write_rows(tmp_path / "some.jsonl", [*ROWS[:2], *empty])
    [warning] = check(data__eval=some, evaluate__metrics=["accuracy"]).warnings
    assert re.search(r"1 of 3 rows have no answer .*first: .*some.jsonl:3", warning)


def test_a_test_split_is_a_warning(check, tmp_path):
    rows = write_rows(tmp_path / "sums-test.jsonl", ROWS)
    [warning] = check(data__eval=rows).warnings
    assert "sums-test.jsonl is a test split by its name" in warning
    assert check(data__eval=write_rows(tmp_path / "contest.jsonl", ROWS)).warnings == []


def test_streamed_data_are_looked_at_in_part_and_then_as_a_whole(check, tmp_path, tree):
    rows = [{"question": str(i), "answer": str(i)} for i in range(1001)]
    streamed = {"data__train": write_rows(tmp_path / "many.jsonl", rows), "data__streaming": True}
    found = check(**streamed)
    assert found.data["train"].rows == 1001
    assert found.unseen == ["data.streaming: held-out prompts that also stand in data.train"]
    light = preflight(load_config(tmp_path / "search.yaml"))
    assert "data.train: rows after the first 1,000 (data.streaming)" in light.unseen
    assert light.data == {}
    write_rows(tmp_path / "many.jsonl", [*rows, {"question": "1", "answer": ["2"]}])
    preflight(load_config(tmp_path / "search.yaml"))
    with pytest.raises(DataError, match=r"many.jsonl:1002: column 'answer' holds a list"):
        check(**streamed)
    write_rows(tmp_path / "many.jsonl", [*rows, {"question": "1"}])
    assert preflight(load_config(tmp_path / "search.yaml")).all_warnings == []
    [warning] = check(**streamed).all_warnings
    assert warning == (
        "data.train: 1 of 1,002 rows left out, with nothing to train on: 1 with no value in column 'answer' "
        f"(first: {tmp_path / 'many.jsonl'}:1002)"
    )


def test_a_bad_weight_is_refused_before_anything_starts(check, tmp_path):
    rows = [{**row, "w": 1, "t": [1] * 9} for row in ROWS]
    source = write_rows(tmp_path / "weighted.jsonl", [*rows[:2], {**rows[2], "w": -1}])
    with pytest.raises(DataError, match=r"search.yaml:\d+: data.weight_column: .*weighted.jsonl:3: column 'w' holds"):
        check(data__train=source, data__weight_column="w")
    with pytest.raises(DataError, match=r"data.token_weights: .*weighted.jsonl:1.* 9 weights"):
        check(data__train=source, data__token_weights="t")


@pytest.mark.parametrize("given", ["tools:train", ["tools:train", "local.jsonl"]], ids=["alone", "in a mixture"])
def test_what_the_chat_template_leaves_out_of_data_of_the_hub_is_said_once(check, tmp_path, monkeypatch, given):
    """`datasets` loads a directory beside the process by the name of a dataset."""
    monkeypatch.chdir(tmp_path)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "tools").mkdir()
    write_rows(tmp_path / "tools" / "train.jsonl", [{"messages": turns, "tools": [{"name": "add"}]}] * 4)
    local = write_rows(tmp_path / "local.jsonl", [{"messages": turns}] * 4)
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.role + m.content + (eos_token or '') }}{% endfor %}")
    data = {"train": given, "eval": local, "chat_template": str(tmp_path / "t.jinja"), "messages": "messages"}
    found = check(**{f"data__{name}": value for name, value in data.items()})
    said = (
        "data.train: the chat template writes nothing for the tools of 4 of 4 rows that have some (first: tools:train: "
    )
    assert [line.startswith(said) for line in found.warnings if "writes nothing" in line] == [True]


def test_attention_that_the_model_cannot_have(check, monkeypatch):
    assert check(model__attn_implementation="eager").unseen == check().unseen
    with pytest.raises(
        ConfigError, match=r"search.yaml:\d+: model.attn_implementation: got 'sdpaa' \(did you mean 'sdpa'\?\)"
    ):
        check(model__attn_implementation="sdpaa")

    def not_installed(*given, attn_implementation=None, **options):
        if attn_implementation is not None:
            raise ImportError("no package for it")
        return build(*given, **options)

    build = AutoModelForCausalLM.from_config
    monkeypatch.setattr("rankray.finetune.trial_check.AutoModelForCausalLM.from_config", not_installed)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"got 'flash_attention_2': no package for it; allowed: sdpa, eager, "):
        check(model__attn_implementation="flash_attention_2")
    found = check(model__attn_implementation="flash_attention_2", resources__gpus_per_worker=1)
    assert "model.attn_implementation: flash_attention_2, which is not installed on this machine" in found.unseen
