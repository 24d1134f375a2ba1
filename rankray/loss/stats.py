"""Per-token statistics of a prediction, from its logits: what a token weight may look at.

Shapes: N tokens, V vocabulary, C tokens of one chunk; a trailing 1 is a kept dimension.

Everything here is stop-gradient. Statistics are computed in float32 (float64 for float64 logits) and in log space, so
a target whose probability underflows still has its log-probability. Ranks are counted on logits, not on probabilities,
so they have no rounding error; ties count against the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rankray.errors import LossError
from rankray.loss.checks import check_integers
from rankray.loss.ranking import FAR_BELOW
from rankray.loss.rows import Readings, RowReader
from rankray.loss.tokens import ALL_STATS, TokenStats

TOP_K = 20
"""How many of the most probable tokens EAFT's entropy looks at."""

CHUNK_TOKENS = 256


@torch.no_grad()
def token_stats(logits_NV: Tensor, target_N: Tensor, exact_ranks: bool = False) -> TokenStats:
    """Return the statistics of every row of `logits_NV` about its target, all stop-gradient.

    Same values as, with `p = softmax(logits_NV, -1)` and `p_t = p[range(N), target_N]`:

        log_prob_N          log(p_t)                                    nats
        entropy_bits_N      -(p * log2(p)).sum(-1), 0 log 0 = 0         bits
        rank_N              (p >= p_t[:, None]).sum(-1)                 from 1, ties count against the target
        expected_rank_N     (sort(p, descending) * arange(1, V + 1)).sum(-1)
        max_prob_N          p.amax(-1)
        prob_square_sum_N   (p * p).sum(-1)
        top_entropy_nats_N  -(q * log(q)).sum(-1), q the 20 largest of p renormalised (all of p where V < 20)   nats

    without further (N, V) tensors. A row that holds a NaN or a +inf gives NaN; -inf is a token of probability 0.

    Args:
        logits_NV: unnormalised log-probabilities, any floating dtype; not modified.
        target_N: index of the true token of each row, in [0, V); no -100 here.
        exact_ranks: sort for the expected rank even where counting is within `ranking.TOLERANCE` of it.

    Raises:
        LossError: the shapes do not match, or a target is no integer, or no index into the vocabulary.

    Source: arXiv:2602.01745 (p_t, H, R, E[R]); arXiv:2601.02151 (the top-20 entropy).

    >>> import torch, rankray
    >>> stats = rankray.token_stats(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1]))
    >>> int(stats.rank_N), round(float(stats.log_prob_N.exp()), 3)
    (2, 0.245)
    """
    if logits_NV.dim() != 2 or target_N.shape != logits_NV.shape[:1]:
        raise LossError(
            f"token_stats: logits of shape {tuple(logits_NV.shape)} with targets of shape {tuple(target_N.shape)};"
            " logits (N, V) go with targets (N,); flatten batch and time first"
        )
    check_integers("token_stats: target_N", target_N, "the true token of each row")
    check_targets("token_stats", target_N, logits_NV.shape[1], may_ignore=False)
    target_N = target_N.long()
    dtype = stats_dtype(logits_NV.dtype)
    if not len(target_N):
        empty_N = torch.empty(0, dtype=dtype, device=logits_NV.device)
        return TokenStats(*[empty_N] * 7)
    work_CV = torch.empty(min(len(target_N), CHUNK_TOKENS), logits_NV.shape[1], dtype=dtype, device=logits_NV.device)
    read = ChunkReader(work_CV, ALL_STATS, exact_ranks, from_16_bits=logits_NV.dtype.itemsize == 2)
    parts = [
        read(work_CV[: len(target_C)].copy_(logits_CV), target_C)[0]
        for logits_CV, target_C in zip(
            torch.split(logits_NV, CHUNK_TOKENS), torch.split(target_N, CHUNK_TOKENS), strict=True
        )
    ]
    return cat_stats(parts)


