"""Which code computes a chunk: torch, or the kernels of `triton.py`; and whether a device does what it should.

`RANKRAY_LOSS` chooses: `auto` (the default) takes the kernels on CUDA after one small chunk there gave what torch
gives, `torch` never, `triton` always and without that check. Where `auto` falls back, the log says why.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import cache

import torch

from rankray.errors import LossError, nearest

logger = logging.getLogger(__name__)

VARIABLE = "RANKRAY_LOSS"
CHOICES = ("auto", "torch", "triton")


def on_triton(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether the kernels compute products of a dtype: on CUDA, or on a CPU under Triton's interpreter.

    Raises:
        LossError: RANKRAY_LOSS has an unknown value, or asks for kernels that cannot run here.
    """
    choice = os.environ.get(VARIABLE) or "auto"
    if choice not in CHOICES:
        allowed = ", ".join(CHOICES)
        raise LossError(f"{VARIABLE}: got {choice!r}{nearest(choice, CHOICES)}; allowed: {allowed}; correct it")
    is_interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    is_there = (device.type == "cuda" or is_interpreted) and importlib.util.find_spec("triton") is not None
    if choice == "triton" and not is_there:
        raise LossError(
            f"{VARIABLE}: triton on {device.type}, where it is not installed or cannot run; allowed here: auto, torch; "
            "install triton on a machine with a GPU, or set another"
        )
    if choice == "torch" or not is_there or dtype == torch.float64:
        return False
    return choice == "triton" or not kernel_problem(device, dtype)


@cache
def kernel_problem(device: torch.device, dtype: torch.dtype) -> str:
    """Compare one small chunk on a device with the torch path, once; return what is wrong, or an empty string."""
    try:
        problem = _compared(device, dtype)
    except Exception as error:
        problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if problem:
        logger.debug("the kernels are not used for %s on %s: %s", dtype, device, problem)
    return problem


def _compared(device: torch.device, dtype: torch.dtype) -> str:
    from rankray.loss.stats import ChunkReader
    from rankray.loss.tokens import ALL_STATS
    from rankray.loss.triton import chunk_pass

    generator = torch.Generator().manual_seed(0)
    product_CV = (3 * torch.randn(8, 777, generator=generator)).to(device=device, dtype=dtype)
    product_CV[0, 5] = product_CV[0, 9]  # a tie
    label_C = torch.arange(5, 13, device=device)
    truth_CV = product_CV.to(torch.float32, copy=True)
    truth, correct_C = ChunkReader(truth_CV, ALL_STATS, exact_ranks=True)(truth_CV, label_C)
    truth_CV.scatter_add_(1, label_C[:, None], -torch.ones_like(label_C[:, None], dtype=truth_CV.dtype))
    found, is_greedy_C = chunk_pass(
        product_CV, label_C, ALL_STATS, scale=1.0, softcap=None, exact_ranks=False, wants_gradient=True
    )
    if not torch.equal(correct_C, is_greedy_C) or not torch.equal(found.rank_N, truth.rank_N):
        return "another rank or greedy choice than torch's"
    columns = zip(found, truth, strict=True)
    worst = max(float(((a - b).abs() / (1 + b.abs())).max()) for a, b in columns if a is not None and b is not None)
    if not worst <= 2e-3:
        return f"statistics that differ from torch's by {worst:.2g}"
    worst = float((product_CV.float() - truth_CV).abs().max())
    return "" if worst <= 4 * torch.finfo(dtype).eps + 1e-6 else f"a gradient that differs from torch's by {worst:.2g}"


@cache
def wide_product_problem(device: torch.device, dtype: torch.dtype) -> str:
    """Add a 16-bit product to float32, twice it in float16, without rounding in between; return what is wrong."""
    unit = 2.0 if dtype == torch.float16 else 1.0  # `gradients.narrowed` has one in float16 alone
    try:
        ones = torch.full((16, 16), 1.0 + 2**-6, device=device).to(dtype)
        total = torch.full((16, 16), 0.5, device=device)
        torch.addmm(total, ones, ones, out_dtype=total.dtype, alpha=unit, out=total)
        worst = float((total - (0.5 + unit * (ones.float() @ ones.float()))).abs().max())
        problem = "" if worst < 1e-3 else f"off by {worst:.2g}"
    except Exception as error:
        problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if problem:
        logger.debug("addmm(out_dtype=) is not used for %s on %s: %s", dtype, device, problem)
    return problem
