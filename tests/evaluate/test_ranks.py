"""Two workers get what one gets, and each computes half of it; also where they have to compute in step."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fixtures.leaving import LEAVE
from fixtures.ports import free_port
from fixtures.waiting import end_together

from rankray.config import Config
from rankray.evaluate.ranks import Ranks
from rankray.evaluate.run import evaluate
from rankray.model.resident import fresh_model, split_of, tokenizer_of

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import json, sys
import torch
from torch import distributed
torch.set_num_threads(1)
from rankray.config import Config
from rankray.evaluate import ranks, run
from rankray.model.resident import fresh_model, split_of, tokenizer_of
import trl  # before the group: torch.distributed.nn, imported after it, keeps it in its functions' defaults
distributed.init_process_group("gloo")
config = Config.model_validate(json.loads(sys.stdin.read()))
plain = ranks.Ranks.__init__
def measure(in_step):
    model, rows = fresh_model(config).eval(), [0]
    forward = model.forward
    def counted(*args, **kwargs):
        rows[0] += len(kwargs["input_ids"])
        if in_step:
            distributed.barrier()
        return forward(*args, **kwargs)
    model.forward = counted
    def stepping(self, model):
        plain(self, model)
        self.in_step = in_step
    ranks.Ranks.__init__ = stepping
    tokenizer = tokenizer_of(config)
    return run.evaluate(model, tokenizer, split_of("eval", config, tokenizer), config), rows[0]
print(json.dumps([measure(False), measure(True)]))
"""
"""With a barrier in each forward, as a sharded model has, workers that are not in step would wait for ever."""


def test_alone_everything_is_the_own_share():
    ranks = Ranks(_Model())
    assert (ranks.rank, ranks.size, ranks.in_step) == (0, 1, False)
    assert ranks.share([5, 6, 7]) == [2, 1, 0]
    assert ranks.batches(7, 7, 3) == 3
    assert ranks.sum(torch.ones(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("lengths", [[100, *range(50, 0, -1)], [7] * 9, [900, 1, 1, 1, 1], [3], []])
@pytest.mark.parametrize("size", [2, 3])
def test_parts_are_of_about_the_same_length_and_hold_everything_once(lengths, size):
    parts = []
    for rank in range(size):
        ranks = Ranks(_Model())
        ranks.rank, ranks.size = rank, size
        parts.append(ranks.share(lengths))
        assert parts[-1] == sorted(parts[-1], key=lambda index: -lengths[index])
        assert len(parts[-1]) <= ranks.largest(len(lengths))
        ranks.in_step = True
        assert ranks.batches(len(parts[-1]), len(lengths), 2) == -(-ranks.largest(len(lengths)) // 2)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in part) for part in parts]
    assert max(loads) - min(loads) <= max(lengths, default=0)


class _Model(torch.nn.Module):
    device = torch.device("cpu")


def test_two_workers_share_the_work_and_both_know_the_result_in_step_or_not(tree, tmp_path):
    also = tmp_path / "choices.jsonl"
    rows = [{"q": f"{a} plus 1 is?", "choices": [str(a), str(a + 1), "blue"], "answerKey": "B"} for a in range(5)]
    also.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config.model_validate(
        tree(
            evaluate__metrics=["nll", "token_accuracy", "accuracy", "pass@2", "avg@2"],
            evaluate__max_examples=9,
            evaluate__max_new_tokens=6,
            evaluate__batch_size=4,
            evaluate__also={"arc": {"data": str(also), "prompt": "{q}\n", "choices": "choices"}},
        )
    )
    tokenizer, model, counted = tokenizer_of(config), fresh_model(config).eval(), []
    forward = model.forward

    def counting(*args, **kwargs):
        counted.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    model.forward = counting
    alone = evaluate(model, tokenizer, split_of("eval", config, tokenizer), config)
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER + LEAVE],
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in "01"
    ]
    for worker in workers:
        worker.stdin.write(config.model_dump_json())
        worker.stdin.close()
    end_together(workers)
    printed = [json.loads(worker.stdout.readlines()[-1]) for worker in workers]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    for free, in_step in printed:
        for found, _ in (free, in_step):
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                assert found[name] == pytest.approx(value, rel=1e-5, nan_ok=True), name
    assert all(math.isfinite(value) for value in alone.values())
    assert max(rows for (_, rows), _ in printed) <= 0.6 * sum(counted)
