"""Everything about the GPU path in one command, under ten minutes on one card: is it right, and what does it cost?

1. The comparison of first use: the kernels against torch, for each dtype; and the product that adds 16 bits to 32.
2. Parity with the float64 oracle: losses, gradients and statistics, over dtype, vocabulary, width, softcap and ties.
   The rule is the tests': no worse than twice the naive computation in the same dtype.
3. Time and peak memory beside torch's `linear_cross_entropy`, Liger and `torch.compile` (`benchmarks/loss.py`), in
   bfloat16, V = 32,000 and 151,936, H = 2,048 and 4,096.
4. Training: a trial straight through, the same from its own checkpoint, which must give the same metrics, and two
   processes of `rankray train` at a time on one card.
5. A poisoned process: in a search of three trials an evaluation leaves the CUDA context broken. That trial fails, its
   process ends when the next trial is handed to it, and that one starts in another process without being charged.

    python benchmarks/gpu.py                 writes gpu.json, and the table gpu.md beside it
    python benchmarks/gpu.py -o figures      writes figures.json and figures.md

What is found is written after each part, so that a command that is stopped leaves what it had; a part that fails is
recorded as wrong, and the next one runs.

Without a card, parts 1 and 2 run on the CPU at small shapes, with the kernels under Triton's interpreter where triton
is installed, and part 5 with an error that only reads like CUDA's; the rest is named as skipped. Exit code 1 where
something is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
HAS_GPU = torch.cuda.is_available()
HAS_TRITON = importlib.util.find_spec("triton") is not None
if not HAS_GPU and HAS_TRITON:
    os.environ["TRITON_INTERPRET"] = "1"  # read by triton when it is imported

from rankray.config import load_config  # noqa: E402
from rankray.contracts import Report, TrialSpec, Verdict  # noqa: E402
from rankray.finetune import run  # noqa: E402
from rankray.loss import backend, reference, weighted_nll  # noqa: E402

DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OBJECTIVES: list[dict[str, Any]] = [
    {"objective": "rri"},
    {"objective": "rri", "form": "exact"},
    {"objective": "deft"},
    {"objective": "eaft"},
]
SHAPES = [(1000, 64), (32_000, 256), (50_257, 256), (151_936, 128)] if HAS_GPU else [(97, 16), (300, 24)]
TOKENS = 192 if HAS_GPU else 24
FEW_TOKENS = 48
"""As many where the vocabulary is large: the oracle computes in float64 on the CPU."""


PARTS = ["first_use", "parity", "costs", "trials", "poisoned"]


def first_use() -> dict[str, Any]:
    """The comparison that `RANKRAY_LOSS=auto` makes, for each dtype."""
    rows = []
    for dtype in DTYPES:
        kernels = backend.kernel_problem(DEVICE, dtype) if HAS_TRITON else "triton is not installed"
        row = {"dtype": str(dtype), "kernels": kernels or "right"}
        if HAS_GPU and dtype != torch.float32:
            row["addmm(out_dtype=)"] = backend.wide_product_problem(DEVICE, dtype) or "right"
        rows.append(row)
    is_right = not (HAS_GPU and HAS_TRITON) or all(row["kernels"] == "right" for row in rows)
    return {"right": is_right, "rows": rows}


def batch(dtype: torch.dtype, vocabulary: int, hidden: int, has_ties: bool) -> list[torch.Tensor]:
    """Hidden states, head and labels; with ties, hidden states are rounded so that many logits are equal."""
    generator = torch.Generator().manual_seed(vocabulary + hidden)
    count = min(TOKENS, FEW_TOKENS) if vocabulary > 32_000 else TOKENS
    head_VH = torch.randn(vocabulary, hidden, generator=generator) / hidden**0.5
    label_N = torch.randint(0, vocabulary, (count,), generator=generator)
    hidden_NH = torch.randn(count, hidden, generator=generator) + 2 * head_VH[label_N]
    if has_ties:
        head_VH[vocabulary // 2 :] = head_VH[: vocabulary - vocabulary // 2].clone()
    label_N[::7] = -100
    hidden_NH, head_VH = (tensor.to(DEVICE, dtype).requires_grad_() for tensor in (hidden_NH, head_VH))
    return [hidden_NH, head_VH, label_N.to(DEVICE)]


def naive(hidden_NH: torch.Tensor, head_VH: torch.Tensor, label_N: torch.Tensor, cap: float | None, **objective: Any):
    """All the logits in the inputs' dtype, the rest in float32; the weights by the oracle, from these logits."""
    keep_N = label_N != -100
    logits_NV = (hidden_NH[keep_N] @ head_VH.t()).float()
    logits_NV = logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)
    target_N = label_N[keep_N]
    stats = reference.token_stats(logits_NV.cpu(), target_N.cpu())
    weight_N = reference.token_weights(stats, **objective).to(DEVICE).float()
    nll_N = -logits_NV.log_softmax(-1).gather(1, target_N[:, None])[:, 0]
    return (weight_N * nll_N).sum() / keep_N.sum()


