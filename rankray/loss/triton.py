# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""One chunk of logits on a GPU: statistics in one pass over it, the gradient in place in a second pass.

Shapes: C tokens of one chunk, V vocabulary, K histogram keys.

cuBLAS computes the logits of a chunk. The target's logit is read from them first (a separate dot product would round
differently and break ties), so that rank, greedy choice, log-sum-exp, entropy and the histogram for the expected rank
all come from one pass. The second pass overwrites each logit with (softmax - onehot) * slope, which is the gradient up
to the token's weight, and sums the expected rank. There is no second (C, V) buffer.

The expected rank is exact for logits of 16 bits: there are 65,536 of them, and each has its own key. Logits of 32 bits
need the row's maximum first, so a third pass, and share keys 0.0024 nats wide; `exact_ranks` sorts instead. Counts are
integers, so that no result depends on the order in which threads run.

Imported only where triton is installed. With TRITON_INTERPRET=1 in the environment the same kernels run on a CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rankray.loss.stats import TOP_K
from rankray.loss.tokens import TokenStats

BLOCK = 2048
WARPS = 8
KEYS_16_BIT = tl.constexpr(65536)
KEYS_32_BIT = tl.constexpr(16384)
KEY_WIDTH_NATS = tl.constexpr(40.0 / 16383)
ROWS_COUNTED = 128
"""Rows whose histograms are in memory at a time."""

LOWEST = tl.constexpr(-3.0e38)
FAR_BELOW = tl.constexpr(-1.0e4)
LN2 = 0.6931471805599453


def chunk_pass(
    product_CV: Tensor,
    label_C: Tensor,
    wanted: frozenset[str],
    *,
    scale: float,
    softcap: float | None,
    exact_ranks: bool,
    wants_gradient: bool,
) -> tuple[TokenStats, Tensor]:
    """Same values as a `stats.ChunkReader` of `softcap * tanh(product_CV * scale / softcap)`; gradient in place.

    On return `product_CV` contains, if it is wanted, (softmax - onehot) times the softcap's slope, in its own dtype.

    Args:
        product_CV: hidden @ head^T + bias in float32, bfloat16 or float16, rows contiguous; overwritten.
        label_C: index of the true token.
        wanted: names of the fields of `TokenStats` to compute.
        scale: multiplies the product.
        softcap: as in `weighted_nll`.
        exact_ranks: sort for the expected rank where the histogram would not be exact.
        wants_gradient: whether the second pass writes.

    Returns:
        the statistics, and a bool (C,): whether the target is the greedy choice.
    """
    rows = len(label_C)
    top_entropy_C = _top_entropy_nats(product_CV, scale, softcap) if "top_entropy_nats_N" in wanted else None
    unknown_C = torch.full((rows,), float("nan"), device=product_CV.device)
    found_7C = torch.empty(7, rows, device=product_CV.device)
    expected_C = unknown_C
    if "expected_rank_N" in wanted and exact_ranks and product_CV.element_size() > 2:
        expected_C = _sorted_expected_rank(product_CV, scale, softcap)
        wanted = wanted - {"expected_rank_N"}
    if "expected_rank_N" in wanted:
        expected_C = torch.empty_like(unknown_C)
        for first in range(0, rows, ROWS_COUNTED):
            part = slice(first, first + ROWS_COUNTED)
            mine = (product_CV[part], label_C[part], found_7C[:, part])
            _counting_readings(*mine, expected_C[part], wanted, scale, softcap, wants_gradient)
    else:
        _first_reading(product_CV, label_C, found_7C, None, wanted, scale, softcap)
        if wants_gradient:
            _second_reading(product_CV, label_C, found_7C, None, None, scale, softcap, True)
    log_prob_C, entropy_nats_C, rank_C, correct_C, _, mass_C, square_C = found_7C
    entropy_C = entropy_nats_C / LN2 if "entropy_bits_N" in wanted else unknown_C
    rank_C = rank_C if "rank_N" in wanted else unknown_C
    stats = TokenStats(log_prob_C, entropy_C, rank_C, expected_C, top_entropy_C, 1.0 / mass_C)
    if "prob_square_sum_N" in wanted:
        stats = stats.replaced(prob_square_sum_N=square_C)
    return stats, correct_C == 1.0


def _counting_readings(
    product_CV: Tensor,
    label_C: Tensor,
    found_7C: Tensor,
    expected_C: Tensor,
    wanted: frozenset[str],
    scale: float,
    softcap: float | None,
    wants_gradient: bool,
) -> None:
    is_narrow = product_CV.element_size() == 2
    keys = KEYS_16_BIT.value if is_narrow else KEYS_32_BIT.value
    count_CK = torch.zeros(len(label_C), keys, dtype=torch.int32, device=product_CV.device)
    _first_reading(product_CV, label_C, found_7C, count_CK if is_narrow else None, wanted, scale, softcap)
    if not is_narrow:
        _count_kernel[(len(label_C),)](
            product_CV, found_7C[4], count_CK, product_CV.stride(0), *_common(product_CV, scale, softcap)
        )
    counts = (count_CK, count_CK.cumsum(1, dtype=torch.int32))
    _second_reading(product_CV, label_C, found_7C, counts, expected_C, scale, softcap, wants_gradient)


