"""Whole: the objectives beside rri against their formulas, written once more over Python floats; and their limits.

Source: arXiv:2510.00526 (power), arXiv:2509.20758 (talr), arXiv:2601.02151 (eaft); ProFit, DEFT and iw-SFT by their
public code.
"""

from __future__ import annotations

import math

import pytest
import torch

from rankray.errors import LossError
from rankray.loss import Knobs, TokenStats, reference, token_stats, token_weights, weighted_nll

ROWS = [
    ([1.0, 0.0, 0.0, 0.0], 0),
    ([0.5, 0.25, 0.125, 0.125], 1),
    ([0.5, 0.25, 0.125, 0.125], 0),
    ([0.25, 0.25, 0.25, 0.25], 2),
    ([0.9, 0.05, 0.03, 0.02], 3),
]
"""Distributions and their targets."""


def independent(objective: str, settings: dict, probs: list[float], target: int) -> float:
    """The weight of one token, over Python floats."""
    p = probs[target]
    if objective == "power":
        return p ** settings.get("alpha", 1.0)
    if objective == "threshold":
        is_above = p >= settings.get("q", 0.1)
        return float(is_above if settings.get("direction", "above") == "above" else not is_above)
    if objective == "deft":
        return p ** sum(each * each for each in probs)
    if objective == "eaft":
        top = sorted(probs, reverse=True)[:20]
        nats = -sum(each / sum(top) * math.log(each / sum(top)) for each in top if each)
        return (nats / settings.get("eaft_scale", 3)) ** settings.get("alpha", 1.0)
    assert objective == "talr"
    return max(p ** (1 / settings["talr_temperature"]), settings.get("min_weight", 0.0))


CASES = [
    ("power", {}),
    ("power", {"alpha": 0.3}),
    ("power", {"alpha": 5.0}),
    ("threshold", {}),
    ("threshold", {"q": 0.25}),
    ("threshold", {"q": 0.25, "direction": "below"}),
    ("threshold", {"q": 0.5}),
    ("deft", {}),
    ("eaft", {"eaft_scale": 1}),
    ("eaft", {"alpha": 0.5}),
    ("talr", {"talr_temperature": 2.0, "min_weight": 0.01}),
    ("talr", {"talr_temperature": 0.2, "min_weight": 0.01}),
]
each_case = pytest.mark.parametrize(("objective", "settings"), CASES, ids=str)


@each_case
@pytest.mark.parametrize(
    ("oracle", "dtype", "error"),
    [(True, torch.float64, 1e-12), (False, torch.float64, 1e-12), (False, torch.float32, 2e-6)],
    ids=["reference", "float64", "float32"],
)
def test_golden_weights(objective, settings, oracle, dtype, error):
    for probs, target in ROWS:
        logits_NV = torch.tensor([[math.log(p) if p else -math.inf for p in probs]], dtype=torch.float64).to(dtype)
        stats, weights = (reference.token_stats, reference.token_weights) if oracle else (token_stats, token_weights)
        found = weights(stats(logits_NV, torch.tensor([target])), objective, **settings).item()
        assert found == pytest.approx(independent(objective, settings, probs, target), rel=error, abs=error)


@each_case
@pytest.mark.parametrize("vocabulary", [2, 3, 50, 4099])
@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_an_independent_writing_agrees_on_gaussian_logits(objective, settings, vocabulary, spread):
    generator = torch.Generator().manual_seed(vocabulary)
    logits_NV = (spread * torch.randn(5, vocabulary, generator=generator)).float()
    target_N = torch.randint(0, vocabulary, (5,), generator=generator)
    found_N = token_weights(token_stats(logits_NV, target_N), objective, **settings).tolist()
    for row, target, found in zip(logits_NV.double().tolist(), target_N.tolist(), found_N, strict=True):
        exps = [math.exp(each - max(row)) for each in row]
        probs = [each / math.fsum(exps) for each in exps]
        assert found == pytest.approx(independent(objective, settings, probs, target), rel=2e-4, abs=1e-7)


def some_stats() -> TokenStats:
    generator = torch.Generator().manual_seed(1)
    logits_NV = 4 * torch.randn(40, 90, generator=generator, dtype=torch.float64)
    return token_stats(logits_NV, torch.randint(0, 90, (40,), generator=generator))


@pytest.mark.parametrize(
    ("objective", "settings", "limit"),
    [
        ("power", {"alpha": 0.0}, "sft"),
        ("power", {"alpha": 1.0}, "dft"),
        ("eaft", {"alpha": 0.0}, "sft"),
        ("threshold", {"q": 0.0}, "sft"),
        ("talr", {"talr_temperature": math.inf}, "sft"),
        ("talr", {"talr_temperature": 1.0}, "dft"),
        ("talr", {"talr_temperature": 1.0, "min_weight": 1.0}, "sft"),
    ],
)
def test_in_its_limit_an_objective_is_another(objective, settings, limit):
    stats = some_stats()
    torch.testing.assert_close(token_weights(stats, objective, **settings), token_weights(stats, limit))


def test_what_no_token_passes_counts_none():
    stats = some_stats()
    assert token_weights(stats, "threshold", q=0.0, direction="below").sum() == 0
    assert token_weights(stats, "threshold", q=1.0).sum() == 0
    assert token_weights(stats, "power", alpha=1e9).max() < 1e-6


