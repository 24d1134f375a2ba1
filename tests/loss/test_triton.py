"""The GPU kernels, run on the CPU by Triton's interpreter, which must be selected before triton is imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankray.loss import backend, fused, weighted_nll
from rankray.loss.chunked import _plan

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_the_kernels_under_the_interpreter():
    cases = Path(__file__).with_name("triton_cases.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-W", "ignore", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_without_a_gpu_torch_is_used(batch_of, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    batch = batch_of(dtype=torch.float32)
    plan = _plan(batch.hidden_NH, batch.head_VH, batch.label_N, None, None, 1.0, None)
    assert not fused.on_triton(plan, torch.device("cpu"))
    assert weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N).isfinite()


@pytest.mark.parametrize(("found", "dtype", "expected"), [(True, torch.bfloat16, True), (False, torch.bfloat16, False)])
def test_on_a_gpu_the_kernels_need_triton(found, dtype, expected, batch_of, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if found else None)
    monkeypatch.setattr(backend, "kernel_problem", lambda device, dtype: "")
    batch = batch_of(dtype=dtype)
    plan = _plan(batch.hidden_NH, batch.head_VH, batch.label_N, None, None, 1.0, None)
    assert fused.on_triton(plan, torch.device("cuda")) is expected
