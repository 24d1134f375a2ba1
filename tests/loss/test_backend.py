"""Which code computes a chunk: the environment variable, the comparison on first use, and falling back."""

import importlib.util
import logging

import pytest
import torch

from rankray.errors import LossError
from rankray.loss import backend, gradients, weighted_nll
from rankray.loss.gradients import add_product, scaled_to

COMPARISONS = (backend.kernel_problem, backend.wide_product_problem)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    """Each test makes the comparisons anew, without an interpreter."""
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for comparison in COMPARISONS:
        comparison.cache_clear()
    yield
    for comparison in COMPARISONS:
        comparison.cache_clear()


def test_an_unknown_choice_names_those_there_are(monkeypatch, batch_of):
    monkeypatch.setenv(backend.VARIABLE, "tritn")
    batch = batch_of()
    with pytest.raises(LossError, match=r"^RANKRAY_LOSS: got 'tritn'.*triton.*allowed: auto, torch, triton"):
        weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N)


def test_kernels_that_cannot_run_here_are_refused(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "triton")
    with pytest.raises(LossError, match=r"^RANKRAY_LOSS: triton on cpu.*allowed here: auto, torch"):
        backend.on_triton(torch.float32, CPU)


def test_torch_is_torch(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "torch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(backend, "kernel_problem", lambda device, dtype: "")
    assert not backend.on_triton(torch.bfloat16, CUDA)
    monkeypatch.setenv(backend.VARIABLE, "auto")
    assert backend.on_triton(torch.bfloat16, CUDA)
    assert not backend.on_triton(torch.float64, CUDA)
    assert not backend.on_triton(torch.bfloat16, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the kernels may work")
def test_where_the_kernels_fail_torch_is_used_and_the_log_says_why(monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with caplog.at_level(logging.DEBUG, logger="rankray"):
        assert not backend.on_triton(torch.bfloat16, CUDA)
        assert not backend.on_triton(torch.bfloat16, CUDA)
    (line,) = [record.message for record in caplog.records if "kernels are not used" in record.message]
    assert line.startswith("the kernels are not used for torch.bfloat16 on cuda: ")


@pytest.mark.parametrize("is_rounded", [True, False])
@pytest.mark.parametrize(("dtype", "has_unit"), [(torch.float16, True), (torch.float16, False), (torch.bfloat16, True)])
def test_a_product_that_is_off_is_noticed(is_rounded, dtype, has_unit, monkeypatch):
    def product(total, left, right, out_dtype, alpha, out):
        found = (left @ right).to(dtype) if is_rounded else left.float() @ right.float()
        return out.copy_(total + found.to(out_dtype) * (alpha if has_unit else 1))

    monkeypatch.setattr(torch, "addmm", product)
    backend.wide_product_problem.cache_clear()
    problem = backend.wide_product_problem(CPU, dtype)
    backend.wide_product_problem.cache_clear()
    assert problem.startswith("off by") == (is_rounded or not has_unit), problem


@pytest.mark.parametrize("elements", [gradients.TILE_ELEMENTS, 6, 1])
def test_without_a_wide_product_the_sum_is_still_right(elements, monkeypatch):
    """However few rows are added at a time."""
    monkeypatch.setattr(gradients, "TILE_ELEMENTS", elements)
    left, right = torch.randn(5, 8).bfloat16(), torch.randn(8, 3).bfloat16()
    total = torch.ones(5, 3)
    add_product(total, left, right)
    torch.testing.assert_close(total, 1 + left.float() @ right.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("elements", [gradients.TILE_ELEMENTS, 6, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(7, 3), (5,), (0, 3)])
def test_a_gradient_is_scaled_in_its_own_precision_and_rounded_once(dtype, shape, elements, monkeypatch):
    monkeypatch.setattr(gradients, "TILE_ELEMENTS", elements)
    whole, factor = torch.randn(shape), torch.tensor(1 / 3)
    scaled = scaled_to(dtype, whole, factor)
    assert scaled.dtype == dtype
    assert torch.equal(scaled, (whole * factor).to(dtype))
