"""The public calls: values, gradients, memory and errors of the chunked loss."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rankray.errors import LossError
from rankray.loss import (
    WEIGHTS,
    LossStats,
    plain_stats,
    plain_tokens,
    reference,
    weighted_nll,
    weighted_nll_with_stats,
)

SHAPES = {
    "plain": {},
    "bias": {"with_bias": True},
    "scale": {"logit_scale": 0.4},
    "softcap": {"logit_softcap": 5.0},
    "all": {"with_bias": True, "logit_scale": 0.7, "logit_softcap": 8.0},
}


def options_for(batch, shape):
    options = {"sequence_N": batch.sequence_N, **SHAPES[shape]}
    if options.pop("with_bias", False):
        options["bias_V"] = batch.bias_V
    return options


def gradients(loss, batch):
    found = torch.autograd.grad(loss, batch.leaves(), allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", ["plain", "all"])
def test_value_and_gradients_are_as_good_as_the_naive_ones(objective, dtype, shape, batch_of, naive_loss, no_worse):
    values = []  # over several batches: in a single scalar, rounding errors cancel by luck
    for seed in range(12):
        batch = batch_of(dtype=dtype, seed=seed)
        wide = batch.widened()
        ours, naive, truth = (
            loss(each.hidden_NH, each.head_VH, each.label_N, **options_for(each, shape), **objective)
            for loss, each in ((weighted_nll, batch), (naive_loss, batch), (reference.weighted_nll, wide))
        )
        assert ours.dtype == torch.float32
        assert ours.shape == ()
        values.append((ours.detach(), naive.detach(), truth.detach()))
        losses = ((ours, batch), (naive, batch), (truth, wide))
        for mine, simple, true in zip(*(gradients(loss, each) for loss, each in losses), strict=True):
            assert mine.dtype == dtype
            no_worse(mine, simple, true)
    no_worse(*(torch.stack(column) for column in zip(*values, strict=True)))


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_the_reference_in_float64(objective, shape, batch_of):
    batch = batch_of()
    options = {**options_for(batch, shape), **objective}
    ours = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, chunk_size=16, **options)
    truth = reference.weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **options)
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-14)
    for mine, true in zip(gradients(ours, batch), gradients(truth, batch), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("signal", ["online", "base"])
def test_weights_of_the_data_multiply_those_of_the_objective(objective, signal, batch_of):
    """The sum is divided by the tokens, not by the weights; statistics stay as they are."""
    batch = batch_of()
    given_N = torch.rand(len(batch.label_N), generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    given_N[::5] = 0.0
    options = {"sequence_N": batch.sequence_N, **objective}
    other = batch_of(seed=1)
    label_N = batch.label_N.clamp(min=0)
    if signal == "base":
        options["base_stats"] = reference.token_stats(reference.logits(other.hidden_NH, other.head_VH), label_N)
    inputs = (batch.hidden_NH, batch.head_VH, batch.label_N)
    settings = {**options, "signal": signal}
    ours, stats = weighted_nll_with_stats(*inputs, chunk_size=16, token_weight_N=given_N, **settings)
    truth = reference.weighted_nll(*inputs, token_weight_N=given_N, **options)
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-14)
    for mine, true in zip(gradients(ours, batch), gradients(truth, batch), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-13)
    plain, same = weighted_nll_with_stats(*inputs, token_weight_N=torch.full_like(given_N, 2.5), **settings)
    assert float(plain.detach()) == pytest.approx(2.5 * float(weighted_nll(*inputs, **settings).detach()), rel=1e-12)
    assert (same.nll, same.token_count) == (stats.nll, stats.token_count)


def test_weights_of_the_data_fit_the_tokens(batch_of):
    batch = batch_of()
    with pytest.raises(LossError, match=r"token_weight \(3,\); allowed are"):
        weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, token_weight_N=torch.ones(3))


@pytest.mark.parametrize("chunk_size", [1, 7, 55, 56, 1000, None])
def test_the_chunk_size_changes_nothing(objective, chunk_size, batch_of):
    batch = batch_of()
    inputs = (batch.hidden_NH, batch.head_VH, batch.label_N)
    ours = weighted_nll(*inputs, chunk_size=chunk_size, **objective)
    other = weighted_nll(*inputs, chunk_size=23, **objective)
    torch.testing.assert_close(ours, other, rtol=1e-12, atol=0)
    for mine, theirs in zip(gradients(ours, batch), gradients(other, batch), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("objective_name", ["sft", "fixed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck_with_constant_weights(objective_name, shape, batch_of, monkeypatch):
    batch = batch_of(tokens=9, vocabulary=12, hidden=4)
    kept = int((batch.label_N != -100).sum())
    weight_N = torch.linspace(0.2, 3.0, kept, dtype=torch.float64)
    monkeypatch.setitem(WEIGHTS, "fixed", lambda stats, knobs: weight_N)
    options = {"objective": objective_name, **options_for(batch, shape)}
    bias_V = options.pop("bias_V", None)

    def loss(hidden_NH, head_VH, bias_V=None):
        return weighted_nll(hidden_NH, head_VH, batch.label_N, bias_V=bias_V, num_items=3.5, **options)

    leaves = (batch.hidden_NH, batch.head_VH) + (() if bias_V is None else (bias_V,))
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_two_halves_sum_to_the_whole(objective, as_tensor, batch_of):
    batch = batch_of()
    if objective["objective"] == "talr":
        objective = {**objective, "talr_temperature": 2.0}  # auto depends on the batch, and a half is another batch
    items = int((batch.label_N != -100).sum())
    whole = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **objective)
    num_items = torch.tensor(items) if as_tensor else items
    halves = [
        weighted_nll(batch.hidden_NH[rows], batch.head_VH, batch.label_N[rows], num_items=num_items, **objective)
        for rows in (slice(0, 31), slice(31, None))
    ]
    torch.testing.assert_close(halves[0] + halves[1], whole, rtol=1e-12, atol=0)
    for mine, true in zip(gradients(halves[0] + halves[1], batch), gradients(whole, batch), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-14)


def test_ignored_tokens_change_nothing(objective, batch_of):
    batch = batch_of()
    keep_N = batch.label_N != -100
    hidden_NH = batch.hidden_NH.detach().clone()
    hidden_NH[~keep_N] = math.nan
    hidden_NH.requires_grad_()
    ours = weighted_nll(hidden_NH, batch.head_VH, batch.label_N, **objective)
    alone = weighted_nll(batch.hidden_NH[keep_N], batch.head_VH, batch.label_N[keep_N], **objective)
    assert torch.equal(ours, alone)
    (gradient,) = torch.autograd.grad(ours, [hidden_NH])
    assert torch.equal(gradient[~keep_N], torch.zeros_like(gradient[~keep_N]))
    assert gradient[keep_N].abs().sum() > 0


@pytest.mark.parametrize("tokens", [0, 5])
def test_without_supervised_tokens_the_loss_is_zero(objective, tokens, batch_of):
    batch = batch_of()
    hidden_NH = batch.hidden_NH.detach()[:tokens].requires_grad_()
    label_N = torch.full((tokens,), -100)
    loss, stats = weighted_nll_with_stats(hidden_NH, batch.head_VH, label_N, bias_V=batch.bias_V, **objective)
    assert loss.item() == 0.0
    for gradient in torch.autograd.grad(loss, [hidden_NH, batch.head_VH, batch.bias_V]):
        assert torch.equal(gradient, torch.zeros_like(gradient))
    assert torch.equal(stats.vector(), torch.zeros_like(stats.vector()))


@pytest.mark.parametrize("vocabulary", [2, 3, 19])
def test_tiny_vocabularies(objective, vocabulary, batch_of):
    batch = batch_of(vocabulary=vocabulary)
    ours = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **objective)
    truth = reference.weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **objective)
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=0)
    assert ours.isfinite()


def test_a_masked_vocabulary_entry_is_harmless(objective, batch_of):
    batch = batch_of(dtype=torch.float32)
    unused = next(token for token in range(211) if token not in batch.label_N)
    with torch.no_grad():
        batch.bias_V[unused] = -math.inf
    loss = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, bias_V=batch.bias_V, **objective)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, batch))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_logit_breaks_the_loss(objective, bad, batch_of):
    batch = batch_of(dtype=torch.float32)
    with torch.no_grad():
        batch.hidden_NH[(batch.label_N != -100).nonzero()[3, 0], 0] = bad
    assert not weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **objective).isfinite()


def test_a_target_of_probability_zero_breaks_the_loss(objective):
    hidden_NH, bias_V = torch.zeros(1, 2), torch.tensor([0.0, -math.inf, 1.0])
    loss = weighted_nll(hidden_NH, torch.zeros(3, 2), torch.tensor([1]), bias_V=bias_V, **objective)
    assert not loss.isfinite()


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return made


def test_the_logits_never_exist_all_at_once(objective, batch_of):
    batch = batch_of(tokens=600, vocabulary=150, dtype=torch.float32)
    label_N = batch.label_N.clamp(min=0)
    with LargestTensor() as largest:
        loss = weighted_nll(
            batch.hidden_NH, batch.head_VH, label_N, bias_V=batch.bias_V, logit_softcap=9.0, **objective
        )
        loss.backward()
    assert largest.numel == 256 * 150
    with LargestTensor() as largest:
        reference.weighted_nll(batch.hidden_NH, batch.head_VH, label_N, **objective)
    assert largest.numel >= 600 * 150


def test_only_what_is_trained_gets_a_gradient(batch_of):
    batch = batch_of(dtype=torch.float32)
    frozen_VH = batch.head_VH.detach()
    loss = weighted_nll(batch.hidden_NH, frozen_VH, batch.label_N)
    loss.backward()
    assert frozen_VH.grad is None
    expected = torch.autograd.grad(weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N), [batch.hidden_NH])[0]
    assert torch.equal(batch.hidden_NH.grad, expected)


def test_without_gradients_the_value_is_the_same(objective, batch_of):
    batch = batch_of(dtype=torch.float32)
    inputs = (batch.hidden_NH, batch.head_VH, batch.label_N)
    with torch.no_grad():
        quiet = weighted_nll(*inputs, **objective)
    assert not quiet.requires_grad
    assert torch.equal(quiet, weighted_nll(*inputs, **objective).detach())


def test_backward_scales_and_repeats(batch_of):
    batch = batch_of()
    loss = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N)
    once = gradients(weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N), batch)
    loss.backward(retain_graph=True)
    loss.backward(torch.tensor(2.5, dtype=torch.float64))
    torch.testing.assert_close(batch.hidden_NH.grad, 3.5 * once[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(batch.head_VH.grad, 3.5 * once[1], rtol=1e-13, atol=0)


def test_autocast_runs_in_its_dtype_and_returns_gradients_in_the_parameters(batch_of, naive_loss, no_worse):
    batch = batch_of(dtype=torch.float32)
    inputs = (batch.hidden_NH, batch.head_VH, batch.label_N)
    wide = batch.widened()
    truth = reference.weighted_nll(wide.hidden_NH, wide.head_VH, wide.label_N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, naive = weighted_nll(*inputs), naive_loss(*inputs)
    no_worse(ours, naive, truth)
    assert not torch.equal(ours, weighted_nll(*inputs))
    for mine, simple, true in zip(gradients(ours, batch), gradients(naive, batch), gradients(truth, wide), strict=True):
        assert mine.dtype == torch.float32
        no_worse(mine, simple, true)


def test_what_is_logged_beside_the_loss(objective, batch_of):
    batch = batch_of()
    inputs = (batch.hidden_NH, batch.head_VH, batch.label_N)
    loss, stats = weighted_nll_with_stats(*inputs, num_items=10, **objective)
    keep_N = batch.label_N != -100
    logits_NV, label_N = reference.logits(*inputs[:2]).detach()[keep_N], batch.label_N[keep_N]
    token_stats = reference.token_stats(logits_NV, label_N)
    weight_N = reference.token_weights(token_stats, **objective)
    scale_N = torch.ones_like(weight_N)
    if objective["objective"] == "rri":
        scale_N = reference.token_weights(token_stats, **{**objective, "base": "one"})
    expected = {
        "token_count": float(len(label_N)),
        "nll_sum": cross_entropy(logits_NV, label_N, reduction="sum").item(),
        "weighted_sum": loss.item() * 10,
        "correct_count": float((logits_NV.argmax(-1) == label_N).sum()),
        "weight_sum": weight_N.sum().item(),
        "weight_square_sum": weight_N.square().sum().item(),
        "scale_sum": scale_N.sum().item(),
        "scale_near_one_count": float(((scale_N - 1).abs() <= 0.05).sum()),
    }
    for name, value in expected.items():
        assert getattr(stats, name).item() == pytest.approx(value, rel=1e-9), name
    assert 0 < expected["correct_count"] < len(label_N)
    assert not stats.vector().requires_grad
    assert stats.nll == pytest.approx(expected["nll_sum"] / len(label_N))
    assert stats.effective_share == pytest.approx((weight_N.mean() ** 2 / weight_N.square().mean()).item())


def test_sums_add_up_and_travel_as_a_vector(batch_of):
    batch = batch_of()
    inputs = (batch.hidden_NH, batch.head_VH, batch.label_N)
    whole = weighted_nll_with_stats(*inputs)[1]
    first, second = (
        weighted_nll_with_stats(batch.hidden_NH[rows], batch.head_VH, batch.label_N[rows])[1]
        for rows in (slice(0, 20), slice(20, None))
    )
    torch.testing.assert_close((first + second).vector(), whole.vector())
    assert torch.equal(LossStats.from_vector(whole.vector()).vector(), whole.vector())


def test_plain_stats_are_sft_without_gradients(batch_of):
    batch = batch_of()
    options = {"bias_V": batch.bias_V, "logit_scale": 0.5, "logit_softcap": 4.0}
    stats = plain_stats(batch.hidden_NH, batch.head_VH, batch.label_N, chunk_size=11, **options)
    logits_NV = reference.logits(batch.hidden_NH, batch.head_VH, **options)
    assert stats.nll == pytest.approx(cross_entropy(logits_NV, batch.label_N).item(), rel=1e-12)
    assert stats.correct_count.item() == (logits_NV.argmax(-1) == batch.label_N).sum().item()
    assert not stats.nll_sum.requires_grad
    keep_N = batch.label_N != -100
    log_prob_T, is_first_T = plain_tokens(batch.hidden_NH, batch.head_VH, batch.label_N, chunk_size=11, **options)
    expected_T = -cross_entropy(logits_NV, batch.label_N, reduction="none")[keep_N]
    torch.testing.assert_close(log_prob_T, expected_T, rtol=1e-10, atol=0)
    assert torch.equal(is_first_T.bool(), (logits_NV.argmax(-1) == batch.label_N)[keep_N])


def test_an_added_objective_sees_every_statistic(batch_of, monkeypatch):
    batch = batch_of()
    monkeypatch.setitem(WEIGHTS, "all", lambda stats, knobs: torch.stack([*stats[:-1]]).sum(0) * knobs.alpha)
    loss = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, objective="all", alpha=2.0)
    keep_N = batch.label_N != -100
    logits_NV = reference.logits(batch.hidden_NH, batch.head_VH).detach()[keep_N]
    stats = reference.token_stats(logits_NV, batch.label_N[keep_N])
    expected = (torch.stack([*stats[:-1]]).sum(0) * 2.0 * -stats.log_prob_N).sum() / keep_N.sum()
    torch.testing.assert_close(loss.detach(), expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label_N": torch.full((70,), 211)}, "0 to 210"),
        ({"label_N": torch.full((70,), -1)}, "-100"),
        ({"label_N": torch.zeros(69, dtype=torch.long)}, "flatten"),
        ({"hidden_NH": torch.zeros(70, 5)}, "flatten"),
        ({"bias_V": torch.zeros(3)}, "bias"),
        ({"sequence_N": torch.zeros(3)}, "sequence"),
        ({"num_items": 0}, "num_items = 0; allowed is a number > 0"),
        ({"num_items": torch.ones(2)}, "num_items"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"logit_softcap": 0.0}, "logit_softcap"),
        ({"logit_scale": math.inf}, "logit_scale"),
        ({"label_N": torch.zeros(70)}, "label_N of torch.float32; allowed: integers"),
        ({"num_items": "3"}, "num_items = '3'"),
        ({"chunk_size": 2.5}, "chunk_size = 2.5"),
        ({"logit_softcap": "30"}, "logit_softcap = '30'"),
        ({"logit_scale": "1"}, "logit_scale = '1'"),
        ({"token_weight_N": torch.full((70,), -1.0)}, "token_weight_N with -1; allowed: finite numbers >= 0"),
        ({"objective": "dpo"}, "allowed: rri, sft, dft, talr, eaft, power, threshold, deft, iw_sft"),
        ({"temperature": -1.0}, "loss.temperature"),
    ],
)
def test_errors_say_what_is_allowed(change, says, batch_of):
    batch = batch_of()
    call = {"hidden_NH": batch.hidden_NH, "head_VH": batch.head_VH, "label_N": batch.label_N, **change}
    with pytest.raises(LossError, match=says):
        weighted_nll(**call)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, rankray.loss; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    import rankray.loss as loss

    assert all(getattr(loss, name) is not None for name in loss.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = loss.nothing
