import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from fixtures.training import Killed, Recorder
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rankray.errors import ConfigError, DataError, ModelError

SHORT = {"evaluate__every_steps": 2, "train__max_steps": 7, "train__batch_size": 8}
"""24 examples, 3 steps an epoch: seven steps end in the third epoch, and step 4 is in the middle of the second."""


def same(one, other):
    """Whether two metric dicts are equal bit for bit, NaN included."""
    return {k: repr(v) for k, v in one.items()} == {k: repr(v) for k, v in other.items()}


def history(recorder, until):
    return [{"step": r.step, **r.metrics} for r in recorder.reports if r.step <= until]


def test_reports_come_at_every_evaluation_and_at_the_end(tree, train, tmp_path):
    outcome, recorder = train(tree(**SHORT))
    assert list(recorder.by_step) == [2, 4, 6, 7]
    assert [Path(r.checkpoint).name for r in recorder.reports] == [
        "step-000002",
        "step-000004",
        "step-000006",
        "step-000007",
    ]
    assert outcome.steps == 7
    assert outcome.metrics == recorder.by_step[7]
    assert outcome.checkpoint == str(tmp_path / "trial" / "step-000007")
    assert outcome.stopped == ""
    assert {"eval/nll", "train/loss", "train/nll", "train/mean_scale"} <= outcome.metrics.keys()
    assert outcome.metrics["eval/nll"] < recorder.by_step[2]["eval/nll"]


