"""Answers per second beside plain `model.generate`, and the share of a trial that is spent evaluating.

python benchmarks/evaluate.py --directory DIR                     the quickstart's world, made there once
python benchmarks/evaluate.py --assets SHARED                     stories260K on GSM8K, as in the README's example
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from rankray.config import Config, load_config
from rankray.contracts import Report, TrialSpec, Verdict
from rankray.evaluate.generate import generate_texts
from rankray.finetune import run
from rankray.model.resident import fresh_model, split_of, tokenizer_of


class Silent:
    """A reporter that lets a trial run to its end."""

    def report(self, report: Report) -> Verdict:
        """Continue."""
        return Verdict(stop=False)


def quickstart(directory: Path) -> Config:
    from rankray.quickstart.build import build_world

    return load_config(build_world(directory, progress=print)).config


def gsm8k(assets: Path) -> Config:
    return Config.model_validate(
        {
            "name": "gsm8k",
            "model": {"path": str(assets / "models" / "stories260K")},
            "data": {
                "train": str(assets / "data" / "gsm8k" / "train.jsonl"),
                "eval": str(assets / "data" / "gsm8k" / "test.jsonl"),
                "prompt": "{question}\n",
                "completion": "{answer}",
                "max_length": 512,
            },
            "train": {"max_steps": 50, "batch_size": 64, "micro_batch_size": 8},
            "evaluate": {
                "every_steps": 25,
                "metrics": ["nll", "accuracy"],
                "rungs": {"answers": 32},
                "max_examples": 100,
            },
        }
    )


def plainly(model: Any, tokenizer: Any, prompts: list[list[int]], config: Config) -> int:
    """Answer with `model.generate`, in the order of the data; return how many new tokens there are."""
    tokens, size = 0, config.evaluate.batch_size
    end = tokenizer.eos_token_id
    for begin in range(0, len(prompts), size):
        batch = prompts[begin : begin + size]
        width = max(map(len, batch))
        ids = torch.tensor([[tokenizer.pad_token_id or 0] * (width - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        settings = GenerationConfig(
            max_new_tokens=config.evaluate.max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=0
        )
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        tokens += out[:, width:].numel()
    return tokens


def seconds_of(call: Callable[[], Any]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


def speed(config: Config, rounds: int) -> None:
    """Print answers per CPU second of both ways, greedy, on the same prompts."""
    tokenizer, model = tokenizer_of(config), fresh_model(config).eval()
    data = split_of("eval", config, tokenizer)
    prompts = [list(each.input_ids[: each.start]) for each in data.tokens]
    options = {"batch_size": config.evaluate.batch_size, "max_new_tokens": config.evaluate.max_new_tokens}
    ours = lambda: generate_texts(model, tokenizer, prompts, **options)  # noqa: E731
    plain = lambda: plainly(model, tokenizer, prompts, config)  # noqa: E731
    found: dict[str, list[float]] = {"here": [], "model.generate": []}
    for _ in range(rounds):
        found["here"].append(seconds_of(ours))
        found["model.generate"].append(seconds_of(plain))
    for name, seconds in found.items():
        print(f"{name:>15}: {len(prompts) / statistics.median(seconds):7.1f} answers per CPU second, greedy")


def share(config: Config) -> None:
    """Print the share of a trial's CPU time that its evaluations take, step 0 left out."""
    module = importlib.import_module("rankray.finetune.run")
    plain, spent = module.evaluate, []

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.process_time()
        found = plain(*args, **kwargs)
        spent.append(time.process_time() - begun)
        return found

    module.evaluate = timed
    try:
        with tempfile.TemporaryDirectory() as directory:
            begun = time.process_time()
            run(TrialSpec(config=config.model_dump(mode="json"), directory=directory), Silent())
            whole = time.process_time() - begun
    finally:
        module.evaluate = plain
    part = f"{len(spent)} evaluations take {sum(spent):.1f} of {whole:.1f} CPU seconds of a trial"
    print(f"{part}: {sum(spent) / whole:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="of the quickstart's world")
    parser.add_argument("--assets", type=Path, help="with models/stories260K and data/gsm8k")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for config in [
        *([quickstart(given.directory)] if given.directory else []),
        *([gsm8k(given.assets)] if given.assets else []),
    ]:
        print(f"{config.name}:")
        speed(config, given.rounds)
        share(config.model_copy(update={"train": config.train.model_copy(update={"threads": 1})}))


if __name__ == "__main__":
    main()
