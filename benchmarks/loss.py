"""What the weighted loss costs beside the work that no head can avoid.

The floor is the three matrix products of a head's forward and backward, chunk by chunk. Every contender computes the
loss and the gradients of hidden states and head once per round; rounds are interleaved, so that a busy moment hits all
of them, and medians are compared. Peak memory is that above the inputs, on a CPU each contender in a fresh process:
gradients included, which alone take `(N + V) * H * 4` bytes, or half of it in 16 bits.

    python benchmarks/loss.py                      the table: V = 32,000 and 151,936, N = 2,048, H = 512, float32
    python benchmarks/loss.py --quick              a minute: V = 32,000, N = 512, three rounds
    python benchmarks/loss.py --only rankray --cpu CPU time, for a machine that others use too
    python benchmarks/loss.py --device cuda        on a GPU: N = 8,192, H = 2,048 and 4,096, bfloat16, beside Liger

Liger's fused linear cross-entropy is left out where `liger_kernel` is not installed, `torch.compile` on a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rankray.loss import Anchor, TokenStats, weighted_nll

CHUNK, GPU_CHUNK = 256, 2048
"""Tokens at a time, as rankray takes them, on a CPU and on a GPU."""
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Contender = Callable[[Tensor, Tensor, Tensor], None]


def three_products(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> None:
    """Logits, gradient of the hidden states, gradient of the head: nothing else."""
    size = GPU_CHUNK if head_VH.device.type == "cuda" else CHUNK
    with torch.no_grad():
        logits_CV = torch.empty(size, len(head_VH), dtype=hidden_NH.dtype, device=head_VH.device)
        grad_VH = torch.zeros_like(head_VH)
        grad_NH = torch.empty_like(hidden_NH)
        for start in range(0, len(hidden_NH), size):
            hidden_CH = hidden_NH[start : start + size]
            chunk_CV = logits_CV[: len(hidden_CH)]
            torch.mm(hidden_CH, head_VH.t(), out=chunk_CV)
            torch.mm(chunk_CV, head_VH, out=grad_NH[start : start + size])
            grad_VH.addmm_(chunk_CV.t(), hidden_CH)


def with_gradients(loss: Loss) -> Contender:
    """Forward and backward, leaving no gradient behind."""

    def run(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> None:
        torch.autograd.grad(loss(hidden_NH, head_VH, label_N), [hidden_NH, head_VH])

    return run


def ours(**options: object) -> Contender:
    """A loss of rankray."""
    return with_gradients(lambda hidden_NH, head_VH, label_N: weighted_nll(hidden_NH, head_VH, label_N, **options))


def base_stats(label_N: Tensor) -> TokenStats:
    """Made-up statistics of a base model: looking them up costs the same whatever they are."""
    column_N = torch.ones(len(label_N), device=label_N.device)
    return TokenStats(-column_N, 2 * column_N, 3 * column_N, 2 * column_N, column_N, 0.4 * column_N, 0.2 * column_N)


def iw_sft(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> Tensor:
    """Sequences of 64 tokens; costs a first pass of the head without gradients."""
    sequence_N = torch.arange(len(label_N), device=label_N.device) // 64
    stats = base_stats(label_N)
    return weighted_nll(hidden_NH, head_VH, label_N, objective="iw_sft", base_stats=stats, sequence_N=sequence_N)


def based(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> Tensor:
    """rri, weighted by the statistics of a base model."""
    return weighted_nll(hidden_NH, head_VH, label_N, objective="rri", signal="base", base_stats=base_stats(label_N))


def anchored(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> Tensor:
    """Plain, with the divergence from a reference model: a fourth product."""
    anchor = Anchor(hidden_NH.detach(), head_VH.detach())
    return weighted_nll(hidden_NH, head_VH, label_N, objective="sft", kl_weight=0.1, anchor=anchor)


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


def liger(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> Tensor:
    """Liger's fused linear cross-entropy."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(head_VH, hidden_NH, label_N)


def compiled(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor) -> Tensor:
    """All the logits at once, through `torch.compile`."""
    return torch.compile(plain)(hidden_NH, head_VH, label_N)


CONTENDERS: dict[str, Contender] = {
    "floor: three products": three_products,
    "rankray sft": ours(objective="sft"),
    "rankray rri bound": ours(objective="rri", form="bound"),
    "rankray rri exact": ours(objective="rri", form="exact"),
    "rankray rri sorted": ours(objective="rri", form="exact", exact_ranks=True),
    "rankray dft": ours(objective="dft"),
    "rankray talr": ours(objective="talr", talr_temperature=3.0),
    "rankray eaft": ours(objective="eaft"),
    "rankray power": ours(objective="power", alpha=0.5),
    "rankray threshold": ours(objective="threshold"),
    "rankray deft": ours(objective="deft"),
    "rankray iw_sft": with_gradients(iw_sft),
    "rankray rri, signal base": with_gradients(based),
    "rankray sft + kl": with_gradients(anchored),
    "linear_cross_entropy 256": with_gradients(torch_chunked),
    "linear + cross_entropy": with_gradients(plain),
    "checkpointed chunks": with_gradients(checkpointed),
    "trl fused head": with_gradients(trl_fused),
    "liger fused": with_gradients(liger),
    "torch.compile of the plain": with_gradients(compiled),
}
FLOOR = "floor: three products"


