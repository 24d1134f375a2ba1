"""Whole: golden values of the indicator, worked out from the formulas with 50 digits, sharing nothing with rankray.

Each distribution is short enough to check by hand. `p_t`, `H` (bits), `R`, `E[R]` and the bound s come first, then the
relative scale S of both forms at the paper's setting, then S of both at temperature 2 and entropy weight 0.5.

Source: arXiv:2602.01745 for the indicator; below 2 bits and the limit of 1e-6 as in the authors' training code.
"""

import math
from typing import NamedTuple

import pytest
import torch

from rankray.loss import LossStats, reference, token_stats, token_weights, weighted_nll_with_stats
from rankray.loss.knobs import Knobs
from rankray.loss.weights import expected_rank_bound, relative_scale


class Golden(NamedTuple):
    probs: list[float]
    target: int
    entropy_bits: float
    rank: int
    expected_rank: float
    bound: float
    scale_bound: float
    scale_exact: float
    scale_bound_other: float
    """At temperature 2, entropy weight 0.5."""
    scale_exact_other: float


SKEWED = [0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625, 0.0625, 0.0625]
GOLDEN = {
    "certain and right": Golden([1.0, 0, 0, 0], 0, 0.0, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "one of two": Golden([0.5, 0.5], 0, 1.0, 2, 1.5, 1.5, 1.121333139, 1.090916775, 1.102532992, 1.0894899),
    "three to one, right": Golden(
        [0.75, 0.25], 0, 0.8112781245, 1, 1.25, 1.25, 1.04828166, 0.9042262126, 1.066448242, 0.9751451681
    ),
    "three to one, wrong": Golden(
        [0.75, 0.25], 1, 0.8112781245, 2, 1.25, 1.25, 1.588862229, 1.16782645, 1.288805616, 1.108204426
    ),
    "below 2 bits, tied last": Golden(
        [0.5, 0.25, 0.125, 0.125], 2, 1.75, 4, 1.875, 1.5, 1.364097442, 1.169328333, 1.190112865, 1.147704215
    ),
    "below 2 bits, first": Golden(
        [0.5, 0.25, 0.125, 0.125], 0, 1.75, 1, 1.875, 1.5, 1.17895153, 0.7880486685, 1.150641268, 0.9421894997
    ),
    "at 2 bits": Golden([0.25] * 4, 1, 2.0, 4, 2.5, 2.0, 1.137197078, 1.088708856, 1.101226875, 1.127389011),
    "above 2 bits, first": Golden(
        SKEWED, 0, 2.75, 2, 3.25, 2.681792831, 1.119710483, 0.9000772234, 1.134602316, 1.038353537
    ),
    "above 2 bits, last": Golden(
        SKEWED, 7, 2.75, 8, 3.25, 2.681792831, 1.194526144, 1.120067414, 1.120100122, 1.158317031
    ),
    "at 4 bits": Golden([0.0625] * 16, 3, 4.0, 16, 8.5, 5.0, 1.072099739, 1.044808184, 1.060661031, 1.152404253),
    "a target of 1e-9, below the limit": Golden(
        [1.0 - 1e-9, 1e-9], 1, 3.134004789e-08, 2, 1.000000001, 1.000000001,
        244.5874243, 1.291520234, 15.63929104, 1.136450718,
    ),
}  # fmt: skip
each_token = pytest.mark.parametrize("golden", GOLDEN.values(), ids=GOLDEN.keys())
OTHER = {"temperature": 2.0, "entropy_weight": 0.5}


def logits_of(golden: Golden, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs = [math.log(prob) if prob else -math.inf for prob in golden.probs]
    return torch.tensor([log_probs], dtype=torch.float64).to(dtype), torch.tensor([golden.target])


def wanted_scales(golden: Golden) -> list[tuple[float, dict]]:
    return [
        (golden.scale_bound, {"form": "bound"}),
        (golden.scale_exact, {"form": "exact"}),
        (golden.scale_bound_other, {"form": "bound", **OTHER}),
        (golden.scale_exact_other, {"form": "exact", **OTHER}),
    ]


@each_token
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-8), (torch.float32, 2e-5)])
@pytest.mark.parametrize("oracle", [True, False], ids=["reference", "fast"])
def test_statistics_bound_scale_and_weight(golden, dtype, error, oracle):
    stats = (reference.token_stats if oracle else token_stats)(*logits_of(golden, dtype))
    prob = golden.probs[golden.target]
    assert stats.log_prob_N.item() == pytest.approx(math.log(prob), rel=error, abs=error)
    assert stats.max_prob_N.item() == pytest.approx(max(golden.probs), rel=error)
    assert stats.entropy_bits_N.item() == pytest.approx(golden.entropy_bits, rel=error, abs=error)
    assert stats.rank_N.item() == golden.rank
    assert stats.expected_rank_N.item() == pytest.approx(golden.expected_rank, rel=error)
    assert expected_rank_bound(stats, Knobs()).item() == pytest.approx(golden.bound, rel=error)
    weights = reference.token_weights if oracle else token_weights
    for scale, knobs in wanted_scales(golden):
        assert weights(stats, "rri", base="one", **knobs).item() == pytest.approx(scale, rel=error)
        assert weights(stats, "rri", base="prob", **knobs).item() == pytest.approx(scale * prob, rel=error)
        if not oracle:
            assert relative_scale(stats, Knobs(**knobs)).item() == pytest.approx(scale, rel=error)