def test_above_and_below_share_the_tokens():
    stats = some_stats()
    above, below = (token_weights(stats, "threshold", q=0.05, direction=side) for side in ("above", "below"))
    assert torch.equal(above + below, torch.ones(40, dtype=torch.float64))
    assert 0 < above.sum() < 40


def test_a_certain_model_is_trained_as_dft_by_deft_and_a_flat_one_as_sft():
    """Sum p^2 is 1 for a certain prediction and 1 / V for a flat one."""
    certain = token_stats(torch.tensor([[0.0, -50.0]], dtype=torch.float64), torch.tensor([1]))
    assert token_weights(certain, "deft").item() == pytest.approx(math.exp(-50.0), rel=1e-9)
    flat = token_stats(torch.zeros(1, 1000, dtype=torch.float64), torch.tensor([3]))
    assert token_weights(flat, "deft").item() == pytest.approx(1000 ** (-1 / 1000), rel=1e-12)


def test_a_token_of_probability_zero():
    stats = token_stats(torch.tensor([[0.0, -math.inf]]), torch.tensor([1]))
    assert token_weights(stats, "power", alpha=0.0).item() == 1.0
    assert token_weights(stats, "power", alpha=0.5).item() == 0.0
    assert token_weights(stats, "threshold", direction="below").item() == 1.0


def test_iw_sft_is_one_weight_for_each_sequence():
    log_prob_N = torch.tensor([-1.0, -2.0, -0.5, -3.0, -9.0], dtype=torch.float64)
    base_N = torch.tensor([-1.5, -2.5, -0.4, -3.1, -1.0], dtype=torch.float64)
    stats = TokenStats(log_prob_N, *torch.zeros(3, 5, dtype=torch.float64))
    sequence_N = torch.tensor([7, 7, 2, 2, 5])
    found = token_weights(stats, "iw_sft", sequence_N=sequence_N, reference_log_prob_N=base_N)
    first, second, third = math.exp(2 * 0.5), math.exp(2 * 0.0), math.exp(2 * -8.0)
    assert found.tolist() == pytest.approx([first, first, second, second, third])
    clipped = token_weights(stats, "iw_sft", sequence_N=sequence_N, reference_log_prob_N=base_N, iw_clip=1.5)
    assert clipped.tolist() == pytest.approx([1.5, 1.5, second, second, third])
    assert token_weights(stats, "iw_sft", reference_log_prob_N=base_N, iw_power=0.0).tolist() == [1.0] * 5
    oracle = reference.token_weights(stats, "iw_sft", sequence_N=sequence_N, reference_log_prob_N=base_N)
    torch.testing.assert_close(found, oracle)
    with pytest.raises(LossError, match=r"iw_sft without the base model's probabilities.*give reference_log_prob_N"):
        token_weights(stats, "iw_sft")


SIGNALLED = [
    {"objective": "rri", "signal": "base"},
    {"objective": "rri", "signal": "base", "form": "exact", "temperature": 0.5},
    {"objective": "threshold", "signal": "base", "q": 0.01},
    {"objective": "deft", "signal": "base"},
    {"objective": "talr", "signal": "base"},
    {"objective": "iw_sft"},
]


@pytest.mark.parametrize("settings", SIGNALLED, ids=str)
@pytest.mark.parametrize("chunk_size", [5, None])
def test_with_the_signal_of_another_model(settings, chunk_size, batch_of):
    batch = batch_of()
    signal = token_stats(torch.randn(70, 211, dtype=torch.float64) * 2, batch.label_N.clamp(min=0))
    call = (batch.hidden_NH, batch.head_VH, batch.label_N)
    options = {"sequence_N": batch.sequence_N, "base_stats": signal}
    ours = weighted_nll(*call, chunk_size=chunk_size, **options, **settings)
    oracle_settings = {name: value for name, value in settings.items() if name != "signal"}
    truth = reference.weighted_nll(*call, **options, **oracle_settings)
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-14)
    mine, true = (torch.autograd.grad(loss, batch.leaves()[:2]) for loss in (ours, truth))
    for one, other in zip(mine, true, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)
    if settings["objective"] != "iw_sft":
        online = weighted_nll(*call, sequence_N=batch.sequence_N, **oracle_settings)
        assert not torch.isclose(ours, online, rtol=1e-3)


def test_the_signal_of_the_model_itself_is_online(batch_of):
    batch = batch_of()
    call = (batch.hidden_NH, batch.head_VH, batch.label_N)
    logits_NV = reference.logits(*call[:2]).detach()
    signal = token_stats(logits_NV, batch.label_N.clamp(min=0))
    for objective in ("rri", "dft", "eaft", "deft", "power", "threshold"):
        ours = weighted_nll(*call, objective=objective)
        based = weighted_nll(*call, knobs=Knobs(objective=objective, signal="base"), base_stats=signal)
        torch.testing.assert_close(based, ours)
    assert weighted_nll(*call, objective="iw_sft", base_stats=signal).item() == pytest.approx(
        weighted_nll(*call, objective="sft").item()
    )


def test_a_signal_that_is_missing_is_named(batch_of):
    batch = batch_of()
    for settings in ({"objective": "iw_sft"}, {"signal": "base"}):
        with pytest.raises(LossError, match=r"no statistics of the base model.*give base_stats"):
            weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **settings)
    plain = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, objective="sft")
    assert weighted_nll(
        batch.hidden_NH, batch.head_VH, batch.label_N, knobs=Knobs(objective="sft", signal="base")
    ).equal(plain)
