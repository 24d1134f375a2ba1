"""Whole: several workers that train one trial together."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from fixtures.leaving import LEAVE
from fixtures.ports import free_port
from fixtures.training import ROWS, build_model
from fixtures.waiting import end_together
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

from rankray.contracts import TrialSpec
from rankray.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import json, os, sys
from rankray.contracts import TrialSpec, Verdict
from rankray.finetune import run
class Reporter:
    def report(self, report):
        assert os.environ["RANK"] == "0", "only the first worker's reporter is asked"
        print(json.dumps({"step": report.step, **report.metrics}))
        return Verdict(stop=report.step == 4, reason="told to")
for line in sys.stdin.read().splitlines():
    outcome = run(TrialSpec.from_json(line), Reporter())
    print(json.dumps({"steps": outcome.steps, "stopped": outcome.stopped}))
"""


SHARDED = """
import accelerate.state
from rankray.finetune import arguments
arguments._refuse_fsdp_on_cpus = lambda: None
plain = accelerate.state.AcceleratorState.__init__
def sharding_on_cpus_too(self, *words, fsdp_plugin=None, **named):
    plain(self, *words, fsdp_plugin=fsdp_plugin, **named)
    fsdp_plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = accelerate.state.DistributedType.FSDP, fsdp_plugin
accelerate.state.AcceleratorState.__init__ = sharding_on_cpus_too
"""
"""accelerate shards on accelerators only; this lets it do so on CPUs, where gloo can."""


def together(*specs, first="", count=2):
    """Train trials one after the other in a pair of processes; return what each process printed for each trial.

    Starting a pair takes longer than its trials.
    """
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = {**os.environ, **place, "WORLD_SIZE": str(count)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", first + WORKER + LEAVE],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(count)
    ]
    for worker in workers:
        worker.stdin.write("\n".join(spec.to_json() for spec in specs))
        worker.stdin.close()
    end_together(workers)
    watch = threading.Timer(900, lambda: [worker.kill() for worker in workers])
    watch.start()
    printed = [by_trial([json.loads(line) for line in worker.stdout]) for worker in workers]
    watch.cancel()
    assert [worker.wait(timeout=600) for worker in workers] == [0] * count
    return printed


def by_trial(lines):
    """Split lines after each outcome: for each trial its reports, then the outcome."""
    trials = [[]]
    for line in lines:
        trials[-1].append(line)
        if "stopped" in line:
            trials.append([])
    assert trials.pop() == []
    return trials


def test_two_workers_do_what_one_does_also_if_they_shard_the_model_and_resume(tree, train, tmp_path, monkeypatch):
    """Three trials of a pair: one of several micro batches, one sharded, and one weighted by the base model."""
    whole = tree(train__max_steps=6, train__micro_batch_size=2) | {"loss": {"objective": "talr"}}
    sharded = tree(train__max_steps=3, train__parallelism="fsdp") | {"evaluate": answering(tmp_path)}
    base = tree(train__max_steps=4, train__micro_batch_size=2) | {"loss": {"objective": "dft", "signal": "base"}}
    given = {"whole": whole, "sharded": sharded, "base": base}
    alone = [train(config, directory=f"{name}-alone")[1].by_step for name, config in given.items()]
    monkeypatch.setenv("RANKRAY_CACHE", str(tmp_path / "cache"))  # the pair computes the base's statistics itself
    specs = [TrialSpec(config=config, directory=str(tmp_path / name)) for name, config in given.items()]
    first, second = together(*specs, first=SHARDED)
    assert first[0][-1] == second[0][-1] == {"steps": 4, "stopped": "told to"}
    assert [report["step"] for report in first[0][:-1]] == [2, 4]
    for report in first[0][:-1]:
        for name in ("eval/nll", "train/loss", "train/nll"):
            assert report[name] == pytest.approx(alone[0][report["step"]][name], rel=2e-4)
    assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors"} <= names(tmp_path / "whole" / "step-000004")

    assert [report["step"] for report in first[1][:-1]] == [2, 3]
    for report in first[1][:-1]:
        wanted = alone[1][report["step"]]
        assert {name for name in wanted if name.startswith("eval/")} <= report.keys()
        for name, value in wanted.items():
            if name.startswith("eval/") or name in ("train/loss", "train/nll", "train/mean_weight"):
                assert report[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
    assert 0 < first[1][-2]["eval/avg@2"] < 1, "some are right, and some are not"
    check_base(first[2], second[2], alone[2], tmp_path)
    checkpoint = tmp_path / "sharded" / "step-000002"
    assert {"model.safetensors", "optimizer.bin"} <= names(checkpoint)
    assert not names(checkpoint) & {"pytorch_model_fsdp.bin", "training_args.bin"}
    again = TrialSpec(config=sharded, directory=str(tmp_path / "resumed"), checkpoint=str(checkpoint))
    resumed = together(again, first=SHARDED)
    assert resumed[0][0][:-1] == first[1][:-1], "bit for bit, in processes that have no process group yet"


def answering(tmp_path):
    """Evaluations in which two workers have different numbers of batches, and answers of different lengths.

    A sharded model computes only while all workers do, so a worker that made one forward more would wait for ever.
    """
    file = tmp_path / "choices.jsonl"
    rows = [{"q": f"{a} plus 1 is?", "c": [str(b) for b in range(a, a + 2 + 3 * (a == 1))], "k": "B"} for a in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "every_steps": 2,
        "max_examples": 7,
        "batch_size": 3,
        "metrics": ["nll", "token_accuracy", "accuracy", "avg@2"],
        "answer": "operator:gt",
        "max_new_tokens": 4,
        "rungs": {"answers": 0, "sampled": False},
        "also": {"arc": {"data": str(file), "prompt": "{q}\n", "choices": "c", "label": "k"}},
    }


def check_base(first, second, alone, tmp_path):
    """Both workers weight their tokens as one worker does: by statistics that the two compute once between them."""
    assert first[-1] == second[-1] == {"steps": 4, "stopped": "told to"}
    for report in first[:-1]:
        for name in ("train/mean_weight", "train/loss", "train/nll", "train/effective_tokens", "eval/nll"):
            assert report[name] == pytest.approx(alone[report["step"]][name], rel=2e-5), name
    found = [load_file(tmp_path / run / "step-000004" / "model.safetensors") for run in ("base", "base-alone")]
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], rtol=1e-3, atol=1e-5, msg=name)
    assert len(list((tmp_path / "cache").rglob("*.base"))) == 1


