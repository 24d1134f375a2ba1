"""The oracle against numbers computed by hand and against implementations that share nothing with it."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from rankray.loss import reference, token_weights, weighted_nll

# p = 1/2, 1/4, 1/8, 1/8: everything is a round number
PROB = [0.5, 0.25, 0.125, 0.125]
LOGITS = torch.tensor([PROB, PROB, PROB], dtype=torch.float64).log() + 3.0
TARGET = torch.tensor([0, 1, 3])


def test_statistics_by_hand():
    stats = reference.token_stats(LOGITS, TARGET)
    assert stats.log_prob_N.exp().tolist() == pytest.approx([0.5, 0.25, 0.125])
    assert stats.entropy_bits_N.tolist() == pytest.approx([1.75] * 3)
    assert stats.rank_N.tolist() == [1.0, 2.0, 4.0]
    assert stats.expected_rank_N.tolist() == pytest.approx([0.5 + 0.5 + 0.375 + 0.5] * 3)
    assert stats.top_entropy_nats_N.tolist() == pytest.approx([1.75 * math.log(2)] * 3)


def test_only_the_top_twenty_count_for_eaft():
    logits_NV = torch.zeros(1, 50, dtype=torch.float64)
    assert reference.token_stats(logits_NV, torch.tensor([0])).top_entropy_nats_N.item() == pytest.approx(math.log(20))


def test_the_exact_indicator_by_hand():
    stats = reference.token_stats(LOGITS, TARGET)
    expected = 1 / math.log2(1.875 + 1)
    for got, rank in zip(
        reference.indicator(stats, "exact", 1.0, 1.0, "max_prob", 1e-6).tolist(), (1, 2, 4), strict=True
    ):
        assert got == pytest.approx(2 ** (1 / math.log2(rank + 1) - expected))


def test_the_bound_by_hand():
    stats = reference.token_stats(LOGITS, TARGET)
    s = 2**1.75 / 4 + 1
    got = reference.indicator(stats, "bound", 2.0, 0.5, "bound", 0.0).tolist()
    for value, rank, prob in zip(got, (1, 2, 4), (0.5, 0.25, 0.125), strict=True):
        k = math.log2(max(rank, s) + 1) ** -2
        assert value == pytest.approx((prob * s**0.5) ** (k / 2.0))


def test_weights_by_hand():
    stats = reference.token_stats(LOGITS, TARGET)
    nats = [math.log(2), math.log(4), math.log(8)]
    assert reference.token_weights(stats, "dft").tolist() == pytest.approx([0.5, 0.25, 0.125])
    assert reference.token_weights(stats, "sft").tolist() == [1.0, 1.0, 1.0]
    own_sequences = reference.token_weights(stats, "talr", sequence_N=torch.arange(3))
    assert own_sequences.tolist() == pytest.approx([math.exp(-nat / nats[1]) for nat in nats])
    floored = reference.token_weights(stats, "talr", talr_temperature=1.0, min_weight=0.2)
    assert floored.tolist() == pytest.approx([0.5, 0.25, 0.2])
    assert reference.token_weights(stats, "eaft").tolist() == pytest.approx([1.75 * math.log(2) / 3] * 3)


def test_sft_is_cross_entropy_and_dft_its_known_one_liner(batch_of):
    batch = batch_of()
    logits_NV = linear(batch.hidden_NH, batch.head_VH, batch.bias_V)
    sft = reference.weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, bias_V=batch.bias_V, objective="sft")
    torch.testing.assert_close(sft, cross_entropy(logits_NV, batch.label_N))
    nll_N = cross_entropy(logits_NV, batch.label_N, reduction="none")
    dft = reference.weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, bias_V=batch.bias_V, objective="dft")
    torch.testing.assert_close(dft, (nll_N * torch.exp(-nll_N.detach())).sum() / (batch.label_N != -100).sum())


def test_scale_comes_before_softcap():
    hidden_NH, head_VH = torch.tensor([[2.0]]), torch.tensor([[3.0], [-1.0]])
    logits_NV = reference.logits(hidden_NH, head_VH, logit_scale=0.5, logit_softcap=2.0)
    assert logits_NV.tolist()[0] == pytest.approx([2 * math.tanh(3 / 2), 2 * math.tanh(-1 / 2)])


def test_the_weight_is_stop_gradient(batch_of, objective):
    batch = batch_of(tokens=20)
    inputs = {"bias_V": batch.bias_V, "sequence_N": batch.sequence_N, **objective}
    loss = reference.weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **inputs)
    (got,) = torch.autograd.grad(loss, [batch.hidden_NH])
    keep_N = batch.label_N != -100
    logits_NV = linear(batch.hidden_NH, batch.head_VH, batch.bias_V).detach()[keep_N]
    stats = reference.token_stats(logits_NV, batch.label_N[keep_N])
    knobs = {"sequence_N": batch.sequence_N[keep_N], **objective}
    slope_NV = logits_NV.softmax(-1) - torch.nn.functional.one_hot(batch.label_N[keep_N], logits_NV.shape[1])
    weight_N = reference.token_weights(stats, **knobs)
    expected = torch.zeros_like(got)
    expected[keep_N] = (weight_N[:, None] * slope_NV) @ batch.head_VH.detach() / keep_N.sum()
    torch.testing.assert_close(got, expected)


def test_without_a_supervised_token_or_a_mistake(batch_of):
    batch = batch_of(tokens=5)
    call = (batch.hidden_NH, batch.head_VH, torch.full((5,), -100))
    for function, first in product((reference.weighted_nll, weighted_nll), (0.0, -math.inf)):
        with torch.no_grad():
            batch.bias_V[0] = first
        loss = function(*call, bias_V=batch.bias_V)
        assert loss.item() == 0.0
        assert all(not gradient.any() for gradient in torch.autograd.grad(loss, batch.leaves()))
    certain = reference.token_stats(torch.tensor([[0.0, -1e9], [-1e9, 0.0]]), torch.tensor([0, 1]))
    for weights in (reference.token_weights, token_weights):
        assert weights(certain, "talr").tolist() == [1.0, 1.0]
