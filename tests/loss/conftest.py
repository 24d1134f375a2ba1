"""What the loss tests share: batches, the naive computation in the same dtype, and how to compare with the truth.

The rule: against float64 truth, be no worse than twice the naive computation in the same dtype, plus one rounding of
the truth itself. No tolerance is chosen by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from rankray.loss import TokenStats, reference


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute with one thread: two threads on two busy cores spend their time waiting for each other."""
    torch.set_num_threads(1)


OBJECTIVES: list[tuple[str, dict[str, Any]]] = [
    ("rri", {}),
    ("rri", {"base": "one", "temperature": 2.5, "entropy_weight": 0.4}),
    ("rri", {"form": "exact"}),
    ("rri", {"form": "exact", "base": "one", "temperature": 0.5, "entropy_weight": 0.0}),
    ("rri", {"base": "one", "temperature": 0.25, "max_scale": 1.5}),
    ("sft", {}),
    ("dft", {}),
    ("talr", {"min_weight": 0.02}),
    ("talr", {"talr_temperature": 3.0}),
    ("eaft", {"alpha": 1.7}),
    ("power", {"alpha": 0.4}),
    ("threshold", {"q": 0.02}),
    ("deft", {}),
]


def objective_id(case: tuple[str, dict[str, Any]]) -> str:
    name, knobs = case
    return "-".join([name, *(f"{key}={value}" for key, value in knobs.items())])


@pytest.fixture(params=OBJECTIVES, ids=objective_id)
def objective(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Every objective and form, as keyword arguments."""
    name, knobs = request.param
    return {"objective": name, **knobs}


@dataclass
class Batch:
    hidden_NH: Tensor
    head_VH: Tensor
    bias_V: Tensor
    label_N: Tensor
    sequence_N: Tensor

    def leaves(self) -> list[Tensor]:
        return [self.hidden_NH, self.head_VH, self.bias_V]

    def widened(self) -> Batch:
        """Return the same numbers in float64, as separate leaves: gradients of the truth are not rounded."""
        leaves = [leaf.detach().double().requires_grad_() for leaf in self.leaves()]
        return Batch(*leaves, self.label_N, self.sequence_N)


def make_batch(
    tokens: int = 70, vocabulary: int = 211, hidden: int = 24, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Batch:
    """A batch in which the model is right about half the time, a fifth of the tokens is ignored."""
    generator = torch.Generator().manual_seed(seed)
    head_VH = torch.randn(vocabulary, hidden, generator=generator)
    label_N = torch.randint(0, vocabulary, (tokens,), generator=generator)
    hidden_NH = torch.randn(tokens, hidden, generator=generator) + 0.7 * head_VH[label_N]
    label_N[torch.rand(tokens, generator=generator) < 0.2] = -100
    return Batch(
        hidden_NH.to(dtype).requires_grad_(),
        head_VH.to(dtype).requires_grad_(),
        torch.randn(vocabulary, generator=generator).to(dtype).requires_grad_(),
        label_N,
        torch.arange(tokens) // 9,
    )


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    return make_batch


def naive_stats(logits_NV: Tensor, target_N: Tensor) -> TokenStats:
    """The definitions typed in directly, in the dtype of the logits."""
    log_prob_NV = logits_NV.detach().log_softmax(-1)
    prob_NV = log_prob_NV.exp()
    log_prob_N = log_prob_NV.gather(1, target_N[:, None])[:, 0]
    rank_N = (logits_NV >= logits_NV.gather(1, target_N[:, None])).sum(-1).to(logits_NV.dtype)
    sorted_NV = prob_NV.sort(-1, descending=True).values
    rank_V = torch.arange(1, logits_NV.shape[1] + 1, dtype=logits_NV.dtype)
    top_NK = sorted_NV[:, :20] / sorted_NV[:, :20].sum(-1, keepdim=True)
    return TokenStats(
        log_prob_N,
        torch.special.entr(prob_NV).sum(-1) / torch.log(torch.tensor(2.0, dtype=logits_NV.dtype)),
        rank_N,
        (sorted_NV * rank_V).sum(-1),
        torch.special.entr(top_NK).sum(-1),
        sorted_NV[:, 0],
        (prob_NV**2).sum(-1),
    )


def naive_weighted_nll(
    hidden_NH: Tensor,
    head_VH: Tensor,
    label_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    sequence_N: Tensor | None = None,
    **objective: Any,
) -> Tensor:
    """All the logits in the inputs' dtype, the rest in float32 (float64 for float64): what a trainer does by hand."""
    keep_N = label_N != -100
    logits_NV = linear(hidden_NH[keep_N], head_VH, bias_V) * logit_scale
    if logit_softcap is not None:
        logits_NV = logit_softcap * torch.tanh(logits_NV / logit_softcap)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    target_N = label_N[keep_N]
    sequence_N = None if sequence_N is None else sequence_N[keep_N]
    weight_N = reference.token_weights(naive_stats(logits_NV, target_N), sequence_N=sequence_N, **objective)
    nll_N = -logits_NV.log_softmax(-1).gather(1, target_N[:, None])[:, 0]
    return (weight_N * nll_N).sum() / keep_N.sum()


@pytest.fixture
def naive_loss() -> Callable[..., Tensor]:
    return naive_weighted_nll


@pytest.fixture
def naive_token_stats() -> Callable[..., TokenStats]:
    return naive_stats


def check_no_worse(ours: Tensor, naive: Tensor, truth: Tensor) -> None:
    """Compare the norm of our error with twice the naive one, plus one rounding of the truth in our dtype."""
    error = (ours.detach().double() - truth.detach().double()).norm()
    naive_error = (naive.detach().double() - truth.detach().double()).norm()
    rounding = torch.finfo(ours.dtype).eps * truth.detach().double().norm()
    assert error <= 2 * naive_error + rounding, f"error {error:.3g}, naive {naive_error:.3g}, rounding {rounding:.3g}"


@pytest.fixture
def no_worse() -> Callable[[Tensor, Tensor, Tensor], None]:
    return check_no_worse
