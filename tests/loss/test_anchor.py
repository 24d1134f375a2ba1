"""The divergence from a reference model: value, gradient, memory and limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import kl_div

from rankray.errors import LossError
from rankray.loss import Anchor, reference, weighted_nll, weighted_nll_with_stats
from rankray.loss.anchor import divergence

directions = pytest.mark.parametrize("direction", ["forward", "reverse"])
SHAPES = {
    "plain": {},
    "all": {"logit_scale": 0.7, "logit_softcap": 8.0},
}


def another(batch, seed: int = 3) -> Anchor:
    generator = torch.Generator().manual_seed(seed)
    hidden_NH = batch.hidden_NH.detach() + torch.randn(batch.hidden_NH.shape, generator=generator).to(
        batch.hidden_NH.dtype
    )
    return Anchor(hidden_NH, batch.head_VH.detach().clone(), None)


@directions
def test_torchs_own_divergence_and_autograd(direction):
    generator = torch.Generator().manual_seed(0)
    logits_CV = torch.randn(6, 31, generator=generator, dtype=torch.float64).requires_grad_()
    theirs_CV = 2 * torch.randn(6, 31, generator=generator, dtype=torch.float64)
    ours, other = logits_CV.log_softmax(-1), theirs_CV.log_softmax(-1)
    pair = (ours, other) if direction == "forward" else (other, ours)
    expected_C = kl_div(*pair, reduction="none", log_target=True).sum(-1)
    (gradient_CV,) = torch.autograd.grad(expected_C.sum(), logits_CV)
    plain_CV, work_CV = logits_CV.detach(), theirs_CV.clone()
    found_C = divergence(direction, plain_CV.clone(), plain_CV.softmax(-1), work_CV)
    torch.testing.assert_close(found_C, expected_C.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(work_CV, gradient_CV, rtol=1e-11, atol=1e-15)


@directions
def test_a_vocabulary_entry_that_both_mask_is_harmless(direction):
    logits_CV = torch.tensor([[0.0, 1.0, -math.inf]])
    reference_CV = torch.tensor([[1.0, 0.0, -math.inf]])
    kl_C = divergence(direction, logits_CV.clone(), logits_CV.softmax(-1), reference_CV)
    assert kl_C.item() == pytest.approx(math.tanh(0.5), rel=1e-5)
    assert reference_CV.isfinite().all()


@directions
def test_nearly_equal_models_are_told_apart_as_well_as_by_torch(direction):
    """Of large logits: their log-sum is rounded by 1e-6, and the divergence is smaller."""
    generator = torch.Generator().manual_seed(1)
    logits_CV = 20 + torch.randn(200, 64, generator=generator)
    theirs_CV = logits_CV + 1e-3 * torch.randn(200, 64, generator=generator)
    pair = [each.double().log_softmax(-1) for each in (logits_CV, theirs_CV)]
    pair = pair if direction == "forward" else pair[::-1]
    exact_C = kl_div(*pair, reduction="none", log_target=True).sum(-1)
    single = [each.log_softmax(-1) for each in (logits_CV, theirs_CV)]
    single = single if direction == "forward" else single[::-1]
    naive_C = kl_div(*single, reduction="none", log_target=True).sum(-1)
    found_C = divergence(direction, logits_CV.clone(), logits_CV.softmax(-1), theirs_CV.clone())
    assert (found_C - exact_C).abs().mean() <= 2 * (naive_C - exact_C).abs().mean()


@directions
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "objective", [{"objective": "sft"}, {"objective": "rri", "form": "exact"}, {"objective": "dft"}]
)
@pytest.mark.parametrize("chunk_size", [7, None])
def test_agrees_with_the_reference_in_float64(direction, shape, objective, chunk_size, batch_of):
    batch = batch_of()
    options = {**SHAPES[shape], **objective, "kl_weight": 0.3, "kl_direction": direction, "num_items": 12}
    call = (batch.hidden_NH, batch.head_VH, batch.label_N)
    anchor = another(batch)._replace(bias_V=batch.bias_V.detach() * 2)
    ours = weighted_nll(*call, bias_V=batch.bias_V, anchor=anchor, chunk_size=chunk_size, **options)
    truth = reference.weighted_nll(*call, bias_V=batch.bias_V, anchor=anchor, **options)
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-14)
    mine, true = (torch.autograd.grad(loss, batch.leaves()) for loss in (ours, truth))
    for one, other in zip(mine, true, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


@directions
@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck(direction, shape, batch_of):
    batch = batch_of(tokens=9, vocabulary=12, hidden=4)
    anchor = another(batch)

    def loss(hidden_NH, head_VH):
        settings = {"objective": "sft", "kl_weight": 0.7, "kl_direction": direction}
        return weighted_nll(hidden_NH, head_VH, batch.label_N, anchor=anchor, **SHAPES[shape], **settings)

    assert torch.autograd.gradcheck(loss, batch.leaves()[:2])


@directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounding_is_that_of_the_naive_computation(direction, dtype, batch_of, no_worse):
    batch = batch_of(dtype=dtype)
    anchor, wide = another(batch), batch.widened()
    settings = {"objective": "sft", "kl_weight": 0.5, "kl_direction": direction}
    ours = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, anchor=anchor, **settings)
    truth = reference.weighted_nll(wide.hidden_NH, wide.head_VH, wide.label_N, anchor=anchor, **settings)
    keep_N = batch.label_N != -100
    logits_NV, theirs_NV = (
        (hidden_NH[keep_N] @ batch.head_VH.t()).float() for hidden_NH in (batch.hidden_NH, anchor[0])
    )
    nll_N = -logits_NV.log_softmax(-1).gather(1, batch.label_N[keep_N][:, None])[:, 0]
    naive = (nll_N + 0.5 * reference.divergence_N(logits_NV, theirs_NV.detach(), direction)).mean()
    for mine, simple, true in zip(
        torch.autograd.grad(ours, batch.leaves()[:2]),
        torch.autograd.grad(naive, batch.leaves()[:2]),
        torch.autograd.grad(truth, wide.leaves()[:2]),
        strict=True,
    ):
        assert mine.dtype == dtype
        no_worse(mine, simple, true)
    assert ours.item() == pytest.approx(truth.item(), rel=1e-5 if dtype == torch.float32 else 2e-2)


def test_the_distance_to_itself_is_nothing(batch_of):
    batch = batch_of()
    call = (batch.hidden_NH, batch.head_VH, batch.label_N)
    itself = Anchor(batch.hidden_NH, batch.head_VH)
    plain = torch.autograd.grad(weighted_nll(*call), batch.leaves()[:2])
    pulled_loss, stats = weighted_nll_with_stats(*call, kl_weight=5.0, anchor=itself)
    for one, other in zip(torch.autograd.grad(pulled_loss, batch.leaves()[:2]), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
    assert stats.kl_sum.item() == pytest.approx(0.0, abs=1e-10)


def test_what_is_logged(batch_of):
    batch = batch_of()
    call = (batch.hidden_NH, batch.head_VH, batch.label_N)
    loss, stats = weighted_nll_with_stats(*call, objective="sft", kl_weight=0.25, anchor=another(batch), num_items=1)
    plain, none = weighted_nll_with_stats(*call, objective="sft", num_items=1)
    assert loss.item() == pytest.approx(plain.item() + 0.25 * stats.kl_sum.item())
    assert stats.kl_sum > 1
    assert none.kl_sum == 0


def test_a_weight_without_an_anchor_is_refused(batch_of):
    batch = batch_of()
    call = (batch.hidden_NH, batch.head_VH, batch.label_N)
    with pytest.raises(LossError, match=r"kl_weight 0.1 with no anchor.*give an Anchor"):
        weighted_nll(*call, kl_weight=0.1)
    short = Anchor(batch.hidden_NH[:5], batch.head_VH)
    with pytest.raises(LossError, match=r"an anchor of 5 tokens.*the same 70 tokens"):
        weighted_nll(*call, kl_weight=0.1, anchor=short)
