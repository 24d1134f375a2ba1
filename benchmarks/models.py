"""The loss of every architecture against full logits: the largest relative error of each, over objectives and adapters.

    python benchmarks/models.py [FAMILY ...]

Models are tiny and random; the truth is the same model in float64 with all of its logits.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests"), str(Path(__file__).resolve().parent.parent)]

import torch  # noqa: E402
from fixtures.families import FAMILIES, SETTINGS, errors  # noqa: E402


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # two threads wait for each other longer than these models compute
    print(f"{'architecture':<16}{'loss, full':>12}{'loss, LoRA':>12}{'grad, full':>12}{'grad, LoRA':>12}   full logits")
    worst = 0.0
    for family in sys.argv[1:] or FAMILIES:
        found = {lora: errors(family, lora, list(SETTINGS)).values() for lora in (False, True)}
        ours = [max(each[part] for each in found[lora]) for part in (0, 1) for lora in (False, True)]
        naive = max(max(each[2:]) for lora in found for each in found[lora])
        worst = max(worst, *ours)
        print(f"{family:<16}" + "".join(f"{error:12.1e}" for error in ours) + f"{naive:14.1e}", flush=True)
    print(f"largest relative error: {worst:.1e}, over {', '.join(SETTINGS)}")


if __name__ == "__main__":
    main()
