import json
import math
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from fixtures.leaving import LEAVE
from fixtures.ports import free_port
from fixtures.waiting import end_together
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from rankray import RRITrainer
from rankray.errors import DataError, LossError
from rankray.loss import token_stats, token_weights

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"prompt": f"{i} plus {i + 1} is?\n", "completion": f"{2 * i + 1} " * (1 + i % 4)} for i in range(10)]


@pytest.fixture
def trainer(tmp_path, model_dir):
    """A trainer made as in a script that used SFTTrainer, in one line."""

    def make(**given):
        arguments = {
            "max_steps": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 3, "report_to": "none",
            "learning_rate": 1e-3, "use_cpu": True, "bf16": False, "logging_steps": 1, "save_strategy": "no",
            "disable_tqdm": True, **given.pop("args", {}),
        }  # fmt: skip
        return RRITrainer(
            model=given.pop("model", str(model_dir)),
            args=SFTConfig(output_dir=str(tmp_path / "out"), **arguments),
            train_dataset=given.pop("train_dataset", None) or datasets.Dataset.from_list(ROWS),
            eval_dataset=datasets.Dataset.from_list(ROWS),
            **given,
        )

    return make


def token_losses(model_dir, rows):
    """Return logits and targets of all completion tokens, one row of each example, by a plain forward."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    logits, targets = [], []
    for row in rows:
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = [*tokenizer(row["prompt"] + row["completion"])["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            found = model(torch.tensor([ids])).logits[0]
        logits.append(found[start - 1 : -1])
        targets += ids[start:]
    return torch.cat(logits), torch.tensor(targets)


def test_eval_loss_is_the_plain_nll_of_all_tokens(trainer, model_dir):
    logits, targets = token_losses(model_dir, ROWS)
    wanted = float(torch.nn.functional.cross_entropy(logits.double(), targets))
    for settings in ({}, {"objective": "dft"}, {"temperature": 0.3}):
        assert trainer(**settings).evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-5)


def test_the_logged_loss_is_the_weighted_one(trainer, model_dir):
    made = trainer(temperature=0.7, args={"per_device_train_batch_size": 10, "max_steps": 1})
    made.train()
    [logged] = [entry for entry in made.state.log_history if "loss" in entry]
    logits, targets = token_losses(model_dir, ROWS)
    nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    weights = token_weights(token_stats(logits, targets), "rri", temperature=0.7)
    assert logged["loss"] == pytest.approx(float((weights * nll).mean()), rel=1e-4)
    assert logged["nll"] == pytest.approx(float(nll.mean()), rel=1e-4)


def test_it_trains_with_adapters_and_accumulation(trainer):
    from peft import LoraConfig

    made = trainer(
        objective="sft",
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"),
        args={
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 2,
            "max_steps": 6,
            "learning_rate": 2e-2,
        },
    )
    before = made.evaluate()["eval_loss"]
    made.train()
    assert made.evaluate()["eval_loss"] < before


def test_resuming_loads_the_weights(trainer, tmp_path):
    made = trainer(args={"save_strategy": "steps", "save_steps": 1, "max_steps": 2})
    made.train()
    whole = made.evaluate()["eval_loss"]
    again = trainer(args={"max_steps": 2})
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert again.evaluate()["eval_loss"] == pytest.approx(whole, rel=1e-6)


def test_metrics_of_ones_own_get_logits(trainer):
    seen = []

    def measure(prediction):
        seen.append(prediction.predictions.shape)
        return {"seen": float(len(seen))}

    found = trainer(compute_metrics=measure).evaluate()
    assert found["eval_seen"] == 1.0
    assert seen[0][-1] == 280
    assert math.isfinite(found["eval_loss"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": -1.0}, "loss.temperature: got -1.0"),
        ({"args": {"loss_type": "dft"}}, "args.loss_type is 'dft'; allowed is 'nll'"),
        ({"compute_loss_func": print}, "got compute_loss_func"),
    ],
)
def test_what_it_cannot_do_is_said(trainer, given, said):
    with pytest.raises(LossError, match=said):
        trainer(**given)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"objective": "iw_sft"}, r"no statistics of the base model.*rankray train"),
        ({"signal": "base"}, r"no statistics of the base model.*rankray train"),
        ({"kl_weight": 0.1}, r"no reference is given.*give reference="),
    ],
)
def test_what_needs_the_base_model_says_so_at_once(settings, says, trainer):
    with pytest.raises(LossError, match=says):
        trainer(**settings)


def weighted_rows():
    return [{**row, "w": [0.5, 2.0, 1.0][i % 3]} for i, row in enumerate(ROWS)]


@pytest.mark.parametrize("given", [{}, {"padding_free": True}], ids=str)
def test_weights_of_examples_multiply_those_of_the_loss(trainer, model_dir, given):
    rows = weighted_rows()
    made = trainer(
        objective="dft",
        weight_column="w",
        train_dataset=datasets.Dataset.from_list(rows),
        args={"per_device_train_batch_size": 10, "max_steps": 1, "max_length": None, **given},
    )
    made.train()
    [logged] = [entry for entry in made.state.log_history if "loss" in entry]
    total, count = 0.0, 0
    for row in rows:
        logits, targets = token_losses(model_dir, [row])
        log_prob = logits.double().log_softmax(-1).gather(1, targets[:, None])
        total, count = total - row["w"] * float((log_prob.exp() * log_prob).sum()), count + len(targets)
    assert logged["loss"] == pytest.approx(total / count, rel=1e-4)
    plain = trainer(objective="dft").evaluate()["eval_loss"]
    assert trainer(weight_column="w", train_dataset=made.train_dataset).evaluate()["eval_loss"] == plain


def test_weights_of_tokens_in_a_tokenised_dataset(trainer):
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8], "t": [0.0, 1.0, 0.0, 3.0]}] * 10
    made = trainer(token_weights="t", objective="sft", train_dataset=datasets.Dataset.from_list(rows))
    batch = next(iter(made.get_train_dataloader()))
    assert batch["token_weights"].tolist() == [[0.0, 1.0, 0.0, 3.0]] * 4
    assert "t" not in batch


@pytest.mark.parametrize("given", [{}, {"padding_free": True}], ids=str)
@pytest.mark.parametrize("prompt_weight", [0.0, 0.5])
def test_what_has_weight_0_is_as_if_it_were_not_there(trainer, given, prompt_weight):
    """Neither in the sum nor in the number of tokens that it is divided by, as with `rankray train`."""

    def logged(rows):
        made = trainer(
            objective="dft",
            weight_column="w",
            prompt_weight=prompt_weight,
            train_dataset=datasets.Dataset.from_list(rows),
            args={"per_device_train_batch_size": len(rows), "max_steps": 1, "max_length": None, **given},
        )
        made.train()
        [found] = [entry for entry in made.state.log_history if "loss" in entry]
        return {name: found[name] for name in ("loss", "nll", "token_accuracy", "mean_weight", "effective_share")}

    rows = weighted_rows()
    left_out = [{**row, "w": [0.0, 1e-40][i % 2]} for i, row in enumerate(rows[:5])]
    assert logged([*left_out, *rows[5:]]) == pytest.approx(logged(rows[5:]), rel=1e-4)


@pytest.mark.parametrize("given", [{}, {"padding_free": True}], ids=str)
def test_prompts_are_trained_on_with_their_own_weight(trainer, model_dir, given):
    rows = weighted_rows()[:4]
    made = trainer(
        objective="sft",
        weight_column="w",
        prompt_weight=0.25,
        train_dataset=datasets.Dataset.from_list(rows),
        args={"max_steps": 1, "max_length": None, **given},
    )
    made.train()
    [logged] = [entry for entry in made.state.log_history if "loss" in entry]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    total, count = 0.0, 0
    for row in rows:
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = torch.tensor([*tokenizer(row["prompt"] + row["completion"])["input_ids"], tokenizer.eos_token_id])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1].double()
        nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        own = torch.where(torch.arange(1, len(ids)) < start, 0.25, 1.0)
        total, count = total + row["w"] * float((nll * own).sum()), count + len(nll)
    assert logged["loss"] == pytest.approx(total / count, rel=1e-4)
    plain = trainer(objective="sft").evaluate()["eval_loss"]
    unchanged = trainer(prompt_weight=0.25, weight_column="w", train_dataset=datasets.Dataset.from_list(rows))
    assert unchanged.evaluate()["eval_loss"] == plain
    assert unchanged.predict(unchanged.eval_dataset).metrics["test_loss"] == plain


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_weights_of_a_dataset_with_a_format_are_read_like_those_without(trainer, form):
    def batch_of(rows, given):
        made = datasets.Dataset.from_list(rows)
        first, second = (
            next(iter(trainer(train_dataset=each, **given).get_train_dataloader()))
            for each in (made, made.with_format(form))
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    batch_of(weighted_rows(), {"weight_column": "w", "prompt_weight": 0.5})
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8], "t": [0.0, 1.0, 0.0, 3.0]}
    batch_of([row] * 10, {"token_weights": "t", "prompt_weight": 0.5})


IDS = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8], "t": [0.0, 1.0, 0.0, 3.0], "w": 1.0}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"t": [0.0, 1.0, -1.0, 3.0]},
            r"token_weights: train_dataset\[7\]: column 't' holds the weight -1.0; allowed is a",
        ),
        ({"t": [0.0, 1.0, math.nan, 3.0]}, r"token_weights: train_dataset\[7\]: column 't' holds the weight nan"),
        ({"t": [0.0, 1.0, None, 3.0]}, r"token_weights: train_dataset\[7\]: column 't' holds no weight"),
        ({"t": [0.0, 1.0, 3.0]}, r"train_dataset\[7\]: column 't' holds 3 weights, and the example has 4 tokens"),
        ({"t": None}, r"train_dataset\[7\]: column 't' holds no list, and the example has 4 tokens"),
        ({"w": None}, r"weight_column: train_dataset\[7\]: column 'w' holds no weight"),
        ({"w": 1e7}, r"weight_column: train_dataset\[7\]: column 'w' holds the weight 10000000.0"),
    ],
    ids=str,
)
def test_a_wrong_weight_is_found_before_anything_is_trained(trainer, wrong, said):
    """Its row may be the last of many hours."""
    rows = [IDS] * 7 + [{**IDS, **wrong}] + [IDS] * 2
    with pytest.raises(DataError, match=f"^{said}" if said.startswith(("token", "weight")) else said):
        trainer(token_weights="t", weight_column="w", train_dataset=datasets.Dataset.from_list(rows))


@pytest.mark.parametrize(
    ("zero", "names"),
    [({"w": 0.0}, {"weight_column": "w"}), ({"t": [0.0] * 4}, {"token_weights": "t", "weight_column": "w"})],
)
def test_weights_that_leave_nothing_to_train_on_are_refused(trainer, zero, names):
    rows = datasets.Dataset.from_list([{**IDS, **zero}] * 4)
    with pytest.raises(DataError, match="all its tokens have weight 0, so nothing would be trained"):
        trainer(**names, train_dataset=rows)


def test_prompts_are_trained_on_without_a_column_of_weights(trainer):
    batch = next(iter(trainer(prompt_weight=0.5).get_train_dataloader()))
    assert sorted(set(batch["token_weights"].flatten().tolist())) == [0.0, 0.5, 1.0]
    assert torch.equal(batch["labels"][:, 1:] != -100, batch["token_weights"][:, 1:] > 0), "nothing predicts the first"


def test_weights_of_tokens_that_are_cut_off_are_not_needed(trainer):
    rows = datasets.Dataset.from_list([{**IDS, "t": ["1", "2"]}] * 4)
    made = trainer(token_weights="t", train_dataset=rows, args={"max_length": 2})
    assert next(iter(made.get_train_dataloader()))["token_weights"].tolist() == [[1.0, 2.0]] * 4


@pytest.mark.parametrize("with_features", [True, False])
def test_a_column_of_weights_is_looked_for_in_a_stream_too(trainer, with_features):
    def stream(rows):
        made = datasets.IterableDataset.from_generator(lambda: iter(rows))
        return made.cast(datasets.Dataset.from_list(rows).features) if with_features else made

    with pytest.raises(LossError, match=r"train_dataset has no column 'w'.*prompt, completion"):
        trainer(weight_column="w", train_dataset=stream(ROWS))
    made = trainer(weight_column="w", train_dataset=stream(weighted_rows()))
    batch = next(iter(made.get_train_dataloader()))
    assert sorted(set(batch["token_weights"].flatten().tolist())) == [0.0, 0.5, 1.0, 2.0]


def test_a_row_of_a_stream_without_its_weight_is_refused(trainer):
    rows = [{**row, "w": 1.0} for row in ROWS[:4]] + ROWS[4:]
    made = trainer(weight_column="w", train_dataset=datasets.IterableDataset.from_generator(lambda: iter(rows)))
    with pytest.raises(DataError, match="column 'w' holds no weight"):
        made.train()


def test_settings_may_be_a_mapping_and_misspelt_ones_are_named(trainer):
    assert trainer(loss={"temperature": 2.0, "form": "exact"})._knobs.temperature == 2.0
    with pytest.raises(LossError, match=r"RRITrainer: temprature: unknown \(did you mean 'temperature'\?\)"):
        trainer(temprature=2.0)
    with pytest.raises(LossError, match=r"loss\.temprature: unknown key \(did you mean 'temperature'\?\)"):
        trainer(loss={"temprature": 2.0})


def test_weights_that_cannot_be_used_are_refused(trainer):
    for prompt_weight in (-0.1, 1.5, float("nan"), True):
        with pytest.raises(LossError, match="allowed is a number from 0 to 1"):
            trainer(prompt_weight=prompt_weight)
    with pytest.raises(LossError, match=r"prompt_weight with args.packing True"):
        trainer(prompt_weight=0.5, args={"packing": True, "max_length": 64})
    rows = datasets.Dataset.from_list(weighted_rows())
    with pytest.raises(LossError, match=r"no column 'W'.*name one"):
        trainer(weight_column="W", train_dataset=rows)
    with pytest.raises(LossError, match=r"'w' with args.packing True"):
        trainer(weight_column="w", train_dataset=rows, args={"packing": True, "max_length": 64})
    bad = datasets.Dataset.from_list([{**row, "w": -1.0} for row in weighted_rows()])
    with pytest.raises(DataError, match="column 'w' holds the weight -1"):
        trainer(weight_column="w", train_dataset=bad).train()


PAIR = """
import json, os, sys
import datasets, torch
from rankray import RRITrainer
from trl import SFTConfig
torch.set_num_threads(1)
model, place, rows = json.loads(sys.argv[1])
for options in ({}, {"padding_free": True, "max_length": None}):
    args = SFTConfig(
        output_dir=place, max_steps=2, per_device_train_batch_size=2, per_device_eval_batch_size=2, report_to="none",
        learning_rate=1e-3, use_cpu=True, bf16=False, logging_steps=1, save_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False, train_sampling_strategy="sequential", **options,
    )
    data = datasets.Dataset.from_list(rows)
    made = RRITrainer(model=model, args=args, train_dataset=data, eval_dataset=data, temperature=0.7)
    found = [made.evaluate()["eval_loss"]]
    made.train()
    found += [[log["loss"], log["nll"]] for log in made.state.log_history if "loss" in log]
    if os.environ["RANK"] == "0":
        print(json.dumps(found))
    del made
"""


IN_ORDER = {"train_sampling_strategy": "sequential"}


def in_a_pair(given):
    """Run PAIR in two processes; return what the first one printed."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PAIR + LEAVE, json.dumps(given)],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    end_together(workers)
    printed = [worker.communicate(timeout=600)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    return [json.loads(line) for line in printed[0].splitlines()]


def test_two_processes_evaluate_and_train_on_each_example_once(trainer, model_dir, tmp_path):
    """Of five examples the second batch has one, for the first process; evaluated before, the model is still shared."""
    rows = ROWS[:5]
    alone = trainer(temperature=0.7, train_dataset=datasets.Dataset.from_list(rows), args={"max_steps": 2, **IN_ORDER})
    logits, targets = token_losses(model_dir, rows)
    wanted = [float(torch.nn.functional.cross_entropy(logits.double(), targets))]
    alone.train()
    wanted += [[log["loss"], log["nll"]] for log in alone.state.log_history if "loss" in log]
    assert len(wanted) == 3
    for found in in_a_pair([str(model_dir), str(tmp_path / "pair"), rows]):
        assert found[0] == pytest.approx(wanted[0], rel=1e-5)
        for ours, theirs in zip(found[1:], wanted[1:], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