@each_token
def test_the_fused_pass(golden):
    """The logits are the product of a hidden state of one number and the head; -inf stands in as a large negative."""
    logits_NV, target_N = logits_of(golden, torch.float64)
    head_VH = logits_NV.clamp(min=-800.0).t().contiguous()
    hidden_NH = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    prob = golden.probs[golden.target]
    for scale, knobs in wanted_scales(golden):
        loss, stats = weighted_nll_with_stats(hidden_NH, head_VH, target_N, objective="rri", base="one", **knobs)
        assert isinstance(stats, LossStats)
        assert loss.item() == pytest.approx(scale * -math.log(prob), rel=1e-8, abs=1e-12)


def test_what_the_earlier_bound_did_to_a_certain_token():
    """2^H / 4 + 1 everywhere, without a limit: what rankray trained before it followed the authors' code."""
    stats = token_stats(*logits_of(GOLDEN["certain and right"], torch.float64))
    earlier = {"low_entropy": "bound", "min_competence": 0.0, "base": "one"}
    assert token_weights(stats, "rri", **earlier).item() == pytest.approx(0.8495654561, rel=1e-8)
    small = token_stats(*logits_of(GOLDEN["a target of 1e-9, below the limit"], torch.float64))
    assert token_weights(small, "rri", **earlier).item() == pytest.approx(3500.047898, rel=1e-7)


def independent_scale(probs, target, form, temperature, entropy_weight):
    """The formulas once more, over Python floats and one distribution at a time."""
    entropy = -sum(p * math.log2(p) for p in probs if p > 0)
    rank = sum(p >= probs[target] for p in probs)
    if form == "exact":
        expected = sum(k * p for k, p in enumerate(sorted(probs, reverse=True), 1))
        better = (1 / math.log2(rank + 1) - 1) - entropy_weight * (1 / math.log2(expected + 1) - 1)
        return 2 ** (-better / temperature)
    bound = 2**entropy / 4 + 1 if entropy >= 2 else 2 - max(probs)
    k = math.log2(max(rank, bound) + 1) ** -2
    return max(probs[target] * bound**entropy_weight, 1e-6) ** (-k / temperature)


@pytest.mark.parametrize("vocabulary", [2, 3, 17, 300, 4099])
@pytest.mark.parametrize("spread", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("settings", [(1.0, 1.0), (0.5, 0.3), (3.0, 2.0), (1.0, 0.0)])
def test_an_independent_writing_agrees_on_gaussian_logits(vocabulary, spread, settings):
    generator = torch.Generator().manual_seed(vocabulary)
    logits_NV = spread * torch.randn(6, vocabulary, generator=generator, dtype=torch.float64)
    target_N = torch.randint(0, vocabulary, (6,), generator=generator)
    stats = token_stats(logits_NV.float(), target_N)
    # float32 logits are the input of both; softmax itself is left to Python floats
    rows = logits_NV.float().double().tolist()
    for form in ("bound", "exact"):
        found = token_weights(
            stats, "rri", base="one", form=form, temperature=settings[0], entropy_weight=settings[1]
        ).tolist()
        for row, target, scale in zip(rows, target_N.tolist(), found, strict=True):
            largest = max(row)
            exps = [math.exp(each - largest) for each in row]
            total = math.fsum(exps)
            probs = [each / total for each in exps]
            assert scale == pytest.approx(independent_scale(probs, target, form, *settings), rel=5e-3)