def _common(product_CV: Tensor, scale: float, softcap: float | None) -> tuple[int, float, float, bool, int]:
    vocabulary = product_CV.shape[1]
    cap = 1.0 if softcap is None else float(softcap)
    return vocabulary, float(scale), cap, softcap is not None, min(BLOCK, triton.next_power_of_2(vocabulary))


def _first_reading(
    product_CV: Tensor,
    label_C: Tensor,
    found_7C: Tensor,
    count_CK: Tensor | None,
    wanted: frozenset[str],
    scale: float,
    softcap: float | None,
) -> None:
    _stats_kernel[(len(label_C),)](
        product_CV,
        label_C,
        found_7C,
        found_7C if count_CK is None else count_CK,
        product_CV.stride(0),
        found_7C.stride(0),
        *_common(product_CV, scale, softcap),
        COUNT=count_CK is not None,
        SQUARES="prob_square_sum_N" in wanted,
        IS_FLIPPED=scale < 0,
        num_warps=WARPS,
    )


def _second_reading(
    product_CV: Tensor,
    label_C: Tensor,
    found_7C: Tensor,
    counts: tuple[Tensor, Tensor] | None,
    expected_C: Tensor | None,
    scale: float,
    softcap: float | None,
    wants_gradient: bool,
) -> None:
    count_CK, below_CK = (found_7C, found_7C) if counts is None else counts
    _gradient_kernel[(len(label_C),)](
        product_CV,
        label_C,
        found_7C,
        count_CK,
        below_CK,
        found_7C if expected_C is None else expected_C,
        product_CV.stride(0),
        found_7C.stride(0),
        *_common(product_CV, scale, softcap),
        KEYS=0 if counts is None else count_CK.shape[1],
        IS_FLIPPED=scale < 0,
        WRITES=wants_gradient,
        num_warps=WARPS,
    )


def _logits(product_CV: Tensor, scale: float, softcap: float | None) -> Tensor:
    logits_CV = product_CV.float() * scale
    return logits_CV if softcap is None else softcap * torch.tanh(logits_CV / softcap)


def _top_entropy_nats(product_CV: Tensor, scale: float, softcap: float | None) -> Tensor:
    top_CK = product_CV.topk(min(TOP_K, product_CV.shape[1]), dim=-1, largest=scale >= 0).values
    broken_C = product_CV.sum(-1, dtype=torch.float32) * 0.0  # a NaN or infinity that is not among the top shows here
    entropy_C = torch.special.entr(_logits(top_CK, scale, softcap).softmax(-1)).sum(-1)
    return torch.where(broken_C.isnan() & ~product_CV.isneginf().any(-1), broken_C, entropy_C)


def _sorted_expected_rank(product_CV: Tensor, scale: float, softcap: float | None) -> Tensor:
    prob_CV = _logits(product_CV, scale, softcap).softmax(-1).sort(-1, descending=True).values
    return prob_CV.mul_(torch.arange(1.0, prob_CV.shape[1] + 1, device=prob_CV.device)).sum(-1)


