"""How many tokens' logits are held at a time."""

import pytest
import torch

from rankray.loss import chunks
from rankray.loss.chunks import choose_chunk_tokens

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
VOCABULARY, BYTES = 1000, 4


def test_the_chunk_is_about_256_and_shrinks_with_the_vocabulary():
    assert choose_chunk_tokens(32_000, 8, CPU) <= 256
    assert choose_chunk_tokens(100, 8, CPU) == 256
    assert choose_chunk_tokens(10**9, 8, CPU) == 16


@pytest.mark.parametrize(
    ("fitting", "device", "chosen"),
    [
        (0.5, CPU, 16), (15, CPU, 16), (31, CPU, 16), (32, CPU, 32), (100, CPU, 96), (256, CPU, 256), (5000, CPU, 256),
        (3, CUDA, 16), (300, CUDA, 288), (2047, CUDA, 2032), (2048, CUDA, 2048), (10**6, CUDA, 2048),
    ],
)  # fmt: skip
def test_a_64th_of_the_memory_is_taken_in_multiples_of_16(fitting, device, chosen, monkeypatch):
    monkeypatch.setattr(chunks, "_memory_bytes", lambda _: int(64 * VOCABULARY * BYTES * fitting))
    assert choose_chunk_tokens(VOCABULARY, BYTES, device) == chosen


def test_where_the_system_does_not_say_8_gib_are_assumed(monkeypatch):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    fitting = 8 * 2**30 // 64 // (10**6 * BYTES)
    monkeypatch.setattr(chunks.os, "sysconf", unknown)
    assert choose_chunk_tokens(10**6, BYTES, CPU) == fitting // 16 * 16 == 32
