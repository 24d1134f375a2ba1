import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankray.contracts import TrialSpec
from rankray.errors import ModelError
from rankray.model import resident

ROOT = Path(__file__).resolve().parents[2]
FRESH = """
import json, os, sys
from rankray.contracts import TrialSpec, Verdict
from rankray.finetune import run
class Reporter:
    def __init__(self):
        self.reports = []
    def report(self, report):
        self.reports.append({"step": report.step, **{k: repr(v) for k, v in report.metrics.items()}})
        return Verdict(stop=False)
for line in sys.stdin:
    if os.fork() == 0:
        reporter = Reporter()
        run(TrialSpec.from_json(line), reporter)
        print(json.dumps(reporter.reports), flush=True)
        os._exit(0)
    os.wait()
os._exit(0)
"""
"""Trains each trial in a fork that has trained no other; importing the libraries takes longer than the trials."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Return a function that trains a trial in a fresh process and returns its reports; nothing may go to stderr."""
    errors = tmp_path_factory.mktemp("fresh") / "stderr"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", FRESH],  # of forks, from 3.12 on
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
        )

    def go(spec):
        process.stdin.write(spec.to_json() + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert errors.read_text() == ""
        return json.loads(line)

    yield go
    process.stdin.close()
    assert process.wait(timeout=600) == 0


@pytest.fixture(autouse=True)
def forget():
    resident.forget()


def reported(recorder):
    return [{"step": r.step, **{k: repr(v) for k, v in r.metrics.items()}} for r in recorder.reports]


def test_a_used_process_gives_the_numbers_of_a_fresh_one(tree, train, fresh, dropout_dir, tmp_path):
    metrics = ["nll", "accuracy", "pass@2"]
    shape = {"train__max_steps": 3, "evaluate__metrics": metrics, "evaluate__max_new_tokens": 4}
    one = tree(model__path=str(dropout_dir), **shape)
    others = [
        tree(model__lora={"rank": 2}, train__sft={"bf16": True}, train__micro_batch_size=4, train__threads=2, **shape),
        tree(model__path=str(dropout_dir), model__dtype="bfloat16", data__max_length=20, **shape),
        tree(model__path=str(dropout_dir), train__sft={"neftune_noise_alpha": 5.0}, **shape),
    ]
    first = reported(train(one, directory="first")[1])
    for number, other in enumerate(others):
        assert reported(train(other, directory=f"other-{number}")[1]) != first
    assert reported(train(one, directory="again")[1]) == first
    assert fresh(TrialSpec(config=one, directory=str(tmp_path / "fresh"))) == first


def test_every_objective_trains_in_a_used_process_as_in_a_fresh_one(tree, train, fresh, dropout_dir, tmp_path):
    losses = [{"objective": name} for name in ("sft", "dft", "talr", "eaft", "rri")] + [{"form": "exact"}]
    trees = [
        tree(model__path=str(dropout_dir), model__lora=lora, train__max_steps=2) | {"loss": loss}
        for loss in losses
        for lora in (None, {"rank": 2, "dropout": 0.1})
    ]
    unused = [fresh(TrialSpec(config=one, directory=str(tmp_path / f"fresh-{i}"))) for i, one in enumerate(trees)]
    used = [reported(train(one, directory=f"used-{number}")[1]) for number, one in enumerate(trees)]
    assert used == unused
    assert len({json.dumps(found) for found in unused}) == len(trees)


def test_nothing_grows_from_trial_to_trial(tree, train):
    """Once each kind of trial has run; `benchmarks/resident_memory.py` measures the memory of 200 trials."""

    def alive():
        gc.collect()
        found = gc.get_objects()
        tensors = {
            item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in found if is_tensor(item)
        }
        return sum(isinstance(item, torch.nn.Module) for item in found), sum(tensors.values())

    def is_tensor(item):
        return issubclass(type(item), torch.Tensor)

    kinds = [{}, {"model__lora": {"rank": 2}}, {"model__dtype": "bfloat16"}, {"train__sft": {"bf16": True}}]
    held = []
    gc.collect()
    gc.freeze()  # the libraries' own objects, which would make each collection slow
    try:
        for number in range(4 * len(kinds)):
            train(tree(train__max_steps=2, **kinds[number % len(kinds)]), directory=f"t{number}")
            held.append(alive())
    finally:
        gc.unfreeze()
    for kind in range(len(kinds)):
        assert held[kind + 8] == held[kind + 4]
        assert held[kind + 12] == held[kind + 4]


def test_what_is_kept_is_bounded(tree, train, monkeypatch):
    monkeypatch.setitem(resident.KEPT, "split", 3)
    for length in (20, 21, 22):
        train(tree(train__max_steps=1, data__max_length=length), directory=f"t{length}")
    assert {kind: len(shelf) for kind, shelf in resident._kept.items()} == {
        "tokenizer": 1,
        "config": 1,
        "model": 1,
        "split": 3,
    }
    resident.forget()
    assert not any(resident._kept.values())


def test_a_changed_file_is_read_again(tree, train, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"question": "1", "answer": "1"}\n' * 8)
    made = tree(train__max_steps=1, data__train=str(file), data__eval=str(file))
    before = train(made, directory="a")[0].metrics
    assert train(made, directory="b")[0].metrics == before
    file.write_text('{"question": "2", "answer": "2"}\n' * 8)
    assert train(made, directory="c")[0].metrics != before


def test_large_models_are_not_kept(tree, train, monkeypatch):
    resident.forget()
    monkeypatch.setattr(resident, "RESIDENT_BYTES", 10)
    outcomes = [train(tree(train__max_steps=2, model__dtype="bfloat16"), directory=name)[0].metrics for name in "ab"]
    assert not resident._kept["model"]
    assert outcomes[0] == outcomes[1]


def test_float16_weights_are_float32_in_memory_only_without_lora(tree, monkeypatch):
    from rankray.config import Config

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    whole = Config.model_validate(tree(model__dtype="float16"))
    adapted = Config.model_validate(tree(model__dtype="float16", model__lora={}))
    assert resident.computes_in_half(whole)
    assert next(resident.fresh_model(whole).parameters()).dtype == torch.float32
    assert next(resident.fresh_model(adapted).parameters()).dtype == torch.float16


def test_weights_that_are_not_complete_are_refused(tree, train, model_dir, tmp_path):
    """transformers would start what is missing at random, and say so in a log line only."""
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lack 1 of the model's tensors"):
        train(tree(model__path=str(broken)))
