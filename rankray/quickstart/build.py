"""The offline world of `rankray quickstart`: a language, a model pretrained on it, noisy data and a search over them.

`build_world(directory)` makes this once, with fixed seeds and without a network:

    directory/world/model/        a tiny Llama, pretrained on the clean form of the language, and its tokenizer
    directory/world/train.jsonl   fine-tuning examples: fillers, synonyms, and corrupted tokens in many of the answers
    directory/world/eval.jsonl    held-out problems, worded like the fine-tuning set, with right answers
    directory/world/world.json    the recipe and the size of each file; written last
    directory/quickstart.yaml     the search file for `rankray search`

The world is built in a temporary directory and renamed, so an interrupted build is never mistaken for a finished one. A
world with the same recipe is reused.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankray.paths import temporary_directory
from rankray.quickstart.language import EOS, PAD, UNKNOWN, Problem, Row, all_problems, clean_row, noisy_rows, vocabulary

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM

logger = logging.getLogger(__name__)

VERSION = 1
"""Increase it when the language, the model or the data change, so that older worlds are built again."""
EVAL_EXAMPLES = 256
TRAIN_EXAMPLES = 800
CORRUPTED_SHARE = 0.6
"""Share of fine-tuning examples whose answer has corrupted tokens."""
CORRUPTED_RATE = 0.2
"""Chance that a token of such an answer is replaced."""
PRETRAIN_STEPS = 800
PRETRAIN_BATCH = 32
PRETRAIN_RATE = 5e-3
MODEL = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
SEED = 7

Progress = Callable[[str], None]


def build_world(directory: Path, *, progress: Progress | None = None, pretrain_steps: int = PRETRAIN_STEPS) -> Path:
    """Build the world in a directory, unless it exists, and return the path of its search file.

    Args:
        directory: of the world, its store and its checkpoints; created if missing.
        progress: called with a line of text now and then.
        pretrain_steps: fewer steps give a worse model sooner; another number gives another world.
    """
    say = progress or (lambda line: None)
    directory = Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    world = directory / "world"
    recipe = _recipe(pretrain_steps)
    if not _is_complete(world, recipe):
        say(f"making a small world in {world} (once)")
        started = time.monotonic()
        with temporary_directory(".world-", directory) as unfinished:
            _make(unfinished, recipe, say)
            _move(unfinished, world, recipe)
        say(f"the world is ready, after {time.monotonic() - started:.0f} s")
    return _write_search(directory, world)


def split_problems() -> tuple[list[Problem], list[Problem], list[Problem]]:
    """Return the problems to pretrain on, to fine-tune on and to hold out.

    Held-out problems occur in neither of the others. Fine-tuning problems may occur in pretraining, in the clean form.
    """
    problems = all_problems()
    random.Random(SEED).shuffle(problems)
    held_out, known = problems[:EVAL_EXAMPLES], problems[EVAL_EXAMPLES:]
    return known, known[:TRAIN_EXAMPLES], held_out


def write_data(directory: Path) -> None:
    """Write train.jsonl and eval.jsonl."""
    _, train, held_out = split_problems()
    _write_rows(directory / "train.jsonl", noisy_rows(train, SEED + 1, CORRUPTED_SHARE, CORRUPTED_RATE))
    _write_rows(directory / "eval.jsonl", noisy_rows(held_out, SEED + 2))


def _recipe(pretrain_steps: int) -> dict[str, Any]:
    data = {"train": TRAIN_EXAMPLES, "eval": EVAL_EXAMPLES, "share": CORRUPTED_SHARE, "rate": CORRUPTED_RATE}
    pretraining = {"steps": pretrain_steps, "batch": PRETRAIN_BATCH, "learning_rate": PRETRAIN_RATE}
    return {"version": VERSION, "seed": SEED, "data": data, "model": MODEL, "pretraining": pretraining}


def _is_complete(world: Path, recipe: dict[str, Any]) -> bool:
    """Whether there is a complete world of this recipe, with all its files."""
    try:
        found = json.loads((world / "world.json").read_text(encoding="utf-8"))
        sizes = {name: (world / name).stat().st_size for name in found["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.debug("no complete world in %s: %s", world, error)
        return False
    return bool(found["recipe"] == recipe and sizes == found["files"])


def _make(place: Path, recipe: dict[str, Any], say: Progress) -> None:
    write_data(place)
    (place / "model").mkdir()
    _save_tokenizer(place / "model")
    _save_model(place / "model", recipe["pretraining"]["steps"], say)
    files = {str(file.relative_to(place)): file.stat().st_size for file in sorted(place.rglob("*")) if file.is_file()}
    (place / "world.json").write_text(json.dumps({"recipe": recipe, "files": files}, indent=1), encoding="utf-8")


def _move(unfinished: Path, world: Path, recipe: dict[str, Any]) -> None:
    """Rename a finished build to its final name; keep one that another process finished in the meantime."""
    if _is_complete(world, recipe):
        return
    shutil.rmtree(world, ignore_errors=True)
    try:
        os.rename(unfinished, world)
    except OSError:
        if not _is_complete(world, recipe):
            raise
        logger.debug("another process built %s in the meantime", world)


def _write_rows(file: Path, rows: list[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")


def _save_tokenizer(directory: Path) -> None:
    """Save a tokenizer of whole words that AutoTokenizer can load."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: index for index, word in enumerate(vocabulary())}, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": PAD, "eos_token": EOS, "unk_token": UNKNOWN}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(directory)


