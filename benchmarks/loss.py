"""What the weighted loss costs beside the work that no head can avoid.

The floor is the three matrix products of a head's forward and backward, chunk by chunk. Every contender computes the
loss and the gradients of hidden states and head once per round; rounds are interleaved, so that a busy moment hits all
of them, and medians are compared.

    python benchmarks/loss.py --tokens 1024 --hidden 512 --vocabulary 32000 --rounds 7
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rankray.loss import weighted_nll

CHUNK = 256


def three_products(hidden_NH: Tensor, head_VH: Tensor) -> None:
    """Logits, gradient of the hidden states, gradient of the head: nothing else."""
    with torch.no_grad():
        logits_CV = torch.empty(CHUNK, len(head_VH), dtype=hidden_NH.dtype)
        grad_VH = torch.zeros_like(head_VH)
        grad_NH = torch.empty_like(hidden_NH)
        for start in range(0, len(hidden_NH), CHUNK):
            hidden_CH = hidden_NH[start : start + CHUNK]
            chunk_CV = logits_CV[: len(hidden_CH)]
            torch.mm(hidden_CH, head_VH.t(), out=chunk_CV)
            torch.mm(chunk_CV, head_VH, out=grad_NH[start : start + CHUNK])
            grad_VH.addmm_(chunk_CV.t(), hidden_CH)


def with_gradients(loss: Callable[[Tensor, Tensor], Tensor], hidden_NH: Tensor, head_VH: Tensor) -> None:
    """Forward and backward, leaving no gradient behind."""
    torch.autograd.grad(loss(hidden_NH, head_VH), [hidden_NH, head_VH])


def contenders(label_N: Tensor, with_chunked: bool) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Every loss by name."""

    def ours(**options: object) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda hidden_NH, head_VH: weighted_nll(hidden_NH, head_VH, label_N, **options)

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "rankray rri bound": ours(objective="rri", form="bound"),
        "rankray rri exact": ours(objective="rri", form="exact"),
        "rankray sft": ours(objective="sft"),
        "rankray eaft": ours(objective="eaft"),
        "linear + cross_entropy": lambda hidden_NH, head_VH: functional.cross_entropy(hidden_NH @ head_VH.t(), label_N),
    }
    fused = getattr(functional, "linear_cross_entropy", None)
    if fused is not None:
        losses["linear_cross_entropy"] = lambda hidden_NH, head_VH: fused(hidden_NH, head_VH, label_N)
    if fused is not None and with_chunked:
        options = torch.nn.LinearCrossEntropyOptions()
        losses["linear_cross_entropy chunked"] = lambda hidden_NH, head_VH: fused(
            hidden_NH, head_VH, label_N, options=options
        )
    return losses


def measure(rounds: int, runs: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Wall seconds of every contender in every round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Print milliseconds and the ratio to the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float64"], default="float32")
    parser.add_argument("--sharpness", type=float, default=1.0, help="standard deviation of the logits")
    parser.add_argument(
        "--with-chunked", action="store_true", help="also torch's own chunked head, several times slower"
    )
    args = parser.parse_args()

    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    hidden_NH = torch.randn(args.tokens, args.hidden).to(dtype).requires_grad_()
    head_VH = (torch.randn(args.vocabulary, args.hidden) * args.sharpness / args.hidden**0.5).to(dtype).requires_grad_()
    label_N = torch.randint(0, args.vocabulary, (args.tokens,))

    runs: dict[str, Callable[[], None]] = {"floor: three products": lambda: three_products(hidden_NH, head_VH)}
    for name, loss in contenders(label_N, args.with_chunked).items():
        runs[name] = lambda loss=loss: with_gradients(loss, hidden_NH, head_VH)  # type: ignore[misc]
    seconds = measure(args.rounds, runs)
    floor = statistics.median(seconds["floor: three products"])
    print(
        f"tokens {args.tokens}, hidden {args.hidden}, vocabulary {args.vocabulary}, {args.dtype},"
        f" {torch.get_num_threads()} threads, median of {args.rounds} interleaved rounds"
    )
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"{name:30s} {middle * 1e3:9.1f} ms   {middle / floor:5.2f} x floor   (best {min(taken) * 1e3:.1f} ms)")


if __name__ == "__main__":
    main()