def available(args: argparse.Namespace) -> dict[str, Contender]:
    """The contenders that were asked for and can run here."""
    wanted = args.only or [""]
    found = {name: run for name, run in CONTENDERS.items() if name == FLOOR or any(part in name for part in wanted)}
    absent = {
        "linear_cross_entropy 256": not hasattr(torch.nn, "LinearCrossEntropyOptions"),
        "trl fused head": find_spec("trl") is None,
        "liger fused": args.device == "cpu" or find_spec("liger_kernel") is None,
        "torch.compile of the plain": args.device == "cpu",
    }
    return {name: run for name, run in found.items() if not absent.get(name, False)}


def inputs(args: argparse.Namespace, hidden: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and labels; the logits' standard deviation is `--sharpness`."""
    torch.manual_seed(0)
    place = {"dtype": getattr(torch, args.dtype), "device": args.device}
    hidden_NH = torch.randn(args.tokens, hidden).to(**place).requires_grad_()
    head_VH = (torch.randn(vocabulary, hidden) * args.sharpness / hidden**0.5).to(**place).requires_grad_()
    return hidden_NH, head_VH, torch.randint(0, vocabulary, (args.tokens,)).to(args.device)


def seconds_of(args: argparse.Namespace, run: Contender, given: tuple[Tensor, Tensor, Tensor]) -> float:
    """Seconds of one call, until the device is done."""
    clock = time.process_time if args.cpu else time.perf_counter
    start = clock()
    run(*given)
    if args.device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def times(args: argparse.Namespace, hidden: int, vocabulary: int, runs: dict[str, Contender]) -> dict[str, list[float]]:
    """Seconds of every contender in every round, after one round to warm up; each round starts with another one."""
    given = inputs(args, hidden, vocabulary)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(args.rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken = seconds_of(args, runs[name], given)
            if number:
                seconds[name].append(taken)
    return seconds


def resident_bytes(field: str) -> int:
    """`VmHWM` (the peak) or `VmRSS` of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def peak_bytes(args: argparse.Namespace, name: str) -> int:
    """Peak memory above the inputs, in this process, which should have done nothing else."""
    run = CONTENDERS[name]
    small = torch.randn(8, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True), torch.arange(8)
    run(*small)  # libraries are loaded, threads started
    given = inputs(args, args.hidden[0], args.vocabulary[0])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident_bytes("VmRSS")
    run(*given)
    return resident_bytes("VmHWM") - before


def allocated_bytes(given: tuple[Tensor, Tensor, Tensor], run: Contender) -> int:
    """Peak memory on a GPU above the inputs. The allocator's own count, so it needs no fresh process."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(*given)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peaks(args: argparse.Namespace, hidden: int, vocabulary: int, runs: dict[str, Contender]) -> dict[str, int]:
    """Peak memory of every contender, on a CPU each in a fresh process."""
    if args.device == "cuda":
        given = inputs(args, hidden, vocabulary)
        return {name: allocated_bytes(given, run) for name, run in runs.items()}
    found = {}
    shape = ["--vocabulary", str(vocabulary), "--hidden", str(hidden), "--tokens", str(args.tokens)]
    for name in runs:
        command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", name, *shape]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = int(json.loads(done.stdout.splitlines()[-1]))
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tokens", type=int, default=None, help="2,048; on a GPU 8,192")
    parser.add_argument("--hidden", type=int, nargs="+", default=None, help="512; on a GPU 2,048 and 4,096")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 151_936])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "float64"], default=None)
    parser.add_argument("--sharpness", type=float, default=1.0, help="standard deviation of the logits")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", nargs="+", default=[], help="parts of the contenders' names")
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall time")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    is_gpu = args.device == "cuda"
    args.tokens = args.tokens or (8192 if is_gpu else 2048)
    args.hidden = args.hidden or ([2048, 4096] if is_gpu else [512])
    args.dtype = args.dtype or ("bfloat16" if is_gpu else "float32")
    if args.quick and not args.peak_of:
        args.tokens, args.rounds = 512, 3
        args.vocabulary = args.vocabulary[:1]
    return args


def main() -> None:
    """Print milliseconds, the ratio to the floor and MiB."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak_of:
        print(json.dumps(peak_bytes(args, args.peak_of)))
        return
    runs = available(args)
    for hidden, vocabulary in itertools.product(args.hidden, args.vocabulary):
        print(
            f"\nV {vocabulary}, N {args.tokens}, H {hidden}, {args.dtype}, {args.device},"
            f" {torch.get_num_threads()} threads, median {'CPU' if args.cpu else 'wall'} time of {args.rounds}"
            f" interleaved rounds, torch {torch.__version__}"
        )
        seconds = times(args, hidden, vocabulary, runs)
        memory = {} if args.no_memory else peaks(args, hidden, vocabulary, runs)
        for name, taken in seconds.items():
            middle = statistics.median(taken)
            ratio = statistics.median(mine / floor for mine, floor in zip(taken, seconds[FLOOR], strict=True))
            mebibytes = f"{memory[name] / 2**20:8.0f} MiB" if name in memory else ""
            print(f"{name:28s} {middle * 1e3:9.1f} ms {ratio:6.2f} x floor {mebibytes}", flush=True)


if __name__ == "__main__":
    main()
