"""The base model's statistics in training: equal to naive ones, found again in every batch, computed once."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rankray.config import Config
from rankray.errors import DataError
from rankray.finetune import run as run_trial
from rankray.finetune import signal
from rankray.finetune.signal import BASE_STATS, SignalCollator, base_signal
from rankray.loss import reference, token_stats
from rankray.model.resident import split_of, tokenizer_of

CPU = torch.device("cpu")


def signal_of(tree):
    config = Config.model_validate(tree)
    tokenizer = tokenizer_of(config)
    train = split_of("train", config, tokenizer)
    return base_signal(config, tokenizer, train, CPU), train


def naive_statistics(path, dataset):
    """One example at a time, all the logits, no padding."""
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    for example in dataset:
        labels = torch.tensor(example["labels"])[1:]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example["input_ids"]])).logits[0, :-1]
        keep = labels != -100
        yield reference.token_stats(logits[keep], labels[keep]), labels[keep]


def check_equals_naive(found, path, rows):
    """Ranks may differ by what the last bit of a logit decides; everything else by rounding."""
    at = 0
    for stats, labels in naive_statistics(path, rows):
        mine = found.records[at : at + len(labels)]
        at += len(labels)
        assert mine["token"].tolist() == labels.tolist()
        for name, column in zip(mine.dtype.names[1:], stats, strict=False):
            ours = torch.from_numpy(mine[name].copy()).double()
            if name == "rank":
                assert (ours - column).abs().max() <= 1
                assert (ours != column).double().mean() < 0.05
                continue
            torch.testing.assert_close(ours, column, rtol=2e-4, atol=2e-5, msg=f"{name} of {labels.tolist()}")
    return at


def test_the_statistics_are_the_naive_ones(tree):
    found, train = signal_of(tree())
    assert check_equals_naive(found, tree()["model"]["path"], train.dataset) == len(found.records)
    assert found.seconds > 0
    assert signal_of(tree())[0].seconds == 0.0


def test_on_real_data_with_a_real_model(assets, tmp_path):
    rows = (assets / "data" / "gsm8k" / "train.jsonl").read_text().splitlines()[:40]
    data = tmp_path / "gsm8k.jsonl"
    data.write_text("\n".join(rows))
    names = list(json.loads(rows[0]))
    tree = {
        "name": "real",
        "model": {"path": str(assets / "models" / "stories260K")},
        "data": {
            "train": str(data),
            "eval": str(data),
            "prompt": f"{{{names[0]}}}\n",
            "completion": f"{{{names[1]}}}",
            "max_length": 256,
        },
    }
    found, train = signal_of(tree)
    assert len(found.records) > 2000
    assert check_equals_naive(found, tree["model"]["path"], train.dataset) == len(found.records)


ONE_STEP = {"train__max_steps": 1, "train__batch_size": 24, "evaluate__every_steps": 1, "train__learning_rate": 1e-12}
"""One step on all examples at once: the model in training is still the base model."""
LOSSES = [
    {"objective": "rri", "form": "exact"},
    {"objective": "deft"},
    {"objective": "talr"},
    {"objective": "threshold", "q": 0.004},
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["objective"])
def test_at_the_first_step_base_is_online(tree, train, loss):
    made = tree(**ONE_STEP)
    made["loss"] = loss
    online = train(made, directory="online")[0].metrics
    made["loss"] = {**loss, "signal": "base"}
    base = train(made, directory="base")[0].metrics
    assert base["train/loss"] == pytest.approx(online["train/loss"], rel=1e-4)
    assert base["train/nll"] == pytest.approx(online["train/nll"], rel=1e-6)


def test_later_the_weights_stay_those_of_the_base_model(tree, train):
    """dft on a base signal is a fixed weight for each token: at a last step of no size both have the base's weights."""
    made = tree(train__max_steps=30, train__batch_size=24, evaluate__every_steps=30)
    metrics = {}
    for name, loss in (("base", {"objective": "dft", "signal": "base"}), ("online", {"objective": "dft"})):
        made["loss"] = loss
        metrics[name] = train(made, directory=name)[1].reports[-1].metrics
    assert metrics["online"]["train/mean_weight"] > 1.5 * metrics["base"]["train/mean_weight"]
    assert metrics["base"]["train/mean_weight"] == pytest.approx(expected_dft_weight(made), rel=1e-3)


def expected_dft_weight(made):
    found, _ = signal_of(made)
    return float(torch.from_numpy(found.records["log_prob"].copy()).double().exp().mean())


@pytest.mark.parametrize(
    "sft",
    [
        {"packing": True},
        {"packing": True, "shuffle_dataset": True},
        {"packing": True, "packing_strategy": "wrapped"},
        {"padding_free": True},
        {"neftune_noise_alpha": 5.0},
    ],
    ids=lambda sft: "-".join(sft),
)
def test_found_again_after_packing_and_shuffling(tree, train, sft):
    """dft on a base signal over all examples: whatever the batch looks like, the same tokens have the same weights."""
    made = tree(**ONE_STEP, data__max_length=600)
    made["loss"] = {"objective": "dft", "signal": "base"}
    made["train"]["sft"] = sft
    found = train(made)[0].metrics
    assert found["train/mean_weight"] == pytest.approx(expected_dft_weight(made), rel=1e-4)


