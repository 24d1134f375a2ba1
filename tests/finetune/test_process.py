import gc
import os

import pytest
import torch
from fixtures.training import Killed, Recorder

from rankray.finetune.process import clean_process

SHORT = {"train__max_steps": 2, "evaluate__every_steps": 1}


@pytest.mark.parametrize("die_at", [None, 1])
def test_the_thread_count_is_restored(tree, train, die_at):
    before, seen = torch.get_num_threads(), []

    class Watcher(Recorder):
        def report(self, report):
            seen.append(torch.get_num_threads())
            return super().report(report)

    made = tree(**SHORT, train__threads=before + 1)
    if die_at is None:
        train(made, Watcher())
    else:
        with pytest.raises(Killed):
            train(made, Watcher(die_at=die_at))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_the_environment_is_restored(tree, train, monkeypatch):
    monkeypatch.setenv("ACCELERATE_SOMETHING", "mine")
    before = dict(os.environ)
    train(tree(**SHORT, train__sft={"bf16": True}))
    assert dict(os.environ) == before


def test_variables_of_a_run_are_removed_and_changed_ones_set_back(monkeypatch):
    monkeypatch.setenv("FSDP_VERSION", "2")
    with clean_process(1):
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
        os.environ["FSDP_VERSION"] = "1"
    assert "ACCELERATE_MIXED_PRECISION" not in os.environ
    assert os.environ["FSDP_VERSION"] == "2"


def test_precision_is_forgotten_between_runs():
    from accelerate import Accelerator

    with clean_process(1):
        assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"
    with clean_process(1):
        assert Accelerator(cpu=True).mixed_precision == "no"


def test_the_heap_is_frozen_during_a_run_only():
    before = gc.get_freeze_count()
    with clean_process(1):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == before


def test_how_torch_computes_is_restored(tree, train):
    """`full_determinism` sets it for the process: the next trial, without it, computed otherwise than in a new one."""
    before = dict(os.environ)
    train(tree(**SHORT, train__sft={"full_determinism": True}), seen := Algorithms())
    assert seen.deterministic == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    assert dict(os.environ) == before


class Algorithms(Recorder):
    """What a trial's reports see."""

    def __init__(self):
        super().__init__()
        self.deterministic = set()

    def report(self, report):
        self.deterministic.add(torch.are_deterministic_algorithms_enabled())
        return super().report(report)


def test_what_was_chosen_before_a_run_is_put_back():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with clean_process(1):
            torch.use_deterministic_algorithms(True)
            torch.backends.fp32_precision = "tf32"
            torch.backends.cudnn.benchmark = True
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.fp32_precision == "none"
        assert torch.backends.cudnn.benchmark is False
    finally:
        torch.use_deterministic_algorithms(False)
