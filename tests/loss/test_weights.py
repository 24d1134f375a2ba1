"""From statistics to weights: each objective against its paper, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankray.errors import LossError
from rankray.loss import WEIGHTS, Knobs, TokenStats, reference, token_stats, token_weights
from rankray.loss.tokens import ALL_STATS
from rankray.loss.weights import needed_stats, needs_talr_temperature, relative_scale


def some_stats(tokens: int = 50, vocabulary: int = 300, spread: float = 3.0) -> TokenStats:
    generator = torch.Generator().manual_seed(7)
    logits_NV = torch.randn(tokens, vocabulary, generator=generator, dtype=torch.float64) * spread
    target_N = torch.where(torch.arange(tokens) % 2 == 0, logits_NV.argmax(-1), torch.arange(tokens))
    return token_stats(logits_NV, target_N)


def test_agrees_with_the_reference(objective):
    stats = some_stats()
    sequence_N = torch.arange(50) // 7
    ours = token_weights(stats, sequence_N=sequence_N, **objective)
    truth = reference.token_weights(stats, sequence_N=sequence_N, **objective)
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=0)
    assert not ours.requires_grad


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_a_weight_is_stop_gradient(name):
    """Of statistics that are part of a graph, too, as those of one's own code may be."""
    stats = some_stats()
    grown = TokenStats(*(None if each is None else each.clone().requires_grad_() for each in stats))
    found = token_weights(grown, name, reference_log_prob_N=(stats.log_prob_N / 2).requires_grad_())
    assert not found.requires_grad
    assert torch.equal(found, token_weights(stats, name, reference_log_prob_N=stats.log_prob_N / 2))


def test_the_papers_exact_indicator():
    stats = some_stats()
    rank_N, expected_N = stats.rank_N, stats.expected_rank_N
    indicator_N = 2 ** (1 / torch.log2(rank_N + 1) - 1 / torch.log2(expected_N + 1))
    torch.testing.assert_close(token_weights(stats, form="exact", base="one"), 1 / indicator_N)


def test_the_papers_bound():
    stats = some_stats()
    s_N = torch.where(stats.entropy_bits_N < 2, 2 - stats.max_prob_N, 2**stats.entropy_bits_N / 4 + 1)
    assert ((stats.entropy_bits_N < 2).any(), (stats.entropy_bits_N > 2).any()) == (True, True)
    k_N = torch.log2(torch.maximum(stats.rank_N, s_N) + 1) ** -2
    scale_N = (stats.log_prob_N.exp() * s_N).clamp(min=1e-6) ** -k_N
    torch.testing.assert_close(token_weights(stats, base="one"), scale_N)
    torch.testing.assert_close(token_weights(stats, base="prob"), scale_N * stats.log_prob_N.exp())


@given(
    log_prob=st.floats(-80, 0),
    entropy_bits=st.floats(0, 17),
    rank=st.integers(1, 150_000),
    expected_rank=st.floats(1, 75_000),
)
@settings(max_examples=100, deadline=None)
def test_the_exact_scale_lies_between_a_half_and_two(log_prob, entropy_bits, rank, expected_rank):
    stats = TokenStats(*torch.tensor([[log_prob], [entropy_bits], [rank], [expected_rank]], dtype=torch.float64))
    assert 0.5 < token_weights(stats, form="exact", base="one").item() < 2
    assert token_weights(stats, form="exact", base="one", max_scale=0.7).item() <= 0.7 * (1 + 1e-12)


@pytest.mark.parametrize("form", ["bound", "exact"])
@pytest.mark.parametrize("temperature", [1e12, math.inf])
def test_at_a_high_temperature_the_base_objective_remains(form, temperature):
    stats = some_stats()
    for base, objective in (("one", "sft"), ("prob", "dft")):
        ours = token_weights(stats, form=form, base=base, temperature=temperature)
        torch.testing.assert_close(ours, token_weights(stats, objective), rtol=1e-9, atol=0)


@pytest.mark.parametrize("form", ["bound", "exact"])
def test_without_entropy_weight_only_the_guess_counts(form):
    stats = some_stats()
    s_N = torch.where(stats.entropy_bits_N < 2, 2 - stats.max_prob_N, 2**stats.entropy_bits_N / 4 + 1)
    k_N = torch.log2(torch.maximum(stats.rank_N, s_N) + 1) ** -2
    expected = {
        "bound": stats.log_prob_N.exp().clamp(min=1e-6) ** -k_N,
        "exact": 2 ** (1 - 1 / torch.log2(stats.rank_N + 1)),
    }
    torch.testing.assert_close(token_weights(stats, form=form, base="one", entropy_weight=0.0), expected[form])


def test_dft_is_the_probability():
    stats = some_stats()
    torch.testing.assert_close(token_weights(stats, "dft"), stats.log_prob_N.exp())


