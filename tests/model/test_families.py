"""Whole: architectures x objectives x (all weights, adapters): loss and gradients equal those of full logits."""

import pytest
from fixtures.families import FAMILIES, SETTINGS, errors

QUICK = ("llama", "gemma2", "gpt2", "opt", "granite", "cohere", "mamba", "mixtral", "bloom", "gemma3")
"""One of each kind: plain, softcap, tied, projected, scaled, without attention, with experts, multimodal."""
EPSILON = 2.0**-23
SLACK = 4
"""Our error may be this many times that of the same loss by full float32 logits, or of float32 itself."""


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_loss_and_gradients_are_those_of_full_logits(family, lora):
    names = ["rri", "talr"] if family in QUICK else list(SETTINGS)
    for name, (loss, gradient, naive_loss, naive_gradient) in errors(family, lora, names).items():
        assert loss <= SLACK * max(naive_loss, 8 * EPSILON), name
        assert gradient <= SLACK * max(naive_gradient, 8 * EPSILON), name
