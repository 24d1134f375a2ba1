"""What the weighted loss costs beside the work that no head can avoid.

The floor is the three matrix products of a head's forward and backward, chunk by chunk. Every contender computes the
loss and the gradients of hidden states and head once per round; rounds are interleaved, so that a busy moment hits all
of them, and medians are compared. Peak memory is that above the inputs, each contender in a fresh process: gradients
included, which alone take `(N + V) * H * 4` bytes.

    python benchmarks/loss.py                      the table: V = 32,000 and 151,936, N = 2,048, H = 512, float32
    python benchmarks/loss.py --quick              a minute: V = 32,000, N = 512, three rounds
    python benchmarks/loss.py --only ours --cpu    CPU time, for a machine that others use too
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rankray.loss import weighted_nll

CHUNK = 256
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Contender = Callable[[Tensor, Tensor, Tensor], None]


def three_products(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> None:
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


def with_gradients(loss: Loss) -> Contender:
    """Forward and backward, leaving no gradient behind."""

    def run(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> None:
        torch.autograd.grad(loss(hidden_NH, head_VH, label_N), [hidden_NH, head_VH])

    return run


def ours(**options: object) -> Contender:
    """A loss of rankray."""
    return with_gradients(lambda hidden_NH, head_VH, label_N: weighted_nll(hidden_NH, head_VH, label_N, **options))


def torch_chunked(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> Tensor:
    """torch's `linear_cross_entropy` in chunks of 256 tokens."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK, chunking_method=None)
    return functional.linear_cross_entropy(hidden_NH, head_VH, label_N, options=options)


def plain(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> Tensor:
    """All the logits at once."""
    return functional.cross_entropy(hidden_NH @ head_VH.t(), label_N)


def checkpointed(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> Tensor:
    """Chunks of 256 tokens whose logits are made again in backward."""

    def part(hidden_CH: Tensor, label_C: Tensor) -> Tensor:
        return functional.cross_entropy(hidden_CH @ head_VH.t(), label_C, reduction="sum")

    pairs = zip(hidden_NH.split(CHUNK), label_N.split(CHUNK), strict=True)
    total = torch.stack([checkpoint(part, *pair, use_reentrant=False) for pair in pairs]).sum()
    return total / len(label_N)


def trl_fused(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> Tensor:
    """TRL's fused head, log-probabilities only."""
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as WIDTH
    from trl.trainer.utils import _ChunkedLogProbFunction

    found = _ChunkedLogProbFunction.apply(hidden_NH, head_VH, None, label_N, 1.0, WIDTH, None, 1.0, ("log_probs",))
    return -found[0].mean()


CONTENDERS: dict[str, Contender] = {
    "floor: three products": three_products,
    "rankray sft": ours(objective="sft"),
    "rankray rri bound": ours(objective="rri", form="bound"),
    "rankray rri exact": ours(objective="rri", form="exact"),
    "rankray rri exact, sorted": ours(objective="rri", form="exact", exact_ranks=True),
    "rankray eaft": ours(objective="eaft"),
    "linear_cross_entropy 256": with_gradients(torch_chunked),
    "linear + cross_entropy": with_gradients(plain),
    "checkpointed chunks": with_gradients(checkpointed),
    "trl fused head": with_gradients(trl_fused),
}
FLOOR = "floor: three products"


def available(only: str) -> dict[str, Contender]:
    """The contenders that can run here."""
    found = {name: run for name, run in CONTENDERS.items() if only in name or name == FLOOR}
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        found.pop("linear_cross_entropy 256", None)
    try:
        from trl.trainer.utils import _ChunkedLogProbFunction  # noqa: F401
    except ImportError:
        found.pop("trl fused head", None)
    return found


def inputs(args: argparse.Namespace, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and labels; the logits' standard deviation is `--sharpness`."""
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    hidden_NH = torch.randn(args.tokens, args.hidden).to(dtype).requires_grad_()
    head_VH = (torch.randn(vocabulary, args.hidden) * args.sharpness / args.hidden**0.5).to(dtype).requires_grad_()
    return hidden_NH, head_VH, torch.randint(0, vocabulary, (args.tokens,))


def times(args: argparse.Namespace, vocabulary: int, runs: dict[str, Contender]) -> dict[str, list[float]]:
    """Seconds of every contender in every round, after one round to warm up."""
    clock = time.process_time if args.cpu else time.perf_counter
    given = inputs(args, vocabulary)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds + 1):
        for name, run in runs.items():
            start = clock()
            run(*given)
            if number:
                seconds[name].append(clock() - start)
    return seconds


def resident_bytes(field: str) -> int:
    """`VmHWM` (the peak) or `VmRSS` of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def peak_bytes(args: argparse.Namespace, vocabulary: int, name: str) -> int:
    """Peak memory above the inputs, in this process, which should have done nothing else."""
    run = available("")[name]
    small = torch.randn(8, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True), torch.arange(8)
    run(*small)  # libraries are loaded, threads started
    given = inputs(args, vocabulary)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident_bytes("VmRSS")
    run(*given)
    return resident_bytes("VmHWM") - before


def peaks(args: argparse.Namespace, vocabulary: int, names: list[str]) -> dict[str, int]:
    """Peak memory of every contender, each in a fresh process."""
    found = {}
    for name in names:
        command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", name, "--vocabulary", str(vocabulary)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = int(json.loads(done.stdout.splitlines()[-1]))
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 151_936])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "float64"], default="float32")
    parser.add_argument("--sharpness", type=float, default=1.0, help="standard deviation of the logits")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", default="", help="a part of the contenders' names")
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall time")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.rounds = 512, 3
        args.vocabulary = args.vocabulary[:1]
    return args


def main() -> None:
    """Print milliseconds, the ratio to the floor and MiB."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak_of:
        print(json.dumps(peak_bytes(args, args.vocabulary[0], args.peak_of)))
        return
    runs = available(args.only)
    for vocabulary in args.vocabulary:
        print(
            f"\nV {vocabulary}, N {args.tokens}, H {args.hidden}, {args.dtype}, {torch.get_num_threads()} threads,"
            f" median {'CPU' if args.cpu else 'wall'} time of {args.rounds} interleaved rounds,"
            f" torch {torch.__version__}"
        )
        seconds = times(args, vocabulary, runs)
        memory = {} if args.no_memory else peaks(args, vocabulary, list(runs))
        floor = statistics.median(seconds[FLOOR])
        for name, taken in seconds.items():
            middle = statistics.median(taken)
            mebibytes = f"{memory[name] / 2**20:8.0f} MiB" if name in memory else ""
            print(f"{name:28s} {middle * 1e3:9.1f} ms {middle / floor:6.2f} x floor {mebibytes}", flush=True)


if __name__ == "__main__":
    main()