def test_talr_takes_the_median_over_sequences_of_their_mean_nll():
    log_prob_N = -torch.tensor([1.0, 3.0, 10.0, 20.0, 0.5, 0.5], dtype=torch.float64)
    stats = TokenStats(log_prob_N, *torch.zeros(3, 6, dtype=torch.float64))
    sequence_N = torch.tensor([4, 4, 9, 9, -1, -1])  # means 2, 15, 0.5
    by_hand = torch.tensor([math.exp(-nll / 2) for nll in (1, 3, 10, 20, 0.5, 0.5)], dtype=torch.float64)
    torch.testing.assert_close(token_weights(stats, "talr", sequence_N=sequence_N), by_hand)
    torch.testing.assert_close(token_weights(stats, "talr", sequence_N=sequence_N, min_weight=0.3), by_hand.clamp(0.3))
    torch.testing.assert_close(token_weights(stats, "talr", talr_temperature=2), by_hand)
    mean = 35 / 6
    one_sequence = torch.tensor([math.exp(-nll / mean) for nll in (1, 3, 10, 20, 0.5, 0.5)], dtype=torch.float64)
    torch.testing.assert_close(token_weights(stats, "talr"), one_sequence)


def test_talr_on_a_batch_without_a_mistake():
    stats = TokenStats(*torch.zeros(4, 3))
    assert token_weights(stats, "talr").tolist() == [1.0, 1.0, 1.0]


def test_eaft_is_the_top_entropy_over_three():
    probs = [0.5, 0.25, 0.125, 0.125]
    stats = token_stats(torch.tensor([probs], dtype=torch.float64).log(), torch.tensor([0]))
    nats = -sum(p * math.log(p) for p in probs)
    assert token_weights(stats, "eaft").item() == pytest.approx(nats / 3, rel=1e-12)
    assert token_weights(stats, "eaft", alpha=2.0).item() == pytest.approx((nats / 3) ** 2, rel=1e-12)


def test_max_scale_caps_the_scale_and_not_the_base():
    stats = some_stats()
    free = token_weights(stats, base="one", temperature=0.25)
    capped = token_weights(stats, base="one", temperature=0.25, max_scale=1.2)
    assert (free > 1.2).any()
    torch.testing.assert_close(capped, free.clamp(max=1.2))
    prob = token_weights(stats, base="prob", temperature=0.25, max_scale=1.2)
    torch.testing.assert_close(prob, capped * stats.log_prob_N.exp())


def test_a_probability_that_underflows_does_no_harm():
    stats = TokenStats(*(torch.tensor([value]) for value in (-300.0, 0.0, 2.0, 1.0)))
    log2_scale = (1 / math.log2(3)) ** 2 * (300 / math.log(2) - math.log2(1.25))
    free = {"low_entropy": "bound", "min_competence": 0.0}
    weight = token_weights(stats, base="prob", temperature=0.5, **free)
    assert math.log2(weight.item()) == pytest.approx(2 * log2_scale - 300 / math.log(2), abs=1e-3)
    assert token_weights(stats, base="one", temperature=0.1, **free).item() == torch.finfo(torch.float32).max
    assert token_weights(stats, base="one", temperature=0.1, max_scale=8.0, **free).item() == pytest.approx(8.0)


@pytest.mark.parametrize("sequence_N", [None, torch.tensor([0, 1])], ids=["one sequence", "two"])
def test_a_nan_statistic_gives_a_nan_weight(objective, sequence_N):
    stats = TokenStats(*torch.full((7, 2), math.nan))
    weight_N = token_weights(stats, sequence_N=sequence_N, **objective)
    assert weight_N.isnan().all() or objective["objective"] == "sft"


def test_the_scale_is_what_multiplies_the_base():
    stats = some_stats()
    torch.testing.assert_close(relative_scale(stats, Knobs()), token_weights(stats, base="one"))


def test_only_what_the_objective_needs_is_asked_for():
    assert needed_stats(Knobs(objective="sft")) == frozenset()
    assert needed_stats(Knobs()) == {"entropy_bits_N", "rank_N"}
    assert needed_stats(Knobs(form="exact")) == {"rank_N", "expected_rank_N"}
    assert needed_stats(Knobs(form="exact", entropy_weight=0.0)) == {"rank_N"}


def test_only_talr_without_a_number_needs_the_whole_batch_first():
    """It costs another forward pass of the head."""
    assert needs_talr_temperature(Knobs(objective="talr"))
    assert not needs_talr_temperature(Knobs(objective="talr", talr_temperature=2.0))
    assert not any(needs_talr_temperature(Knobs(objective=name)) for name in WEIGHTS if name != "talr")


def test_what_is_not_asked_for_is_not_used(objective):
    stats = some_stats()
    needed = needed_stats(Knobs(**objective)) | {"log_prob_N", "max_prob_N"}
    hidden = stats._replace(**{key: torch.full((50,), math.nan) for key in stats._fields if key not in needed})
    assert torch.equal(token_weights(hidden, **objective), token_weights(stats, **objective))


