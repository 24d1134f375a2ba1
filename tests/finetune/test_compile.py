"""Whole: `train.sft: {torch_compile: true}`: the layers are compiled, the loss is not, and nothing else changes."""

import torch
from fixtures.training import Recorder
from torch._dynamo.utils import counters


def test_a_compiled_trial_is_the_same_trial(tree, train):
    """Bit for bit with a backend that runs the captured graphs as they are; resumed in between, too."""
    shape = {"train__micro_batch_size": 4}
    plain, _ = train(tree(**shape), Recorder(), directory="plain")
    compiled = tree(**shape, train__sft={"torch_compile": True, "torch_compile_backend": "eager"})
    torch.compiler.reset()
    counters.clear()
    try:
        _, stopped = train(compiled, Recorder(stop_at=2), directory="compiled")
        resumed, _ = train(compiled, Recorder(), directory="compiled", checkpoint=stopped.reports[-1].checkpoint)
        assert counters["stats"]["calls_captured"] > 100
    finally:
        torch.compiler.reset()
    assert resumed.metrics == plain.metrics