def test_a_checkpoint_is_a_complete_model_directory(tree, train):
    outcome, _ = train(tree(**SHORT))
    model = AutoModelForCausalLM.from_pretrained(outcome.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(outcome.checkpoint)
    assert model(**tokenizer("1 plus 2", return_tensors="pt")).logits.isfinite().all()
    names = {path.name for path in Path(outcome.checkpoint).iterdir()}
    assert {
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "rankray.json",
    } <= names
    assert "training_args.bin" not in names
    for file in ("optimizer.pt", "scheduler.pt"):
        assert torch.load(Path(outcome.checkpoint) / file, weights_only=True)
    assert not list(Path(outcome.checkpoint).parent.glob(".partial*"))


def test_progress_is_reported_between_reports(tree, train, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("rankray.finetune.run"), "PROGRESS_SECONDS", 0.0)
    _, recorder = train(tree(**SHORT))
    assert [step for step, _ in recorder.lives] == [1, 3, 5]
    assert all(math.isfinite(metrics["train/nll"]) for _, metrics in recorder.lives)


def test_a_reporter_need_not_have_progress(tree, train):
    class Plain:
        report = Recorder().report

    assert train(tree(**SHORT), Plain())[0].steps == 7


def test_a_verdict_stops_at_once(tree, train):
    outcome, recorder = train(tree(**SHORT, study__seeds=2), Recorder(stop_at=4))
    assert list(recorder.by_step) == [2, 4]
    assert (outcome.stopped, outcome.steps) == ("told to", 4)
    assert outcome.metrics == recorder.by_step[4]


CASES = {
    "plain": {},
    "accumulating": {"train__micro_batch_size": 4},
    "seeds": {"study__seeds": 2, "train__max_steps": 5},
    "sparse": {"train__checkpoint_every_steps": 3},
    "noisy embeddings": {"train__sft": {"neftune_noise_alpha": 5.0}},
    "lora": {"model__lora": {"rank": 2, "alpha": 4.0, "dropout": 0.3}},
    "bfloat16": {"model__dtype": "bfloat16"},
    "autocast": {"train__sft": {"bf16": True, "gradient_checkpointing": True}},
    "talr": {"train__micro_batch_size": 4, "loss__objective": "talr"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_trial_ends_as_an_uninterrupted_one(tree, train, dropout_dir, case):
    made = tree(**{**SHORT, "model__path": str(dropout_dir), **CASES[case]})
    whole, recorder = train(made, directory="whole")
    for die_at in list(recorder.by_step)[1::2]:
        place = f"killed-{die_at}"
        killed = Recorder(die_at=die_at)
        with pytest.raises(Killed):
            train(made, killed, directory=place)
        committed = [r for r in killed.reports[:-1] if r.checkpoint]
        checkpoint = committed[-1].checkpoint if committed else None
        known = history(killed, committed[-1].step) if committed else []
        resumed, again = train(made, directory=place, checkpoint=checkpoint, history=known)
        assert same(resumed.metrics, whole.metrics)
        assert resumed.steps == whole.steps
        for step, metrics in again.by_step.items():
            assert same(metrics, recorder.by_step[step]), step
        weights, other = (load_file(next(Path(o.checkpoint).glob("*model.safetensors"))) for o in (whole, resumed))
        assert all(torch.equal(weights[name], other[name]) for name in weights)


def test_dropout_is_at_work_in_these_tests(tree, train, dropout_dir, model_dir):
    dropped = train(tree(**SHORT, model__path=str(dropout_dir)), directory="a")[0].metrics
    assert dropped["train/nll"] != train(tree(**SHORT), directory="b")[0].metrics["train/nll"]


def test_resuming_at_the_last_step_only_reports_again(tree, train):
    whole, recorder = train(tree(**SHORT))
    resumed, again = train(tree(**SHORT), checkpoint=whole.checkpoint, history=history(recorder, 7), directory="other")
    assert list(again.by_step) == [7]
    assert same(resumed.metrics, whole.metrics)
    assert (resumed.steps, resumed.checkpoint) == (7, whole.checkpoint)


def test_a_stop_that_was_missed_is_obeyed_on_resume(tree, train):
    whole, _ = train(tree(**SHORT))
    first = whole.checkpoint.replace("000007", "000002")
    outcome, recorder = train(tree(**SHORT), Recorder(stop_at=2), checkpoint=first, directory="other")
    assert list(recorder.by_step) == [2]
    assert (outcome.stopped, outcome.steps, outcome.checkpoint) == ("told to", 2, first)


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_preempted_trial_ends_as_an_uninterrupted_one(tree, train, dropout_dir, step):
    """Steps 1 and 3 lie between two evaluations, 4 is one, 6 the last of the first of two runs."""
    made = tree(**SHORT | {"train__max_steps": 6}, model__path=str(dropout_dir), study__seeds=2)
    whole = train(made, directory="whole")[1].by_step
    left, before = train(made, Recorder(preempt_at=step), directory="left")
    assert (left.steps, left.preempted, left.stopped) == (step, "its node goes", "")
    assert left.checkpoint == before.reports[-1].checkpoint
    assert left.checkpoint.endswith(f"step-{step:06d}")
    assert before.by_step.keys() == {*range(2, step + 1, 2), step}
    assert bool(before.by_step[step]) == (step % 2 == 0)
    outcome, after = train(made, directory="left", checkpoint=left.checkpoint, history=history(before, step))
    assert (outcome.steps, outcome.preempted) == (12, "")
    found = {at: metrics for at, metrics in {**before.by_step, **after.by_step}.items() if metrics}
    assert found.keys() == whole.keys()
    assert all(same(found[at], whole[at]) for at in whole)


def test_a_trial_asked_to_preempt_at_its_end_has_ended(tree, train):
    outcome, _ = train(tree(**SHORT), Recorder(preempt_at=7))
    assert (outcome.steps, outcome.preempted) == (7, "")


def test_unfinished_checkpoints_are_removed(tree, train, tmp_path):
    (tmp_path / "trial" / ".partial-step-000002").mkdir(parents=True)
    (tmp_path / "trial" / ".partial-step-000002" / "junk").write_text("x")
    outcome, _ = train(tree(**SHORT))
    assert not list(Path(outcome.checkpoint).parent.glob(".partial*"))
    assert not (Path(outcome.checkpoint).parent / "step-000002" / "junk").exists()


def test_a_damaged_checkpoint_is_named(tree, train, tmp_path):
    outcome, _ = train(tree(**SHORT))
    (Path(outcome.checkpoint) / "rankray.json").unlink()
    with pytest.raises(ModelError, match=r"^checkpoint: .*step-000007.* cannot be resumed"):
        train(tree(**SHORT), checkpoint=outcome.checkpoint)


def test_seeds_are_averaged_and_counted_through(tree, train):
    changes = {**SHORT, "train__max_steps": 3, "evaluate__every_steps": 2}
    _, one = train(tree(**changes, train__seed=5), directory="one")
    _, two = train(tree(**changes, train__seed=6), directory="two")
    _, both = train(tree(**changes, train__seed=5, study__seeds=2), directory="both")
    assert list(both.by_step) == [2, 3, 5, 6]
    assert same(both.by_step[3], one.by_step[3])
    assert one.by_step[3]["eval/nll"] != two.by_step[3]["eval/nll"]
    for step in (2, 3):
        mean = (one.by_step[3]["eval/nll"] + two.by_step[step]["eval/nll"]) / 2
        assert both.by_step[3 + step]["eval/nll"] == pytest.approx(mean, rel=1e-12)
        assert both.by_step[3 + step]["train/loss"] == two.by_step[step]["train/loss"]


@pytest.mark.parametrize(
    ("distance", "steps"), [(None, [2, 4, 6, 7]), (1, [2, 4, 6, 7]), (3, [4, 6, 7]), (5, [6, 7]), (100, [7])]
)
def test_checkpoints_are_made_at_the_next_evaluation(tree, train, distance, steps):
    _, recorder = train(tree(**SHORT, train__checkpoint_every_steps=distance))
    assert [report.step for report in recorder.reports if report.checkpoint] == steps
    assert len(recorder.reports) == 4


def test_lora_saves_adapters_only(tree, train, model_dir):
    from peft import AutoPeftModelForCausalLM

    outcome, recorder = train(tree(**SHORT, model__lora={"rank": 2, "alpha": 8.0}))
    names = {path.name for path in Path(outcome.checkpoint).iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    assert all("lora" in name for name in load_file(Path(outcome.checkpoint) / "adapter_model.safetensors"))
    assert outcome.metrics["eval/nll"] < recorder.by_step[2]["eval/nll"]
    assert AutoPeftModelForCausalLM.from_pretrained(outcome.checkpoint).peft_config["default"].r == 2


def test_a_loss_that_is_not_finite_is_reported_as_it_is(tree, train, model_dir, tmp_path):
    broken = shutil.copytree(model_dir, tmp_path / "broken")
    from safetensors.torch import save_file

    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    made = tree(**SHORT, model__path=str(broken), evaluate__metrics=["nll", "accuracy", "pass@2"])
    with pytest.raises(ModelError):
        train(made)
    made = tree(
        **SHORT, train__learning_rate=1e30, train__warmup_ratio=0.0, evaluate__metrics=["nll", "accuracy", "pass@2"]
    )
    outcome, recorder = train(made, directory="diverged")
    assert all(math.isnan(recorder.by_step[7][name]) for name in ("eval/nll", "eval/accuracy", "eval/pass@2"))
    assert json.loads((Path(outcome.checkpoint) / "rankray.json").read_text())["step"] == 7


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"data__train": "nowhere.jsonl"}, DataError, r"^data.train: no file"),
        ({"data__prompt": "{nothing}"}, DataError, r"^data.prompt: no column 'nothing'"),
        ({"model__path": "./nowhere"}, ModelError, r"^model.path: no directory './nowhere'"),
        ({"evaluate__functions": ["nowhere:f"]}, ConfigError, r"^evaluate.functions: nowhere:f: module"),
        ({"train__batch_size": 0}, ConfigError, r"^train.batch_size"),
    ],
)
def test_what_cannot_be_trained_is_refused(tree, train, changes, error, said):
    with pytest.raises(error, match=said):
        train(tree(**changes))


def test_it_is_silent(tree, train, capfd):
    train(tree(**SHORT, evaluate__metrics=["nll", "accuracy", "pass@2"], evaluate__max_new_tokens=4), directory="a")
    train(tree(**SHORT, model__lora={"rank": 2}), directory="b")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_adapters_are_drawn_from_the_trials_seed_alone(tree, train, monkeypatch):
    """As with TRL 1.10, which does not seed before it makes them."""
    monkeypatch.setattr("trl.trainer.sft_trainer.set_seed", lambda seed: None, raising=False)
    made = tree(model__lora={"rank": 2}, train__max_steps=2)
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        found.append(train(made, directory=str(state))[0].metrics)
    assert same(*found)