def norm_error(mine: torch.Tensor, truth: torch.Tensor) -> float:
    return float((mine.detach().double().cpu() - truth.detach().double().cpu()).norm())


def parity() -> dict[str, Any]:
    """Our error and the naive one, relative to the truth's size, for each case."""
    rows = []
    shapes = itertools.product(DTYPES, SHAPES, (None, 8.0), (False, True))
    for dtype, (vocabulary, hidden), cap, has_ties in shapes:
        for objective in OBJECTIVES:
            given = batch(dtype, vocabulary, hidden, has_ties)
            ours = weighted_nll(*given, logit_softcap=cap, **objective)
            simple = naive(*given, cap, **objective)
            wide = [leaf.detach().double().cpu().requires_grad_() for leaf in given[:2]]
            truth = reference.weighted_nll(*wide, given[2].cpu(), logit_softcap=cap, **objective)
            pairs = [(ours, simple, truth)]
            grads = [torch.autograd.grad(loss, leaves) for loss, leaves in ((ours, given[:2]), (simple, given[:2]))]
            pairs += zip(*grads, torch.autograd.grad(truth, wide), strict=True)
            worst = 0.0
            for mine, plain, true in pairs[1:]:  # a single scalar's rounding errors cancel by luck
                allowed = 2 * norm_error(plain, true) + torch.finfo(dtype).eps * float(true.norm())
                worst = max(worst, norm_error(mine, true) / allowed)
            value = abs(ours.item() - truth.item()) / abs(truth.item())
            rows.append(
                {
                    "dtype": str(dtype), "V": vocabulary, "H": hidden, "softcap": cap, "ties": has_ties, **objective,
                    "on_triton": HAS_TRITON and backend.on_triton(dtype, DEVICE), "loss_error": value,
                    "gradient_error_of_allowed": worst, "right": worst <= 1.0,
                }
            )  # fmt: skip
    return {"right": all(row["right"] for row in rows), "rows": rows}