class ChunkReader:
    """Computes the statistics of chunks; on a CPU it makes no (C, V) tensor beside the one it is given.

    Args:
        like_CV: a chunk of the largest size that it will get, on its device, float32 or float64.
        wanted: names of the fields of `TokenStats` to compute, a subset of `ALL_STATS`.
        exact_ranks: see `token_stats`.
        from_16_bits: the logits will be numbers of 16 bits.
    """

    def __init__(
        self, like_CV: Tensor, wanted: frozenset[str], exact_ranks: bool = False, from_16_bits: bool = False
    ) -> None:
        self.wanted = wanted
        self.read: Callable[[Tensor, Tensor], Readings] = (
            RowReader(like_CV, wanted, exact_ranks, from_16_bits)
            if like_CV.device.type == "cpu"
            else partial(_read_chunk, wanted=wanted)
        )

    def __call__(self, logits_CV: Tensor, target_C: Tensor) -> tuple[TokenStats, Tensor]:
        """Return the statistics, and a bool (C,): `logits_CV.argmax(-1) == target_C`.

        Args:
            logits_CV: contiguous; overwritten with softmax(logits_CV).
            target_C: index of the true token.
        """
        found = self.read(logits_CV, target_C)
        entropy_bits_C = found.entropy_nats_C.clamp(min=0.0) / math.log(2.0)
        top_entropy_C = _top_entropy_nats(logits_CV) if "top_entropy_nats_N" in self.wanted else None
        stats = TokenStats(
            found.log_prob_C,
            entropy_bits_C,
            found.rank_C,
            found.expected_rank_C,
            top_entropy_C,
            found.max_prob_C,
            found.prob_square_sum_C if "prob_square_sum_N" in self.wanted else None,
        )
        return stats, found.correct_C == 1.0


def _read_chunk(logits_CV: Tensor, target_C: Tensor, wanted: frozenset[str]) -> Readings:
    """Do what a `RowReader` does, with torch alone and all rows at once; it always sorts for the expected rank."""
    target_C1 = target_C.unsqueeze(1)
    top_C1 = logits_CV.argmax(-1, keepdim=True)
    target_logit_C1, top_logit_C1 = logits_CV.gather(1, target_C1), logits_CV.gather(1, top_C1)
    rank_C = entropy_C = expected_C = square_C = torch.full_like(target_logit_C1[:, 0], math.nan)
    if "rank_N" in wanted:
        rank_C = (logits_CV >= target_logit_C1).sum(-1).clamp_(min=1).to(logits_CV.dtype)
    prob_CV = logits_CV.softmax(-1)
    max_prob_C1 = prob_CV.gather(1, top_C1)
    log_norm_C1 = -max_prob_C1.log()
    if "entropy_bits_N" in wanted:
        logits_CV.sub_(top_logit_C1).clamp_(min=FAR_BELOW)
        entropy_C = log_norm_C1.squeeze(1) - torch.linalg.vecdot(prob_CV, logits_CV)
    logits_CV.copy_(prob_CV)
    if "expected_rank_N" in wanted:
        ranks_V = torch.arange(prob_CV.shape[1], 0, -1, dtype=prob_CV.dtype, device=prob_CV.device)
        expected_C = prob_CV.sort(-1).values.mul_(ranks_V).sum(-1)
    if "prob_square_sum_N" in wanted:
        square_C = torch.linalg.vecdot(prob_CV, prob_CV)
    log_prob_C1 = target_logit_C1 - top_logit_C1 - log_norm_C1
    correct_C1 = (top_C1 == target_C1).to(logits_CV.dtype)
    columns = (log_prob_C1.squeeze(1), entropy_C, rank_C, expected_C, max_prob_C1.squeeze(1), correct_C1.squeeze(1))
    return Readings(*columns, square_C)


def cat_stats(parts: list[TokenStats]) -> TokenStats:
    """Join the statistics of consecutive chunks."""
    columns = zip(*parts, strict=True)
    return TokenStats(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]


def stats_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype statistics and weights are computed in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_targets(where: str, target_N: Tensor, vocabulary: int, may_ignore: bool = True) -> None:
    """Raise LossError where a target is no index into the vocabulary.

    Args:
        where: how the message begins.
        target_N: without those that are ignored.
        vocabulary: how many tokens there are.
        may_ignore: whether the caller takes -100, too.
    """
    if not len(target_N):
        return
    least, most = torch.stack(torch.aminmax(target_N)).tolist()  # a GPU is waited for once
    if least < 0 or most >= vocabulary:
        ignored = ", and -100 for tokens to ignore" if may_ignore else ""
        todo = "" if may_ignore else "leave out tokens to ignore, and "
        raise LossError(
            f"{where}: labels from {least} to {most}; allowed are 0 to {vocabulary - 1}, the rows of the head{ignored};"
            f" {todo}check that the tokenizer belongs to the model"
        )


def _top_entropy_nats(prob_CV: Tensor) -> Tensor:
    top_CK = prob_CV.topk(min(TOP_K, prob_CV.shape[1]), dim=-1).values
    top_CK = top_CK / top_CK.sum(-1, keepdim=True)
    entropy_C: Tensor = torch.special.entr(top_CK).sum(-1)
    return entropy_C
