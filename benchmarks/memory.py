"""How near the estimate of a trial's memory (`rankray check`) is to its measured peak.

    python benchmarks/memory.py                    # every case, each in a fresh process
    python benchmarks/memory.py --only lora rri

Each case makes a model of random weights from its configuration, trains it for three steps with `finetune.run` and
evaluates it. On a CPU the peak is what the process's own memory (without mapped files) rises to, above what it had
after a first tiny trial, as the kernel counts it; with a CUDA GPU it is `torch.cuda.max_memory_allocated`.

Both are memory in use. To that end the C library is told to return every larger block at once
(MALLOC_MMAP_THRESHOLD_); `--allocator default` leaves it as it is, and measures what it holds in vain, too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SMALL = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 6, "num_attention_heads": 4}
WIDE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 3, "num_attention_heads": 8}
LORA = {"lora": {"rank": 8}}
CASES: dict[str, dict[str, Any]] = {
    "small, 8 x 256": {"model": SMALL, "rows": 8, "tokens": 256},
    "small, 32 x 256": {"model": SMALL, "rows": 32, "tokens": 256},
    "small, 4 x 1024": {"model": SMALL, "rows": 4, "tokens": 1024},
    "small, rri exact": {"model": SMALL, "rows": 16, "tokens": 256, "loss": {"objective": "rri", "form": "exact"}},
    "small, kl": {"model": SMALL, "rows": 16, "tokens": 256, "loss": {"objective": "sft", "kl_weight": 0.1}},
    "small, 4 parts": {"model": SMALL, "rows": 32, "micro": 8, "tokens": 256},
    "small, lora": {"model": SMALL, "rows": 16, "tokens": 256, "own": LORA},
    "small, checkpointing": {"model": SMALL, "rows": 32, "tokens": 256, "sft": {"gradient_checkpointing": True}},
    "small, rows of 64 to 256": {"model": SMALL, "rows": 16, "tokens": 256, "shortest": 64},
    "small, answers": {"model": SMALL, "rows": 2, "tokens": 256, "held_out": 64, "metrics": ["accuracy"]},
    "wide, 2 x 128": {"model": WIDE, "rows": 2, "tokens": 128},
    "wide, vocabulary 32,000": {"model": WIDE, "rows": 2, "tokens": 128, "vocabulary": 32000},
    "wide, tied, vocabulary 32,000": {
        "model": WIDE | {"tie_word_embeddings": True},
        "rows": 2,
        "tokens": 128,
        "vocabulary": 32000,
    },
    "wide, lora": {"model": WIDE, "rows": 4, "tokens": 256, "own": LORA},
    "wide, bfloat16, float32 masters": {"model": WIDE, "rows": 4, "tokens": 256, "saved": "bfloat16"},
    "wide, bfloat16 itself": {
        "model": WIDE,
        "rows": 4,
        "tokens": 256,
        "saved": "bfloat16",
        "own": {"dtype": "bfloat16"},
    },
    "wide, bfloat16, lora": {"model": WIDE, "rows": 4, "tokens": 256, "saved": "bfloat16", "own": LORA},
    "wide, adafactor": {"model": WIDE, "rows": 2, "tokens": 128, "sft": {"optim": "adafactor"}},
    "qwen3, grouped heads": {
        "kind": "qwen3",
        "model": SMALL | {"num_key_value_heads": 2, "head_dim": 32},
        "rows": 16,
        "tokens": 256,
    },
}


class _NeverStop:
    def report(self, report: Any) -> Any:
        from rankray.contracts import Verdict

        return Verdict(stop=False)


def make(place: Path, case: dict[str, Any]) -> None:
    """Write a model of random weights, its tokenizer and data."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    size = case.get("vocabulary", 4000)
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{index}": index for index in range(3, size)}}
    place.mkdir(exist_ok=True)
    split = Tokenizer(WordLevel(words, unk_token="<unk>"))
    split.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=split, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(place / "model")
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    config = AutoConfig.for_model(case.get("kind", "llama"), vocab_size=size, **ids, **case["model"])
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, case.get("saved", "float32")))
    model.save_pretrained(place / "model")
    draws = random.Random(0)
    for name, rows in (("train", 64), ("eval", case.get("held_out", 8))):
        lines = []
        for number in range(rows):
            tokens = (
                case["tokens"]
                if number % 4 == 0
                else draws.randint(case.get("shortest", case["tokens"]), case["tokens"])
            )
            drawn = [f"w{draws.randrange(3, size)}" for _ in range(tokens - 1)]
            lines.append(
                json.dumps(
                    {"prompt": " ".join(drawn[: tokens // 2]), "completion": " " + " ".join(drawn[tokens // 2 :])}
                )
            )
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def tree_of(place: Path, case: dict[str, Any], on_gpu: bool) -> dict[str, Any]:
    """Return a case's configuration."""
    return {
        "name": "memory",
        "model": {"path": str(place / "model")} | case.get("own", {}),
        "data": {"train": str(place / "train.jsonl"), "eval": str(place / "eval.jsonl")},
        "loss": case.get("loss", {"objective": "sft"}),
        "train": {
            "max_steps": 3,
            "batch_size": case["rows"],
            "micro_batch_size": case.get("micro"),
            "threads": 1,
            "sft": case.get("sft", {}),
        },
        "evaluate": {
            "every_steps": 3,
            "batch_size": case.get("held_out", 4),
            "metrics": case.get("metrics", ["nll"]),
            "max_new_tokens": 64,
        },
        "resources": {"gpus_per_worker": 1 if on_gpu else 0},
        "store": f"sqlite:///{place}/store.db",
        "storage": str(place / "runs"),
    }


def bytes_of(name: str) -> int:
    """Return a line of this process's status."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def measure(place: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Train one case in this process; return its estimate and its peak."""
    import torch

    from rankray.api import load
    from rankray.cli.common import fitted, preflight
    from rankray.config import LoadedConfig
    from rankray.contracts import TrialSpec
    from rankray.finetune.run import run

    on_gpu = torch.cuda.is_available()
    tree = tree_of(place, case, on_gpu)
    loaded = LoadedConfig(load(tree), "memory", {})
    findings = preflight(loaded, offline=True)
    fitted(loaded, findings)
    warm = tree_of(place / "warm", {"rows": 1, "tokens": 8}, on_gpu)
    run(TrialSpec(warm, str(place / "warm" / "trial")), _NeverStop())  # what a first trial imports and keeps
    found = findings.memory | {"device": torch.cuda.get_device_name() if on_gpu else "CPU"}
    gc.collect()
    before = bytes_of("RssAnon")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the kernel forgets the peak so far
    run(TrialSpec(tree, str(place / "trial")), _NeverStop())
    if on_gpu:
        return found | {"measured_bytes": torch.cuda.max_memory_allocated()}
    return found | {"measured_bytes": bytes_of("VmHWM") - bytes_of("RssFile") - before}


def main() -> None:
    """Run the cases, and print each and the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of cases")
    parser.add_argument("--allocator", choices=("exact", "default"), default="exact", help="of the C library")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        step, place, name = options.case
        if step == "make":
            make(Path(place), CASES[name])
            tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
            make(Path(place) / "warm", {"model": tiny, "tokens": 8, "vocabulary": 100})
        else:
            print(json.dumps(measure(Path(place), CASES[name])))
        return
    ratios = {}
    for name in [each for each in CASES if not options.only or any(part in each for part in options.only)]:
        with tempfile.TemporaryDirectory(prefix="rankray-memory-") as directory:
            said = ""
            for step in ("make", "measure"):
                command = [sys.executable, __file__, "--case", step, directory, name]
                environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
                if options.allocator == "exact":
                    environment["MALLOC_MMAP_THRESHOLD_"] = str(1 << 17)
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        found = json.loads(said.splitlines()[-1])
        ratios[name] = found["estimate_bytes"] / found["measured_bytes"]
        estimated, measured = found["estimate_bytes"] / 1e6, found["measured_bytes"] / 1e6
        print(
            f"{name:32} {estimated:7.0f} MB estimated {measured:7.0f} MB measured  ratio {ratios[name]:.2f}", flush=True
        )
    far = {name: max(ratio, 1 / ratio) for name, ratio in ratios.items()}
    worst = max(far, key=lambda name: far[name])
    within = sum(each <= 1.2 for each in far.values())
    print(f"{found['device']}: {within} of {len(far)} within 20 %; the worst: {worst}, ratio {ratios[worst]:.2f}")


if __name__ == "__main__":
    main()