def test_an_objective_is_added_with_one_line(monkeypatch):
    monkeypatch.setitem(WEIGHTS, "margin", lambda stats, knobs: 1 / stats.rank_N)
    stats = some_stats()
    assert torch.equal(token_weights(stats, "margin"), 1 / stats.rank_N)
    assert needed_stats(Knobs(objective="margin")) == ALL_STATS


def test_checked_settings_are_taken_as_they_are():
    stats = some_stats()
    knobs = Knobs(form="exact", base="one", temperature=2.5)
    expected = token_weights(stats, form="exact", base="one", temperature=2.5)
    assert torch.equal(token_weights(stats, knobs=knobs), expected)
    with pytest.raises(LossError, match="got them and temperature"):
        token_weights(stats, knobs=knobs, temperature=1.0)


def test_an_objective_ignores_what_it_does_not_use():
    stats = some_stats()
    ours = token_weights(stats, "dft", temperature=0.1, form="exact", alpha=3.0, max_scale=None)
    assert torch.equal(ours, token_weights(stats, "dft"))


def test_eaft_says_where_its_entropy_comes_from():
    with pytest.raises(LossError, match="token_stats"):
        token_weights(TokenStats(*torch.zeros(4, 2)), "eaft")


EXTREMES = [
    *({"temperature": value, "form": form} for value in (1e-300, 1e300, math.inf) for form in ("bound", "exact")),
    *({"entropy_weight": value, "temperature": t} for value in (1e-300, 1e300) for t in (1e-300, 1.0, math.inf)),
    *({"max_scale": value, "temperature": 1e-3} for value in (1e-300, 1e300, math.inf)),
    *({"objective": "talr", "talr_temperature": value} for value in (1e-300, 1e300, math.inf)),
    *({"objective": "eaft", "alpha": value, "eaft_scale": 1} for value in (1e-300, 100.0, 1e300)),
    *({"objective": "power", "alpha": value} for value in (1e-300, 1e300)),
    *({"objective": "iw_sft", "iw_power": 1e300, "iw_clip": value} for value in (1e-300, 16.0, 1e300, math.inf)),
]


@pytest.mark.parametrize("given", EXTREMES, ids=str)
def test_no_setting_makes_an_infinite_weight_or_none(given):
    logits_NV = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 5
    logits_NV[0, 3], logits_NV[1] = 200.0, 0.0  # a certain token, and one among equals
    stats = token_stats(logits_NV, torch.tensor([3, 4, 5, 6, 7, 8]))
    weight_N = token_weights(stats, **given, reference_log_prob_N=stats.log_prob_N / 2)
    assert torch.isfinite(weight_N).all()
    assert (weight_N >= 0).all()


@pytest.mark.parametrize(("direction", "weight"), [("above", 1.0), ("below", 0.0)])
def test_a_threshold_of_nothing_counts_all_or_none(direction, weight):
    """Tokens that the model holds for impossible, too."""
    stats = some_stats()
    stats = stats.replaced(log_prob_N=stats.log_prob_N.clone().index_fill_(0, torch.tensor([3]), -math.inf))
    found = token_weights(stats, "threshold", q=0.0, direction=direction)
    assert found.unique().tolist() == [weight]


@pytest.mark.parametrize("vocabulary", [2, 50, 1000])
def test_a_probability_that_is_the_threshold_up_to_rounding_counts_as_it(vocabulary):
    """How float32 rounds its logarithm does not decide."""
    logits_NV = 3 * torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(4))
    target_N = torch.arange(40) % vocabulary
    stats = token_stats(logits_NV, target_N)
    for row, prob in enumerate(reference.token_stats(logits_NV, target_N).log_prob_N.exp().tolist()):
        for q, above in ((prob, 1.0), (prob * (1 - 1e-4), 1.0), (prob * (1 + 1e-4), 0.0)):
            if q <= 1.0:
                assert token_weights(stats, "threshold", q=q)[row].item() == above
                assert token_weights(stats, "threshold", q=q, direction="below")[row].item() == 1.0 - above


@pytest.mark.parametrize(
    ("objective", "lacks"), [("rri", "max_prob_N"), ("deft", "prob_square_sum_N"), ("eaft", "top_entropy_nats_N")]
)
def test_a_statistic_that_is_not_there_is_named(objective, lacks):
    with pytest.raises(LossError, match=f"{lacks} = None"):
        token_weights(some_stats().replaced(**{lacks: None}), objective)


def test_no_token_has_no_weight_and_no_temperature():
    none = token_stats(torch.empty(0, 5), torch.empty(0, dtype=torch.long))
    for objective in WEIGHTS:
        given = {"reference_log_prob_N": none.log_prob_N} if objective == "iw_sft" else {}
        for sequence_N in (None, torch.empty(0, dtype=torch.long)):
            assert token_weights(none, objective, sequence_N=sequence_N, **given).shape == (0,)
