"""A tiny random Llama, a byte-level tokenizer and a handful of sums: what the fine-tuning tests train on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rankray.contracts import Report, TrialSpec, Verdict

ROWS = [{"question": f"{a} plus {b} is?", "answer": f"{a + b}"} for a in range(6) for b in range(4)]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '> ' + m.content }}{{ '<eos>' if m.role == 'assistant' }}{{ '\n' }}"
    "{% endfor %}{{ '<assistant> ' if add_generation_prompt }}"
)


class Killed(Exception):
    """What a reporter raises to end a process at a chosen step."""


class Recorder:
    """A reporter that remembers, and stops, dies or leaves where it is told to."""

    def __init__(self, stop_at: int | None = None, die_at: int | None = None, leave_at: int | None = None) -> None:
        self._steps_left = leave_at
        self.reports: list[Report] = []
        self.lives: list[tuple[int, dict[str, float]]] = []
        self._stop_at, self._die_at = stop_at, die_at

    def report(self, report: Report) -> Verdict:
        self.reports.append(report)
        if report.step == self._die_at:
            raise Killed
        return Verdict(stop=True, reason="told to") if report.step == self._stop_at else Verdict(stop=False)

    def leave(self) -> str:
        """Have the trial leave after so many steps of this process."""
        if self._steps_left is not None:
            self._steps_left -= 1
        return "its node goes" if self._steps_left == 0 else ""

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        self.lives.append((step, metrics))

    @property
    def by_step(self) -> dict[int, dict[str, float]]:
        return {report.step: dict(report.metrics) for report in self.reports}


def build_model(directory: Path, dropout: float = 0.0, **overrides: Any) -> Path:
    """Save a random Llama of some 20,000 weights with its tokenizer."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = ByteLevelBPETokenizer()
    texts = [f"{row['question']}\n{row['answer']}" for row in ROWS]
    raw.train_from_iterator(texts, vocab_size=280, special_tokens=["<pad>", "<eos>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw._tokenizer, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    settings = {
        "vocab_size": 280,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "attention_dropout": dropout,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**{**settings, **overrides})).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two threads on two busy cores wait for each other more than they compute."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A tiny model without dropout."""
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def dropout_dir(tmp_path_factory) -> Path:
    """The same model with attention dropout."""
    return build_model(tmp_path_factory.mktemp("dropout"), dropout=0.2)


@pytest.fixture(scope="session")
def data_file(tmp_path_factory) -> Path:
    """24 sums as .jsonl."""
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture
def tree(model_dir, data_file) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a configuration tree; keywords are dotted paths with __ for the dot."""

    def make(**changes: Any) -> dict[str, Any]:
        made: dict[str, Any] = {
            "name": "test",
            "model": {"path": str(model_dir)},
            "data": {
                "train": str(data_file),
                "eval": str(data_file),
                "prompt": "{question}\n",
                "completion": "{answer}",
                "max_length": 48,
            },
            "loss": {},
            "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 5e-3, "threads": 1},
            "evaluate": {"every_steps": 2, "max_examples": 10, "metrics": ["nll"]},
            "study": {},
        }
        for path, value in changes.items():
            section, _, name = path.partition("__")
            made[section][name] = value
        return made

    return make


@pytest.fixture
def train(tmp_path) -> Callable[..., tuple[Any, Recorder]]:
    """Return a function that trains a configuration tree and returns (outcome, recorder)."""

    def go(tree: dict[str, Any], recorder: Recorder | None = None, **spec: Any) -> tuple[Any, Recorder]:
        from rankray.finetune import run

        recorder = recorder or Recorder()
        directory = str(tmp_path / spec.pop("directory", "trial"))
        return run(TrialSpec(config=tree, directory=directory, **spec), recorder), recorder

    return go


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real data and a real small model; the test is skipped where they are absent."""
    place = Path(os.environ.get("RANKRAY_TEST_ASSETS", Path(__file__).resolve().parents[2].parent / "shared"))
    if not (place / "models" / "stories260K").is_dir():
        pytest.skip(f"no test assets in {place}; set RANKRAY_TEST_ASSETS")
    return place
