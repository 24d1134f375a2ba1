"""What TRL is given of a configuration."""

from __future__ import annotations

import pytest
from transformers import set_seed

from rankray.config import config_from
from rankray.finetune.arguments import sft_arguments


@pytest.mark.parametrize(("seed", "taken"), [(7, 7), (2**32 - 1, 2**32 - 1), (2**32 + 3, 3), (10**20, 10**20 % 2**32)])
def test_a_seed_of_any_size_can_be_trained_with(tree, tmp_path, seed, taken):
    """numpy refuses seeds from 2^32 on, and every trial of a search ended in its error."""
    arguments = sft_arguments(config_from(tree(train__seed=seed)), seed, str(tmp_path))
    assert (arguments.seed, arguments.data_seed) == (taken, taken)
    set_seed(arguments.seed)