def names(directory):
    return {path.name for path in directory.iterdir()}


UNEVEN = {
    "many micro batches, some workers without one": ({"micro_batch_size": 1}, {"objective": "talr"}, {}),
    "flat and weighted": ({"sft": {"padding_free": True}}, {}, {"weight_column": "w"}),
    "packed": ({"micro_batch_size": 1, "sft": {"packing": True}}, {"objective": "eaft"}, {}),
    "held to the base model": ({"micro_batch_size": 1}, {"objective": "iw_sft", "kl_weight": 0.5}, {}),
    "sharded": ({"micro_batch_size": 1, "parallelism": "fsdp"}, {"objective": "dft"}, {}),
}
"""Sections `train`, `loss` and `data` of trials of 7 examples with batches of 6: the last batch of a pass has one."""


def experts(directory):
    """A model whose router loss, a mean over micro batches, counts for much."""
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    routed = {"num_local_experts": 4, "router_aux_loss_coef": 5.0, "output_router_logits": True}
    torch.manual_seed(0)
    config = MixtralConfig(vocab_size=280, num_key_value_heads=2, pad_token_id=0, eos_token_id=1, **sizes, **routed)
    MixtralForCausalLM(config).save_pretrained(build_model(directory))
    return directory


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_no_example_comes_twice_in_a_pass(count, tree, train, tmp_path):
    """Also where the last batch of a pass has fewer examples than there are workers, and where a pass is resumed."""
    file = tmp_path / "seven.jsonl"
    rows = [{**row, "w": 0.5 + index % 3} for index, row in enumerate(ROWS[:7])]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {}
    for name, (training, loss, data) in UNEVEN.items():
        made = tree(train__max_steps=2 if given else 4, train__batch_size=6, data__train=str(file))
        made["evaluate"] |= {"every_steps": 1, "max_examples": 3}
        made["train"] |= training
        made["loss"], made["data"] = loss, made["data"] | data
        given[name] = made
    given["a mixture of experts"] = tree(
        train__max_steps=2, train__batch_size=6, train__micro_batch_size=1, data__train=str(file),
        model__path=str(experts(tmp_path / "model")),
    )  # fmt: skip
    alone = [train(made, directory=f"{name}-alone")[1].by_step for name, made in given.items()]
    places = [tmp_path / name for name in given]
    specs = [TrialSpec(made, str(place)) for made, place in zip(given.values(), places, strict=True)]
    found = together(*specs, first=SHARDED, count=count)[0]
    for name, reports, wanted in zip(given, found, alone, strict=True):
        assert [report["step"] for report in reports[:-1]] == list(wanted), name
        for report in reports[:-1]:
            for metric in ("eval/nll", "train/loss", "train/nll", "train/effective_tokens", "train/mean_weight"):
                assert report[metric] == pytest.approx(wanted[report["step"]][metric], rel=1e-5), (name, report["step"])
    again = TrialSpec(specs[0].config, str(tmp_path / "again"), checkpoint=str(places[0] / "step-000003"))
    assert together(again, count=count)[0][0][:-1] == found[0][2:-1], "bit for bit"


def test_sharding_on_cpus_is_refused_and_not_replaced_by_ddp(tree, train, monkeypatch):
    """accelerate would train with DDP without a warning."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"train\.parallelism: fsdp on a CPU"):
        train(tree(train__parallelism="fsdp"))