def _save_model(directory: Path, steps: int, say: Progress) -> None:
    """Pretrain and save the model, on one thread, so that the weights do not depend on the number of cores."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    threads, bars = torch.get_num_threads(), logging.is_progress_bar_enabled()
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            words = vocabulary()
            config = LlamaConfig(
                vocab_size=len(words),
                max_position_embeddings=128,
                tie_word_embeddings=True,
                pad_token_id=words.index(PAD),
                eos_token_id=words.index(EOS),
                bos_token_id=None,
                **MODEL,  # type: ignore[arg-type]
            )
            model = LlamaForCausalLM(config)
            _pretrain(model, steps, say)
        model.save_pretrained(directory)
    finally:
        torch.set_num_threads(threads)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _pretrain(model: LlamaForCausalLM, steps: int, say: Progress) -> None:
    """Train on questions and answers of the clean form: AdamW, warm-up for a tenth of the steps, then a cosine."""
    import torch
    from torch.nn import functional

    known, _, _ = split_problems()
    rng, ids = random.Random(SEED), {word: index for index, word in enumerate(vocabulary())}
    optimizer = torch.optim.AdamW(model.parameters(), lr=PRETRAIN_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PRETRAIN_RATE, total_steps=max(steps, 2), pct_start=0.1, cycle_momentum=False
    )
    model.train()
    for step in range(1, steps + 1):
        rows = [clean_row(rng.choice(known), rng) for _ in range(PRETRAIN_BATCH)]
        inputs, labels = _batch(rows, ids)
        logits = model(input_ids=inputs).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps:
            say(f"pretraining: step {step} of {steps}, loss {loss.item():.2f} nats per token")
    model.eval()  # type: ignore[no-untyped-call]


def _batch(rows: list[Row], ids: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Return padded tokens and their labels; padding is on the right, where causal attention does not see it."""
    import torch

    texts = [f"{row['question']} {row['answer']} {EOS}".split() for row in rows]
    longest = max(map(len, texts))
    inputs = torch.tensor([[ids[word] for word in text] + [ids[PAD]] * (longest - len(text)) for text in texts])
    return inputs, inputs.masked_fill(inputs == ids[PAD], -100)


def _write_search(directory: Path, world: Path) -> Path:
    """Write the search file, unless it exists with the same text."""
    file = directory / "quickstart.yaml"
    text = SEARCH
    values = {
        "MODEL": world / "model",
        "TRAIN": world / "train.jsonl",
        "EVAL": world / "eval.jsonl",
        "STORE": f"sqlite:///{directory / 'rankray.db'}",
        "RUNS": directory / "runs",
    }
    for name, value in values.items():
        text = text.replace(f"<{name}>", json.dumps(str(value), ensure_ascii=False))
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        fresh = directory / f".quickstart.{os.getpid()}"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(file)
    return file


SEARCH = """\
# Which objective, temperature, entropy weight and learning rate fine-tune best on answers with corrupted tokens?
# Written by `rankray quickstart`, which overwrites it: copy this file before you change it.
name: quickstart

model: {path: <MODEL>}           # 0.1 M parameters, pretrained on clean word problems

data:
  train: <TRAIN>                 # 800 examples; 60 % have corrupted tokens in their answers
  eval: <EVAL>                   # 256 other problems, right answers
  prompt: "{question}\\n"
  completion: "{answer}"
  max_length: 96

# The paper's setting, where the search does not vary it.
loss: {objective: rri, form: bound, base: prob, temperature: 1.0, entropy_weight: 1.0}

train:
  max_steps: 100
  batch_size: 32
  learning_rate: 1.0e-3          # where the baselines start; the search varies it
  warmup_ratio: 0.1

evaluate:
  every_steps: 25
  metrics: [nll, accuracy]       # accuracy: greedy answer after ####, exact match
  max_examples: 256
  batch_size: 128                # held-out examples at a time
  max_new_tokens: 20

space: search_spaces/quickstart.yaml

study:
  metric: eval/accuracy
  direction: maximize
  trials: 16                     # finished ones, pruned or complete; raise it and run again to continue

resources: {workers: 1, cpus_per_worker: 1, concurrency: auto}
store: <STORE>
storage: <RUNS>
"""
