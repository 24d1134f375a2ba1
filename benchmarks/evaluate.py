"""Answers per second beside `model.generate`; the share of a trial that is spent evaluating; two workers beside one.

python benchmarks/evaluate.py --directory DIR       the quickstart's world, made there once
python benchmarks/evaluate.py --assets SHARED       search_spaces/recipes/gsm8k-0.5b.yaml, with stories260K as its model
python benchmarks/evaluate.py ... --only workers    one of: speed, share, workers
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import GenerationConfig

from rankray.config import Config, config_from, load_config
from rankray.contracts import Report, TrialSpec, Verdict
from rankray.evaluate.generate import generate_texts
from rankray.evaluate.ranks import Ranks
from rankray.finetune import run
from rankray.model.resident import fresh_model, split_of, tokenizer_of

RECIPE = Path(__file__).parents[1] / "search_spaces" / "recipes" / "gsm8k-0.5b.yaml"
PROBE_STEPS = 4
"""Steps of a trial that is too long to be run whole on a CPU."""


class Silent:
    """A reporter that lets a trial run to its end."""

    def report(self, report: Report) -> Verdict:
        """Continue."""
        return Verdict(stop=False)


def quickstart(directory: Path) -> Config:
    from rankray.quickstart.build import build_world

    return load_config(build_world(directory, progress=print)).config


def gsm8k(assets: Path) -> Config:
    """The shipped recipe, with the local model and data in place of the hub's."""
    data = assets / "data" / "gsm8k"
    places = {
        "model.path": assets / "models" / "stories260K",
        "data.train": data / "train.jsonl",
        "data.eval": data / "test.jsonl",
        "resources.gpus_per_worker": 0,
    }
    return load_config(RECIPE, [f"{path}={json.dumps(value, default=str)}" for path, value in places.items()]).config


MEETING = "RANKRAY_BENCHMARK_MEETING"
"""The variable with the file through which two workers find each other."""


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


def share(config: Config, whole: bool) -> None:
    """Print the share of a trial's CPU time that its evaluations take, step 0 left out.

    A trial that is not run whole makes a few steps with an evaluation as at a rung and one as at the end. What each
    costs is then added up as often as the whole trial has it. A model so early in its training rarely ends an answer
    before the limit, so that its evaluations cost the most.
    """
    module = importlib.import_module("rankray.finetune.run")
    plain, spent = module.evaluate, []
    steps, every = config.train.max_steps, config.evaluate.every_steps
    if not whole:
        short = {"train": {"max_steps": PROBE_STEPS}, "evaluate": {"every_steps": PROBE_STEPS // 2}}
        changed = {name: getattr(config, name).model_copy(update=update) for name, update in short.items()}
        config = config.model_copy(update=changed)

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
            took = time.process_time() - begun
    finally:
        module.evaluate = plain
    training, evaluating = took - sum(spent), sum(spent)
    how = f"{len(spent)} evaluations"
    if not whole:
        rungs = -(-steps // every) - 1
        training, evaluating = training * steps / PROBE_STEPS, spent[0] * rungs + spent[1]
        how = f"{rungs + 1} evaluations ({spent[0]:.1f} s at a rung, {spent[1]:.1f} s at the end)"
        how += f" beside {steps} steps of {training / steps:.2f} s"
    print(f"{how} take {evaluating:.1f} of {training + evaluating:.1f} CPU seconds: ", end="")
    print(f"{evaluating / (training + evaluating):.0%} of a trial")


class Alone(Ranks):
    """A worker that takes everything for its own share, whatever others there are."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.rank, self.size, self.in_step = 0, 1, False


def work(rounds: int) -> None:
    """Be one of two workers: the first evaluates alone, then both together, in turns; each prints its seconds."""
    module = importlib.import_module("rankray.evaluate.run")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{os.environ[MEETING]}", rank=int(os.environ["RANK"]), world_size=2
    )
    config = config_from(json.load(sys.stdin))
    tokenizer, model = tokenizer_of(config), fresh_model(config).eval()
    data = split_of("eval", config, tokenizer)
    found: dict[str, list[tuple[float, float]]] = {"alone": [], "together": []}
    for number in range(rounds + 1):
        for name, kind in (("alone", Alone), ("together", Ranks)):
            distributed.barrier()
            begun = time.monotonic(), time.process_time()
            if name == "together" or distributed.get_rank() == 0:
                module.Ranks = kind
                module.evaluate(model, tokenizer, data, config)
            if number:  # the first round reads files and warms up
                found[name].append((time.monotonic() - begun[0], time.process_time() - begun[1]))
    print(json.dumps(found))
    distributed.destroy_process_group()


def workers(config: Config, rounds: int) -> None:
    """Print what an evaluation takes two workers, beside one of them alone."""
    meeting = Path(tempfile.mkdtemp()) / "workers"  # a port could be taken between its choice and its use
    shared = {**os.environ, "WORLD_SIZE": "2", MEETING: str(meeting)}
    pair = [
        subprocess.Popen(
            [sys.executable, __file__, "--rounds", str(rounds), "--worker"],
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for each in pair:
        each.stdin.write(config.model_dump_json())
        each.stdin.close()
    first, second = (json.loads(each.stdout.readlines()[-1]) for each in pair)
    assert [each.wait() for each in pair] == [0, 0]
    middle = lambda pairs, place: statistics.median(each[place] for each in pairs)  # noqa: E731
    one, two = middle(first["alone"], 0), middle(first["together"], 0)
    cpu = [middle(each, 1) for each in (first["alone"], first["together"], second["together"])]
    ratios = [two[0] / one[0] for one, two in zip(first["alone"], first["together"], strict=True)]
    print(
        f"two workers evaluate in {two:.2f} s, one in {one:.2f} s of wall time: {statistics.median(ratios):.2f} "
        f"(median of {rounds} rounds in turns); CPU seconds {cpu[1]:.2f} and {cpu[2]:.2f}, alone {cpu[0]:.2f}: "
        f"{max(cpu[1:]) / cpu[0]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="of the quickstart's world")
    parser.add_argument("--assets", type=Path, help="with models/stories260K and data/gsm8k")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("speed", "share", "workers"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.worker:
        work(given.rounds)
        return
    for config in [
        *([quickstart(given.directory)] if given.directory else []),
        *([gsm8k(given.assets)] if given.assets else []),
    ]:
        print(f"{config.name}:", flush=True)
        config = config.model_copy(update={"train": config.train.model_copy(update={"threads": 1})})
        if given.only in (None, "speed"):
            speed(config, given.rounds)
        if given.only in (None, "share"):
            share(config, whole=config.train.max_steps <= 100)
        if given.only in (None, "workers"):
            workers(config, given.rounds)


if __name__ == "__main__":
    main()
