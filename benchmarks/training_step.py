"""Whole training steps, `rri` beside `sft`: forward, weighted loss, backward, optimizer.

Two models: stories260K (from RANKRAY_TEST_ASSETS, default `../shared`; skipped if it is missing) and a randomly
initialised Llama of 25 million weights with V = 32,000. Steps of the objectives are interleaved, each round starts with
another one, and the median of the ratios within a round is printed. A second model that trains with `sft` shows how
much of a ratio is chance.

    python benchmarks/training_step.py --rounds 15
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rankray.loss import weighted_nll
from rankray.model.head import HeadInputs, attach_head

ASSETS = Path(os.environ.get("RANKRAY_TEST_ASSETS", Path(__file__).resolve().parents[2] / "shared"))
OBJECTIVES: dict[str, dict[str, Any]] = {
    "sft": {"objective": "sft"},
    "sft again": {"objective": "sft"},
    "rri bound": {"objective": "rri", "form": "bound"},
    "rri exact": {"objective": "rri", "form": "exact"},
}


def stories() -> Any:
    return AutoModelForCausalLM.from_pretrained(ASSETS / "models" / "stories260K", dtype=torch.float32)


def llama() -> Any:
    """25 million weights: 16.4 in the tied embedding, 8.9 in eight layers."""
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32_000, tie_word_embeddings=True, **shape, **heads))


def stepper(model: Any, ids_BT: torch.Tensor, options: dict[str, Any]) -> Callable[[], None]:
    """Return a function that does one optimizer step, always on the same batch."""
    attach_head(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def loss_of(given: HeadInputs) -> torch.Tensor:
        return weighted_nll(given.hidden_NH, given.head.weight_VH, given.label_N, **given.head.options, **options)

    def step() -> None:
        model(input_ids=ids_BT, labels=ids_BT, head=loss_of).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Print milliseconds a step and the ratio to sft."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall time")
    args = parser.parse_args()
    clock = time.process_time if args.cpu else time.perf_counter
    models = {"llama, V 32,000": llama}
    if (ASSETS / "models" / "stories260K").is_dir():
        models = {"stories260K": stories, **models}
    for name, make in models.items():
        steps = {}
        for objective, options in OBJECTIVES.items():
            torch.manual_seed(0)
            model = make()
            ids_BT = torch.randint(3, model.config.vocab_size, (args.sequences, args.length))
            steps[objective] = stepper(model, ids_BT, options)
        weights = sum(weight.numel() for weight in model.parameters())
        seconds: dict[str, list[float]] = {objective: [] for objective in steps}
        for number in range(args.rounds + 1):
            order = list(steps)
            for objective in order[number % len(order) :] + order[: number % len(order)]:
                start = clock()
                steps[objective]()
                if number:
                    seconds[objective].append(clock() - start)
        print(
            f"\n{name}: {weights / 1e6:.2f} million weights, {args.sequences} x {args.length} tokens,"
            f" {torch.get_num_threads()} threads, median of {args.rounds} interleaved steps"
        )
        for objective, taken in seconds.items():
            ratio = statistics.median(mine / base for mine, base in zip(taken, seconds["sft"], strict=True))
            print(f"{objective:12s} {statistics.median(taken) * 1e3:9.1f} ms {ratio:6.3f} x sft", flush=True)


if __name__ == "__main__":
    main()
