"""How many tokens' logits are held at a time."""

import torch

from rankray.loss.chunks import choose_chunk_tokens


def test_the_chunk_is_about_256_and_shrinks_with_the_vocabulary():
    cpu = torch.device("cpu")
    assert choose_chunk_tokens(32_000, 8, cpu) <= 256
    assert choose_chunk_tokens(100, 8, cpu) == 256
    assert choose_chunk_tokens(10**9, 8, cpu) == 16
