"""How a chunk adds its share; in 16 bits, weights far beyond a number's range change nothing but the size."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, linear

from rankray.loss import Anchor, gradients, reference, token_stats, token_weights, weighted_nll

SCALER = 2.0**16
"""What a gradient scaler multiplies the loss with at first; where that overflows, it tries less."""


def close_seconds(dtype, tokens=64, vocabulary=500, hidden=16):
    """Predictions whose target is the second of all, often by far."""
    generator = torch.Generator().manual_seed(1)
    head_VH = torch.randn(vocabulary, hidden, generator=generator)
    hidden_NH = 5 * torch.randn(tokens, hidden, generator=generator)
    label_N = linear(hidden_NH, head_VH).topk(2, -1).indices[:, 1]
    return hidden_NH.to(dtype), head_VH.to(dtype), label_N


def pulled_to(hidden_NH):
    return Anchor(hidden_NH.flip(0) * 0.5, torch.randn(500, 16, generator=torch.Generator().manual_seed(2)))


def naive(hidden_NH, head_VH, label_N, anchor=None, kl_weight=0.0, token_weight_N=1.0, **settings):
    """What a trainer does by hand: products in 16 bits, the rest in float32."""
    logits_NV = linear(hidden_NH, head_VH).float()
    weight_N = token_weights(token_stats(logits_NV.detach(), label_N), **settings) * token_weight_N
    loss = (weight_N * cross_entropy(logits_NV, label_N, reduction="none")).sum()
    if anchor is not None:
        theirs_NV = linear(*anchor[:2]).float().log_softmax(-1)
        loss = loss + kl_weight * kl_div(logits_NV.log_softmax(-1), theirs_NV, log_target=True, reduction="sum")
    return loss / len(label_N)


LARGE = {"objective": "sft", "token_weight_N": torch.full((64,), 20_000.0)}
SMALL = {"objective": "sft", "token_weight_N": torch.full((64,), 1e-7)}


@pytest.mark.parametrize("pulls", [False, True], ids=["alone", "pulled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("given", "scale"),
    [({"base": "one", "temperature": 0.5}, 1.0), (LARGE, 1.0), (SMALL, SCALER)],
    ids=["rri", "large", "small"],
)
def test_weights_of_any_size_leave_the_gradients_as_good_as_the_naive_ones(given, scale, dtype, pulls, no_worse):
    hidden_NH, head_VH, label_N = close_seconds(dtype)
    size = float(given.get("token_weight_N", torch.ones(1))[0])
    anchor = Anchor(*(each.to(dtype) for each in pulled_to(hidden_NH.float())[:2])) if pulls else None
    found = []
    for function, wide in ((weighted_nll, dtype), (naive, dtype), (reference.weighted_nll, torch.float64)):
        leaves = [each.to(wide).requires_grad_() for each in (hidden_NH, head_VH)]
        more = {"anchor": Anchor(*(each.to(wide) for each in anchor[:2])), "kl_weight": 0.5 * size} if anchor else {}
        loss = function(*leaves, label_N, **given, **more) * scale
        found.append(torch.autograd.grad(loss, leaves))
    for ours, simple, true in zip(*found, strict=True):
        assert ours.dtype == dtype
        no_worse(ours, simple, true)


@pytest.mark.parametrize("elements", [gradients.TILE_ELEMENTS, 6, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("unit", [1.0, 2.0**20])
def test_a_product_is_added_in_its_unit(dtype, unit, elements, monkeypatch):
    monkeypatch.setattr(gradients, "TILE_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    left_VC, right_CH = (torch.randint(-3, 4, shape, generator=generator).to(dtype) for shape in ((5, 8), (8, 3)))
    sum_VH = torch.ones(5, 3, dtype=torch.promote_types(dtype, torch.float32))
    gradients.add_product(sum_VH, left_VC, right_CH, unit)
    assert torch.equal(sum_VH.double(), 1 + unit * (left_VC.double() @ right_CH.double()))


@pytest.mark.parametrize("largest", [1e-45, 1e-30, 3.0, 65_504.0, 3e38])
@pytest.mark.parametrize("rows", [1, 2, 256, 5000])
def test_a_sum_of_all_rows_neither_overflows_nor_vanishes(rows, largest):
    wide_CH = torch.full((rows, 2), largest)
    narrow_CH, unit = gradients.narrowed(wide_CH, torch.float16)
    assert math.frexp(unit)[0] == 0.5, "a power of two rounds nothing"
    assert narrow_CH.dtype == torch.float16
    assert float(narrow_CH.double().sum(0)[0]) <= torch.finfo(torch.float16).max
    if largest > 1e-30:
        torch.testing.assert_close(narrow_CH.double() * unit, wide_CH.double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("number", [0.0, math.inf, math.nan])
def test_what_has_no_size_is_left_as_it_is(number):
    narrow_CH, unit = gradients.narrowed(torch.full((3, 2), number), torch.float16)
    assert unit == 1.0
    assert torch.equal(narrow_CH.isnan(), torch.full((3, 2), math.isnan(number)))
    assert gradients.narrowed(torch.empty(0, 2), torch.float16)[0].shape == (0, 2)
