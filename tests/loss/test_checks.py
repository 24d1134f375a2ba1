"""What the loss refuses, in a line that says what is allowed."""

import math

import numpy as np
import pytest
import torch

import rankray
from rankray.errors import LossError
from rankray.loss.anchor import Anchor

N, H, V = 4, 8, 32


def made(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(N, H, generator=generator), torch.randn(V, H, generator=generator)
    return hidden, head, torch.randint(0, V, (N,), generator=generator)


def stats(tokens):
    return rankray.token_stats(torch.randn(tokens, V), torch.zeros(tokens, dtype=torch.long))


@pytest.mark.parametrize("tokens", [3, 9])
def test_statistics_of_other_tokens(tokens):
    with pytest.raises(
        LossError, match=f"base_stats of {tokens} tokens for {N}; allowed: those of token_stats for all"
    ):
        rankray.weighted_nll(*made(), objective="dft", signal="base", base_stats=stats(tokens))


def test_an_anchor_over_another_vocabulary_or_width():
    hidden, head, _ = made(1)
    for other in ((hidden, head[:-1]), (hidden, head[:, :-1])):
        with pytest.raises(
            LossError, match=rf"anchor with hidden .* allowed: a head \({V}, width of its hidden states"
        ):
            rankray.weighted_nll(*made(), kl_weight=0.5, anchor=Anchor(*other, None))
    with pytest.raises(LossError, match=rf"anchor with hidden .* and bias \(3,\); allowed: .* a bias \({V},\) or None"):
        rankray.weighted_nll(*made(), kl_weight=0.5, anchor=Anchor(hidden, head, torch.zeros(3)))
    with pytest.raises(
        LossError, match=r"kl_weight 0.5 with a tuple as anchor; allowed: hidden states .*; give an Anchor"
    ):
        rankray.weighted_nll(*made(), kl_weight=0.5, anchor=(hidden, head))
    smaller = Anchor(torch.randn(N, 2), torch.randn(V, 2), None)
    assert rankray.weighted_nll(*made(), kl_weight=0.5, anchor=smaller).isfinite(), "its width is its own"


@pytest.mark.parametrize("number", [0, -4, torch.tensor(0), torch.tensor(-4.0), float("nan"), float("inf")])
def test_a_number_of_items_that_cannot_be(number):
    with pytest.raises(LossError, match=r"num_items = .*; allowed is a number > 0"):
        rankray.weighted_nll(*made(), num_items=number)


@pytest.mark.parametrize(
    ("option", "given", "allowed"),
    [
        ("num_items", torch.ones(2), r"a tensor of shape \(2,\); allowed is a number or a 0-d tensor"),
        ("num_items", True, "True; allowed is a number"),
        ("chunk_size", True, "True; allowed is an integer >= 1"),
        ("chunk_size", 0, "0; allowed is an integer >= 1"),
        ("chunk_size", torch.tensor(2), r"tensor\(2\); allowed is an integer >= 1"),
        ("chunk_size", 2.0, "2.0; allowed is an integer >= 1"),
        *(("logit_softcap", each, ".*; allowed is from .* or None") for each in (0.0, 1e300, 1e-300, math.inf)),
        ("logit_softcap", torch.ones(V), r"a tensor of shape \(32,\); allowed is from"),
        ("logit_scale", torch.ones(V), r"a tensor of shape \(32,\); allowed is from"),
        *(("logit_scale", each, ".*; allowed is from -3.4e") for each in (math.inf, -math.inf, 1e300, math.nan)),
    ],
    ids=str,
)
def test_an_option_with_which_there_is_no_loss(option, given, allowed):
    """An infinite softcap made every loss NaN, an infinite number of items every loss 0."""
    with pytest.raises(LossError, match=f"^weighted_nll: {option} = {allowed}"):
        rankray.weighted_nll(*made(), **{option: given})


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -2.0, -1e-3])
def test_a_weight_of_a_supervised_token_that_is_none(wrong):
    hidden, head, label = made()
    label[0] = -100
    weights = torch.tensor([-9.0, 1.0, wrong, 1.0])  # the first is an ignored token's
    with pytest.raises(LossError, match=f"token_weight_N with {wrong:g}; allowed: finite numbers >= 0"):
        rankray.weighted_nll(hidden, head, label, token_weight_N=weights)


