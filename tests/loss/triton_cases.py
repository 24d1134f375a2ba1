"""What `test_triton.py` runs in a separate process, under Triton's interpreter; pytest does not collect it itself."""

from __future__ import annotations

import math

import pytest
import torch

from loss.test_golden import each_token, logits_of, wanted_scales
from rankray.loss import backend, fused, reference, weighted_nll, weighted_nll_with_stats
from rankray.loss import triton as kernels
from rankray.loss.stats import ALL_STATS

KINDS = [{"objective": "rri"}, {"objective": "rri", "form": "exact"}, {"objective": "eaft"}, {"objective": "deft"}]
SHAPES = {"plain": {}, "capped": {"logit_scale": 0.7, "logit_softcap": 8.0}, "flipped": {"logit_scale": -0.5}}
objectives = pytest.mark.parametrize("objective", KINDS, ids=lambda kind: "-".join(kind.values()))
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks per row, several histograms per chunk."""
    monkeypatch.setattr(kernels, "BLOCK", 64)
    monkeypatch.setattr(kernels, "ROWS_COUNTED", 5)


@pytest.fixture
def kernels_used(monkeypatch):
    """Counts the chunks that the kernels processed."""
    calls = []
    chunk_pass = kernels.chunk_pass
    monkeypatch.setattr(kernels, "chunk_pass", lambda *args, **kw: calls.append(1) or chunk_pass(*args, **kw))
    return calls


@objectives
@dtypes
@pytest.mark.parametrize("shape", ["plain", "capped"])
def test_value_and_gradients_are_as_good_as_the_naive_ones(
    objective, dtype, shape, batch_of, naive_loss, no_worse, kernels_used
):
    values = []
    for seed in range(2):
        batch = batch_of(tokens=10, vocabulary=100, dtype=dtype, seed=seed)
        wide = batch.widened()
        losses = []
        for loss, each in ((weighted_nll, batch), (naive_loss, batch), (reference.weighted_nll, wide)):
            options = {"sequence_N": each.sequence_N, "bias_V": each.bias_V, **SHAPES[shape], **objective}
            losses.append(loss(each.hidden_NH, each.head_VH, each.label_N, **options))
        values.append([loss.detach() for loss in losses])
        columns = (
            torch.autograd.grad(loss, each.leaves()) for loss, each in zip(losses, (batch, batch, wide), strict=True)
        )
        for mine, simple, true in zip(*columns, strict=True):
            assert mine.dtype == dtype
            no_worse(mine, simple, true)
    no_worse(*(torch.stack(column) for column in zip(*values, strict=True)))
    assert kernels_used


def test_weights_of_the_data_multiply_those_of_the_objective(batch_of, kernels_used):
    batch = batch_of(tokens=10, vocabulary=100, dtype=torch.float32)
    given_N, wide = torch.linspace(0.0, 3.0, 10), batch.widened()
    ours = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, token_weight_N=given_N)
    truth = reference.weighted_nll(wide.hidden_NH, wide.head_VH, wide.label_N, token_weight_N=given_N)
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-6)
    mine = torch.autograd.grad(ours, batch.leaves()[:2])
    for own, true in zip(mine, torch.autograd.grad(truth, wide.leaves()[:2]), strict=True):
        torch.testing.assert_close(own.double(), true, rtol=1e-4, atol=1e-6)
    assert kernels_used


@dtypes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [0.0, 2.0, 30.0])
def test_statistics_are_as_good_as_the_naive_ones(dtype, shape, spread, naive_token_stats, no_worse):
    generator = torch.Generator().manual_seed(3)
    product_CV = (torch.randn(6, 150, generator=generator) * spread).to(dtype)
    label_C = torch.randint(0, 150, (6,), generator=generator)
    options = {"scale": SHAPES[shape].get("logit_scale", 1.0), "softcap": SHAPES[shape].get("logit_softcap")}
    wide_CV = kernels._logits(product_CV, **options)
    ours, correct_C = kernels.chunk_pass(
        product_CV.clone(), label_C, ALL_STATS, **options, exact_ranks=True, wants_gradient=False
    )
    exact_CV = product_CV.double() * options["scale"]
    if options["softcap"]:
        exact_CV = options["softcap"] * torch.tanh(exact_CV / options["softcap"])
    naive, truth = naive_token_stats(wide_CV, label_C), reference.token_stats(exact_CV, label_C)
    for mine, simple, true in zip(ours[:-1], naive[:-1], truth[:-1], strict=True):
        no_worse(mine, simple, true)
    if shape != "capped":  # a rounded tanh makes ties of its own, and of several largest the first is greedy
        assert torch.equal(ours.rank_N.double(), truth.rank_N)
        assert torch.equal(correct_C, exact_CV.argmax(-1) == label_C)


def hard_rows(kind: str, vocabulary: int = 1000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, vocabulary, generator=generator)
    if kind == "zipf":
        return 0.1 * noise - 1.1 * torch.log(torch.arange(1.0, vocabulary + 1))
    if kind == "two-point":
        rows = torch.full((4, vocabulary), -60.0)
        rows[:, 7], rows[:, 900] = 3.0, 3.0 + torch.linspace(-0.004, 0.004, 4)
        return rows
    return {"peaky": 6.0, "flat": 0.003}[kind] * noise


@dtypes
@pytest.mark.parametrize("kind", ["peaky", "flat", "zipf", "two-point"])
def test_the_histogram_leaves_the_scale_within_a_thousandth(kind, dtype, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 1024)
    product_CV = hard_rows(kind).to(dtype)
    label_C = torch.arange(4)
    arguments = {"scale": 1.0, "softcap": None, "exact_ranks": False, "wants_gradient": False}
    ours, _ = kernels.chunk_pass(product_CV.clone(), label_C, ALL_STATS, **arguments)
    truth = reference.token_stats(product_CV, label_C)
    exact = {"form": "exact", "base": "one"}
    error_C = reference.token_weights(ours, "rri", **exact) / reference.token_weights(truth, "rri", **exact) - 1
    assert error_C.abs().max() < (1e-3 if dtype == torch.float32 else 1e-6)


@objectives
def test_a_broken_logit_breaks_the_loss(objective, batch_of):
    for bad in (math.nan, math.inf, -math.inf):
        batch = batch_of(tokens=9, vocabulary=40, dtype=torch.float32)
        with torch.no_grad():
            batch.hidden_NH[(batch.label_N != -100).nonzero()[1, 0], 0] = bad
        assert not weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **objective).isfinite()


@objectives
def test_a_masked_vocabulary_entry_is_harmless(objective, batch_of):
    batch = batch_of(tokens=12, dtype=torch.float32)
    unused = [token for token in range(211) if token not in batch.label_N]
    with torch.no_grad():
        batch.bias_V[unused] = -math.inf
        batch.bias_V[64:128] = -math.inf  # a whole block
    label_N = torch.where((batch.label_N >= 64) & (batch.label_N < 128), -100, batch.label_N)
    options = {"bias_V": batch.bias_V, **objective}
    loss = weighted_nll(batch.hidden_NH, batch.head_VH, label_N, **options)
    truth = reference.weighted_nll(batch.hidden_NH, batch.head_VH, label_N, **options)
    torch.testing.assert_close(loss.double(), truth, rtol=1e-5, atol=0)
    for mine in torch.autograd.grad(loss, batch.leaves()):
        assert mine.isfinite().all()


@objectives
def test_sums_agree_with_the_torch_path(objective, batch_of, monkeypatch):
    batch = batch_of(tokens=30, vocabulary=90, dtype=torch.float32)
    call = (batch.hidden_NH, batch.head_VH, batch.label_N)
    ours = weighted_nll_with_stats(*call, chunk_size=16, **objective)[1]
    monkeypatch.setattr(fused, "on_triton", lambda plan, device: False)
    other = weighted_nll_with_stats(*call, **objective)[1]
    torch.testing.assert_close(ours.vector()[:8], other.vector()[:8], rtol=1e-5, atol=1e-6)


def test_float64_takes_the_torch_path(batch_of, kernels_used):
    batch = batch_of()
    weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N)
    assert not kernels_used


@objectives
@pytest.mark.parametrize("vocabulary", [2, 64, 65])
def test_small_vocabularies(objective, vocabulary, batch_of):
    batch = batch_of(tokens=12, vocabulary=vocabulary, dtype=torch.float32)
    ours = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **objective)
    truth = reference.weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **objective)
    torch.testing.assert_close(ours.double(), truth, rtol=2e-5, atol=1e-7)


@each_token
def test_golden_values(golden, kernels_used):
    """The golden table through the kernels: -inf stands in as a large negative number."""
    logits_CV, label_C = logits_of(golden, torch.float32)
    head_VH = logits_CV.clamp(min=-800.0).t().contiguous()
    hidden_NH = torch.ones(1, 1, requires_grad=True)
    nll = -math.log(golden.probs[golden.target])
    for scale, knobs in wanted_scales(golden):
        loss = weighted_nll(hidden_NH, head_VH, label_C, objective="rri", base="one", **knobs)
        assert loss.item() == pytest.approx(scale * nll, rel=2e-3 if knobs["form"] == "exact" else 5e-5, abs=1e-6)
    assert kernels_used


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_first_use_compares_with_torch(dtype, monkeypatch):
    backend.kernel_problem.cache_clear()
    assert backend.kernel_problem(torch.device("cpu"), dtype) == ""
    for wrong in ("rank", "statistics", "gradient"):
        backend.kernel_problem.cache_clear()
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "chunk_pass", spoiled(kernels.chunk_pass, wrong))
            assert wrong in backend.kernel_problem(torch.device("cpu"), dtype)
            assert not backend.on_triton(dtype, torch.device("cpu"))
    backend.kernel_problem.cache_clear()


def spoiled(chunk_pass, wrong):
    """The kernels with a fault of one kind."""

    def call(product_CV, *args, **kw):
        stats, correct_C = chunk_pass(product_CV, *args, **kw)
        if wrong == "rank":
            return stats.replaced(rank_N=stats.rank_N + 1), correct_C
        if wrong == "statistics":
            return stats.replaced(entropy_bits_N=stats.entropy_bits_N * 1.01), correct_C
        product_CV[0, 3] += 0.1
        return stats, correct_C

    return call


def test_rounding_of_a_softcap_makes_no_ties():
    """Ranks are counted on the products: far beyond the cap their tanh is the same number."""
    product_CV = torch.linspace(100.0, 200.0, 50).repeat(3, 1)
    stats, correct_C = kernels.chunk_pass(
        product_CV, torch.tensor([49, 10, 0]), ALL_STATS, scale=1.0, softcap=5.0, exact_ranks=True, wants_gradient=False
    )
    assert stats.rank_N.tolist() == [1.0, 40.0, 50.0]
    assert correct_C.tolist() == [True, False, False]
