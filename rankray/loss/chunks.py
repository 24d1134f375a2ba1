"""How many tokens' logits the chunked pass holds at a time."""

from __future__ import annotations

import os

import torch

from rankray.loss.stats import CHUNK_TOKENS

GPU_CHUNK_TOKENS = 2048


def choose_chunk_tokens(vocabulary: int, bytes_per_logit: int, device: torch.device) -> int:
    """How many tokens' logits to hold at a time: 256 on a CPU, 2,048 on a GPU, or fewer if they would take over 1/64 of
    the device's memory. Each chunk reads and writes the whole gradient of the head, which is what costs a GPU time.

    It depends on the size of the memory, not on how much is free: a resumed run must use the chunks of the first one,
    or its sums would differ in the last bit.
    """
    budget_bytes = _memory_bytes(device) // 64
    fitting = budget_bytes // max(1, vocabulary * bytes_per_logit)
    return max(16, min(GPU_CHUNK_TOKENS if device.type == "cuda" else CHUNK_TOKENS, fitting // 16 * 16))


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