def test_a_weight_of_0_is_one():
    weights = torch.tensor([0.0, 1.0, 0.0, 1.0])
    loss = rankray.weighted_nll(*made(), objective="sft", token_weight_N=weights, num_items=2)
    hidden, head, label = made()
    kept = (hidden[[1, 3]], head, label[[1, 3]])
    assert loss.item() == pytest.approx(rankray.weighted_nll(*kept, objective="sft").item())


@pytest.mark.parametrize("bias", [None, torch.zeros(V)], ids=["without", "with"])
def test_shapes_that_do_not_fit_whatever_the_others_are(bias):
    hidden, head, label = made()
    fits = {"sequence_N": torch.zeros(N), "token_weight_N": torch.ones(N)}
    for wrong in (
        (hidden[:, 1:], head, label),
        (hidden[1:], head, label),
        (hidden, head, label[None]),
        (hidden, head[0], label),
    ):
        with pytest.raises(LossError, match=r"^weighted_nll: hidden .*; allowed are \(N, H\), \(V, H\), \(N,\), bias"):
            rankray.weighted_nll(*wrong, bias_V=bias, **fits)
    for name in fits:
        with pytest.raises(LossError, match=rf"{name.removesuffix('_N')} \(3,\).*; allowed are"):
            rankray.weighted_nll(hidden, head, label, bias_V=bias, **{**fits, name: torch.ones(3)})
    with pytest.raises(LossError, match=r"bias \(31,\).*; allowed are"):
        rankray.weighted_nll(hidden, head, label, bias_V=torch.zeros(V - 1), **fits)


def test_what_is_no_floating_point_number_and_no_token():
    hidden, head, label = made()
    with pytest.raises(LossError, match=r"hidden of torch.float32, head of torch.int64; allowed: floating-point"):
        rankray.weighted_nll(hidden, head.long(), label)
    with pytest.raises(LossError, match=r"hidden of torch.int64, head of torch.float32; allowed: floating-point"):
        rankray.weighted_nll(hidden.long(), head, label)
    for wrong in (label.double(), label > 2):
        with pytest.raises(LossError, match=rf"label_N of {wrong.dtype}; allowed: integers, the tokens to predict"):
            rankray.weighted_nll(hidden, head, wrong)
        with pytest.raises(LossError, match=rf"token_stats: target_N of {wrong.dtype}; allowed: integers, the true"):
            rankray.token_stats(hidden @ head.T, wrong)


def test_one_number_in_a_tensor_of_one_dimension():
    loss = rankray.weighted_nll(*made(), num_items=torch.tensor([4]))
    assert loss.shape == ()
    assert torch.equal(loss, rankray.weighted_nll(*made(), num_items=4))


@pytest.mark.parametrize(("objective", "given"), [("iw_sft", "reference_log_prob_N"), ("talr", "sequence_N")])
def test_weights_of_other_tokens(objective, given):
    with pytest.raises(LossError, match=rf"token_weights: {given} \(3,\) for {N} tokens; allowed: one for each token"):
        rankray.token_weights(stats(N), objective, **{given: torch.zeros(3)})


def test_statistics_that_do_not_belong_together():
    """One row of ranks would be taken for every token's."""
    for other in (3, 1):
        with pytest.raises(LossError, match=rf"rank_N \({other},\) for {N} tokens; allowed: one for each token"):
            rankray.token_weights(stats(N).replaced(rank_N=torch.ones(other)))


def test_numbers_of_numpy_and_weights_of_ignored_tokens_are_taken():
    hidden, head, label = made()
    label[0] = -100
    weights = torch.tensor([-1.0, 1.0, 1.0, 1.0])  # what stands at an ignored token does not matter
    given = {"num_items": np.int64(3), "chunk_size": np.int32(2), "logit_scale": np.float32(1.0)}
    plain = rankray.weighted_nll(hidden, head, label)
    assert rankray.weighted_nll(hidden, head, label, token_weight_N=weights, **given) == pytest.approx(float(plain))


def test_a_divergence_of_any_weight_is_computed():
    anchor = Anchor(*made(1)[:2], None)
    assert rankray.weighted_nll(*made(), kl_weight=1e300, anchor=anchor) == torch.inf