@triton.jit
def _tanh(x):
    """The hyperbolic tangent; by its series where the quotient of exponentials would cancel."""
    e = tl.exp(-2.0 * tl.abs(x))
    quotient = (1.0 - e) / (1.0 + e)
    y = x * x
    series = x * (1.0 - y * (1.0 / 3 - y * (2.0 / 15 - y * (17.0 / 315 - y * (62.0 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, series, tl.where(x < 0, -quotient, quotient))


@triton.jit
def _logit(raw, scale, softcap, HAS_SOFTCAP: tl.constexpr):
    """The logit of a product."""
    z = raw.to(tl.float32) * tl.cast(scale, tl.float32)
    if HAS_SOFTCAP:
        cap = tl.cast(softcap, tl.float32)
        z = cap * _tanh(z / cap)
    return z


@triton.jit
def _key_16_bit(raw, IS_FLIPPED: tl.constexpr):
    """Return a separate key for each number of 16 bits, the largest logit first."""
    bits = raw.to(tl.int16, bitcast=True).to(tl.int32)
    order = tl.where(bits < 0, bits ^ 0x7FFF, bits)
    if IS_FLIPPED:
        key = order + 32768
    else:
        key = 32767 - order
    return key


@triton.jit
def _key_32_bit(z, top):
    """Return how many key widths a logit lies below the largest; a NaN gets any key, as its softmax is NaN anyway."""
    distance = tl.minimum(tl.maximum((top - z) / KEY_WIDTH_NATS, 0.0), KEYS_32_BIT - 1.0)
    return tl.minimum(tl.maximum(distance.to(tl.int32), 0), KEYS_32_BIT - 1)


@triton.jit
def _stats_kernel(
    product_ptr,
    label_ptr,
    found_ptr,
    count_ptr,
    stride,
    found_stride,
    vocabulary,
    scale,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
    COUNT: tl.constexpr,
    SQUARES: tl.constexpr,
    IS_FLIPPED: tl.constexpr,
):
    """A row's log-probability, entropy in nats, rank, greedy choice, maximum, sum of exponentials, sum of squares."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr = product_ptr + row * stride
    label = tl.load(label_ptr + row)
    target = _logit(tl.load(row_ptr + label), scale, softcap, HAS_SOFTCAP)
    top = tl.maximum(target, LOWEST)
    total = tl.zeros((BLOCK,), tl.float32)
    moment = tl.zeros((BLOCK,), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    rank = tl.zeros((BLOCK,), tl.int32)
    ahead = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, vocabulary, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        inside = offsets < vocabulary
        raw = tl.load(row_ptr + offsets, mask=inside, other=0.0)
        z = tl.where(inside, _logit(raw, scale, softcap, HAS_SOFTCAP), float("-inf"))
        higher = tl.maximum(top, tl.max(z, 0))
        drop = tl.maximum(top - higher, FAR_BELOW)
        below = z - higher
        mass = tl.exp(below)
        moment = (moment + total * drop) * tl.exp(drop) + mass * tl.maximum(below, FAR_BELOW)
        total = total * tl.exp(drop) + mass
        if SQUARES:
            squares = squares * tl.exp(2.0 * drop) + mass * mass
        top = higher
        rank += ((z >= target) & inside).to(tl.int32)
        ahead += ((z > target) | ((z == target) & (offsets < label))).to(tl.int32)
        if COUNT:
            tl.atomic_add(count_ptr + row * KEYS_16_BIT + _key_16_bit(raw, IS_FLIPPED), 1, mask=inside)
    mass_sum = tl.sum(total, 0)
    log_sum = tl.log(mass_sum)
    tl.store(found_ptr + row, target - top - log_sum)
    entropy = log_sum - tl.sum(moment, 0) / mass_sum
    tl.store(found_ptr + found_stride + row, tl.where(entropy < 0.0, 0.0, entropy))
    tl.store(found_ptr + 2 * found_stride + row, tl.maximum(tl.sum(rank, 0), 1).to(tl.float32))
    tl.store(found_ptr + 3 * found_stride + row, (tl.sum(ahead, 0) == 0).to(tl.float32))
    tl.store(found_ptr + 4 * found_stride + row, top)
    tl.store(found_ptr + 5 * found_stride + row, mass_sum)
    if SQUARES:
        tl.store(found_ptr + 6 * found_stride + row, tl.sum(squares, 0) / (mass_sum * mass_sum))


@triton.jit
def _count_kernel(
    product_ptr,
    top_ptr,
    count_ptr,
    stride,
    vocabulary,
    scale,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row's histogram of 32-bit logits."""
    row = tl.program_id(0).to(tl.int64)
    top = tl.load(top_ptr + row)
    for start in range(0, vocabulary, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        inside = offsets < vocabulary
        raw = tl.load(product_ptr + row * stride + offsets, mask=inside, other=0.0)
        key = _key_32_bit(_logit(raw, scale, softcap, HAS_SOFTCAP), top)
        tl.atomic_add(count_ptr + row * KEYS_32_BIT + key, 1, mask=inside)


@triton.jit
def _gradient_kernel(
    product_ptr,
    label_ptr,
    found_ptr,
    count_ptr,
    below_ptr,
    expected_ptr,
    stride,
    found_stride,
    vocabulary,
    scale,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    IS_FLIPPED: tl.constexpr,
    WRITES: tl.constexpr,
):
    """(softmax - onehot) * slope over a row's products, and the sum of softmax * rank; equal keys share a mean rank."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr = product_ptr + row * stride
    label = tl.load(label_ptr + row)
    top = tl.load(found_ptr + 4 * found_stride + row)
    share = 1.0 / tl.load(found_ptr + 5 * found_stride + row)
    expected = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        inside = offsets < vocabulary
        raw = tl.load(row_ptr + offsets, mask=inside, other=0.0)
        z = _logit(raw, scale, softcap, HAS_SOFTCAP)
        prob = tl.exp(z - top) * share
        if KEYS > 0:
            if KEYS == KEYS_16_BIT:
                key = _key_16_bit(raw, IS_FLIPPED)
            else:
                key = _key_32_bit(z, top)
            count = tl.load(count_ptr + row * KEYS + key, mask=inside, other=1).to(tl.float32)
            last = tl.load(below_ptr + row * KEYS + key, mask=inside, other=0).to(tl.float32)
            expected += tl.where(inside, prob * (last - (count - 1.0) * 0.5), 0.0)
        if WRITES:
            slope = prob - (offsets == label).to(tl.float32)
            if HAS_SOFTCAP:
                u = z / tl.cast(softcap, tl.float32)
                slope = slope * (1.0 - u * u)
            tl.store(row_ptr + offsets, slope.to(raw.dtype), mask=inside)
    if KEYS > 0:
        tl.store(expected_ptr + row, tl.sum(expected, 0))