def test_iw_sft_starts_as_sft_and_leaves_it(tree, train):
    made = tree(train__max_steps=8, train__batch_size=24, evaluate__every_steps=1)
    made["loss"] = {"objective": "iw_sft"}
    steps = train(made)[1].by_step
    assert steps[1]["train/mean_weight"] == pytest.approx(1.0, rel=1e-4)
    assert steps[1]["train/loss"] == pytest.approx(steps[1]["train/nll"], rel=1e-4)
    assert steps[8]["train/mean_weight"] > 1.2


def test_accumulation_is_one_batch(tree, train):
    for loss in ({"objective": "talr", "signal": "base"}, {"objective": "iw_sft"}):
        found = []
        for micro in (None, 2):
            made = tree(train__batch_size=8, train__max_steps=3, evaluate__every_steps=1, train__micro_batch_size=micro)
            made["loss"] = loss
            found.append(train(made, directory=f"{loss['objective']}-{micro}")[1].by_step)
        for step in (1, 2, 3):
            for name in ("train/loss", "train/nll", "eval/nll"):
                assert found[1][step][name] == pytest.approx(found[0][step][name], rel=2e-4), (step, name)


def test_a_resumed_trial_is_the_uninterrupted_one(tree, train):
    made = tree(train__max_steps=4)
    made["loss"] = {"objective": "rri", "signal": "base"}
    whole = train(made, directory="whole")[0]
    halfway = next(report.checkpoint for report in train(made, directory="half")[1].reports if report.step == 2)
    resumed = train(made, directory="rest", checkpoint=halfway)[0]
    assert resumed.metrics == whole.metrics


def test_lora_has_the_same_base(tree, train):
    made = tree(**ONE_STEP)
    made["model"]["lora"] = {"rank": 2}
    made["loss"] = {"objective": "dft", "signal": "base"}
    assert train(made)[0].metrics["train/mean_weight"] == pytest.approx(expected_dft_weight(made), rel=1e-4)


def test_tokens_that_training_changed_are_refused(tree):
    found, train = signal_of(tree())
    tokenizer = tokenizer_of(Config.model_validate(tree()))
    rows = [found.dataset[index] for index in (3, 5)]

    def collate(examples):
        width = max(len(row["input_ids"]) for row in examples)
        pad = {"input_ids": tokenizer.pad_token_id, "labels": -100}
        return {n: torch.tensor([row[n] + [p] * (width - len(row[n])) for row in examples]) for n, p in pad.items()}

    good = SignalCollator(collate, found)(rows)
    expected = [row for row, index in zip(train.dataset, range(6), strict=False) if index in (3, 5)]
    assert good["labels"][0].tolist()[: len(expected[0]["labels"])] == expected[0]["labels"]
    assert good[BASE_STATS].shape == (*good["labels"].shape, 7)
    rows[0]["input_ids"][-1] += 1
    with pytest.raises(DataError, match=r"^loss.signal: base with training tokens that are not those.*signal: online"):
        SignalCollator(collate, found)(rows)


def drive(tree, directory, log, die):
    """A driver's process: train, and write down each block that it computes; perhaps die in the middle."""
    import os
    import signal as signals

    torch.set_num_threads(1)
    compute = signal.block_records

    def noted(*args):
        with open(log, "a") as file:
            file.write("block\n")
        records = compute(*args)
        if die and len(Path(log).read_text().split()) == 2:
            os.kill(os.getpid(), signals.SIGKILL)
        return records

    signal.block_records = noted
    signal.ROWS_PER_BLOCK = 8
    from rankray.contracts import TrialSpec, Verdict

    class Silent:
        def report(self, report):
            return Verdict(stop=False)

    run_trial(TrialSpec(config=tree, directory=directory), Silent())


@pytest.mark.slow  # tests/data/test_signal.py has the same with processes that need no torch
def test_two_drivers_and_a_kill_compute_each_block_once(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("RANKRAY_CACHE", str(tmp_path / "cache"))
    made, log = tree(train__max_steps=1, evaluate__every_steps=1), str(tmp_path / "log")
    made["loss"] = {"objective": "rri", "signal": "base"}
    context = multiprocessing.get_context("spawn")
    killed = context.Process(target=drive, args=(made, str(tmp_path / "killed"), log, True))
    killed.start()
    killed.join()
    assert killed.exitcode == -9
    both = [context.Process(target=drive, args=(made, str(tmp_path / name), log, False)) for name in ("a", "b")]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    blocks = 3 + 1  # of 24 examples, and the one that was lost before it was written
    assert Path(log).read_text().split() == ["block"] * blocks


def test_statistics_of_a_batch_by_hand():
    logits = torch.randn(4, 9)
    stats = token_stats(logits, torch.arange(4))
    base_BT7 = torch.zeros(2, 4, 7)
    base_BT7[0, 2:] = torch.stack(list(stats[:-1]), 1)[:2]
    base_BT7[1, 1:3] = torch.stack(list(stats[:-1]), 1)[2:]
    labels = torch.tensor([[-100, -100, 0, 1], [-100, 2, 3, -100]])
    for mine, true in zip(signal.stats_at(base_BT7, labels)[:-1], stats[:-1], strict=True):
        torch.testing.assert_close(mine, true)
    nlls = signal.base_sequence_nlls({"labels": labels, BASE_STATS: base_BT7})
    assert nlls == pytest.approx([-stats.log_prob_N[:2].mean().item(), -stats.log_prob_N[2:].mean().item()])