def costs() -> dict[str, Any]:
    """The table of `benchmarks/loss.py` on this card."""
    names = ["rankray sft", "rankray rri bound", "rankray rri exact", "deft", "linear_cross", "liger", "compile"]
    command = [sys.executable, str(HERE / "loss.py"), "--device", "cuda", "--rounds", "5", "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    table = done.stdout.splitlines()
    return {"right": done.returncode == 0, "table": table, "problem": done.stderr[-2000:]}


CONFIG = """
model: {{path: {place}/world/model}}
data:
  train: {place}/world/train.jsonl
  eval: {place}/world/eval.jsonl
  prompt: "{{question}}\n"
  completion: "{{answer}}"
train: {{max_steps: 20, batch_size: 16}}
evaluate: {{every_steps: 10}}
storage: {place}/runs
"""


def train(place: Path, name: str) -> subprocess.Popen[str]:
    """Start `rankray train` on the quickstart's world."""
    command = [sys.executable, "-m", "rankray", "train", str(place / "gpu.yaml"), "--name", name, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, problem = process.communicate(timeout=300)
    assert process.returncode == 0, problem[-2000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def run_here(place: Path, name: str, checkpoint: str | None) -> tuple[dict[str, float], list[Report]]:
    """Train in this process, which keeps every checkpoint; return the last metrics and the reports."""
    reports: list[Report] = []

    class Recorder:
        def report(self, report: Report) -> Verdict:
            reports.append(report)
            return Verdict(stop=False)

    tree = load_config(place / "gpu.yaml", []).config.model_dump(mode="json")
    outcome = run(TrialSpec(config=tree, directory=str(place / name), checkpoint=checkpoint), Recorder())
    return outcome.metrics, reports


def trials(place: Path) -> dict[str, Any]:
    """One trial, the same once more, two at a time; the same again from the first checkpoint."""
    from rankray.quickstart.build import build_world

    build_world(place, pretrain_steps=100)
    (place / "gpu.yaml").write_text(CONFIG.format(place=place))
    started = time.monotonic()
    whole, reports = run_here(place, "whole", None)
    alone = time.monotonic() - started
    resumed, _ = run_here(place, "resumed", reports[0].checkpoint)
    started = time.monotonic()
    both = [ended(process) for process in [train(place, "a"), train(place, "b")]]
    nlls = [whole["eval/nll"], resumed["eval/nll"], *(found["metrics"]["eval/nll"] for found in both)]
    return {
        "seconds_alone": alone,
        "seconds_two_at_a_time": time.monotonic() - started,
        "eval_nll": nlls,
        "resumed_difference": abs(nlls[1] - nlls[0]),
        "right": max(nlls) - min(nlls) <= 1e-3 * nlls[0],
    }


POISON = """
import pathlib
import torch

CALLS = pathlib.Path(__file__).with_name("calls")


def poison(model, tokenizer, rows):
    \"\"\"Break the CUDA context at the fourth evaluation of the study; without CUDA, say that it broke.\"\"\"
    with CALLS.open("a") as file:
        file.write(".")
    if CALLS.stat().st_size == 4:
        if not torch.cuda.is_available():
            raise RuntimeError("CUDA error: device-side assert triggered (no card: only the words)")
        torch.zeros(2, device="cuda")[torch.full((1,), 10**6, device="cuda")].sum().item()
    return {"calls": 0.0}
"""
"""A device-side assertion: every later call of CUDA in the process fails."""
SEARCH = """
name: poisoned
space: {{train.learning_rate: {{float: [1.0e-5, 1.0e-3], log: true}}}}
study: {{trials: 3, pruner: none, sampler: random, max_failures_per_trial: 0}}
resources: {{concurrency: 1, gpus_per_worker: {gpus}}}
store: sqlite:///{place}/poisoned.db
"""


def rankray(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of rankray's to its end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "rankray", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1200)


def poisoned(place: Path) -> dict[str, Any]:
    """Search with an evaluation that breaks its process; a trial that is charged with a failure would be failed."""
    from rankray.quickstart.build import build_world

    build_world(place, pretrain_steps=100 if HAS_GPU else 5)
    (place / "poison.py").write_text(POISON)
    config = CONFIG.format(place=place).replace("max_steps: 20", "max_steps: 4")
    config = config.replace("{every_steps: 10}", "{every_steps: 2, max_examples: 8, functions: [poison:poison]}")
    (place / "poisoned.yaml").write_text(config + SEARCH.format(place=place, gpus=int(HAS_GPU)))
    store = f"sqlite:///{place}/poisoned.db"
    done = rankray(place, "search", str(place / "poisoned.yaml"))
    status = rankray(place, "status", "poisoned", "--store", store, "--json")
    if status.returncode != 0:
        return {"rc": done.returncode, "problem": (done.stderr + status.stderr)[-2000:], "right": False}
    counts = json.loads(status.stdout)["trials"]
    numbers = range(counts["complete"] + counts["failed"])
    shown = [json.loads(rankray(place, "show", "poisoned", str(n), "--store", store, "--json").stdout) for n in numbers]
    reasons = [each["reason"] for each in shown if each["state"] == "failed"]
    charged = sum(len(each["failures"]) for each in shown if each["state"] != "failed")
    is_right = done.returncode == 0 and (counts["complete"], counts["failed"], charged) == (3, 1, 0)
    is_right = is_right and "CUDA error" in reasons[0]
    found = {"rc": done.returncode, **counts, "charged": charged, "reasons": reasons, "right": is_right}
    return found if is_right else {**found, "problem": done.stderr[-2000:], "shown": shown}


def table(found: dict[str, Any]) -> str:
    """The findings as text."""
    lines = [f"# GPU path: {found['device']}, torch {found['torch']}", "", "## First use", ""]
    lines += [f"- {row}" for row in found.get("first_use", {}).get("rows", [])]
    rows = found.get("parity", {}).get("rows", [])
    lines += ["", f"## Parity: {sum(row['right'] for row in rows)} of {len(rows)} cases right", ""]
    lines += [
        "| dtype | V | H | cases | on Triton | worst gradient error / allowed | worst loss error |",
        "|---" * 7 + "|",
    ]
    for key, group in itertools.groupby(rows, key=lambda row: (row["dtype"], row["V"], row["H"])):
        each = list(group)
        worst, loss = (max(row[name] for row in each) for name in ("gradient_error_of_allowed", "loss_error"))
        on_triton = sum(row["on_triton"] for row in each)
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {len(each)} | {on_triton} | {worst:.2f} | {loss:.1e} |")
    for name in PARTS[2:]:
        if name in found:
            lines += ["", f"## {name.capitalize()}", "", "```", json.dumps(found[name], indent=1), "```"]
    lines += ["", "## Skipped", "", *[f"- {text}" for text in found["skipped"] or ["nothing"]], ""]
    return "\n".join(lines)


def add(found: dict[str, Any], name: str, part: Callable[[], dict[str, Any]], output: str) -> None:
    """Run a part and write the files; a part that fails is a finding, and the others run all the same."""
    started = time.monotonic()
    try:
        found[name] = part()
    except Exception as error:
        found[name] = {"right": False, "rows": [], "problem": f"{type(error).__name__}: {error}"}
    found[name]["seconds"] = time.monotonic() - started
    Path(f"{output}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    Path(f"{output}.md").write_text(table(found), encoding="utf-8")
    said = "right" if found[name]["right"] else "WRONG"
    print(f"{name}: {said}, {found[name]['seconds']:.0f} s", file=sys.stderr, flush=True)


def main() -> int:
    """Run every part that can run here; write the files; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default="gpu", help="name of the two files, without ending")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if HAS_GPU else f"no GPU ({platform.machine()} CPU)"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "skipped": []}
    if not HAS_TRITON:
        found["skipped"].append("the kernels: triton is not installed, so parity is that of the torch path")
    elif not HAS_GPU:
        found["skipped"].append("the kernels on a card: they ran under Triton's interpreter, at small shapes")
    if not HAS_GPU:
        found["skipped"] += ["time and memory beside other losses", "trials, two on one card, and a resumed one"]
        found["skipped"].append("a CUDA context that is broken: the error of part 5 only reads like CUDA's")
    runs: dict[str, Callable[[], dict[str, Any]]] = {"first_use": first_use, "parity": parity, "costs": costs}
    with tempfile.TemporaryDirectory() as place:
        runs |= {
            "trials": lambda: trials(Path(place) / "trials"),
            "poisoned": lambda: poisoned(Path(place) / "poisoned"),
        }
        for part in PARTS:
            if part in args.only and (HAS_GPU or part not in ("costs", "trials")):
                add(found, part, runs[part], args.output)
    print(table(found))
    return int(not all(found[part]["right"] for part in PARTS if part in found))


if __name__ == "__main__":
    sys.exit(main())
