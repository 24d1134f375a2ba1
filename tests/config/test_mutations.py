"""Whole: mutated configurations, `--set` values and data files. Whatever is read, it is read or refused in one line."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rankray.config import load_config
from rankray.data.files import read_rows
from rankray.errors import UserError

FEW, MANY = 150, 1700
LONGEST_SECONDS = 20.0
MOST_BYTES = 2 << 30
CONFIG = yaml.safe_dump(
    {
        "name": "s",
        "model": {"path": "org/tiny", "lora": {"rank": 2}},
        "data": {"train": "train.jsonl", "eval": "eval.jsonl", "prompt": "{question}\n", "completion": "{answer}"},
        "loss": {"temperature": 2.0},
        "train": {"max_steps": 4, "batch_size": 8, "sft": {"optim": "sgd"}},
        "evaluate": {"metrics": ["nll", "pass@4"], "functions": ["a:b"]},
        "space": {
            "loss.objective": {"choice": ["sft", "rri"]},
            "loss.temperature": {"float": [0.25, 8.0], "log": True, "when": {"loss.objective": "rri"}},
            "train.batch_size": {"int": [4, 16]},
        },
        "study": {"trials": 8, "warm_start": [{"loss.objective": "sft"}]},
        "storage": "s3://bucket/x?region=eu",
    },
    sort_keys=False,
)
VALUES = [
    "", "~", "null", "yes", "-1", "0", "1e400", ".nan", ".inf", "1" * 5000, "[]", "{}", "[" * 60, "{a: " * 60, "'", '"',
    "!!int abc", "!!float ''", "!!binary x", "!!timestamp 2024-13-45", "!!set {a}", "!!python/object:os.system x",
    "&a [*a]", "*a", "&a {<<: *a}", "<<: 1", "2024-13-45", "1:30", "é\u2028", "\x00", "\x07", "\ud83d", "x" * 20_000,
    "~nobody/x", "/dev/zero", "/dev/null", "/", ".", "a\0b", "sqlite:///", "journal:///~nobody/x", "postgresql://u:p@h",
    "{choice: []}", "{choice: [1, 1]}", "{float: [0, 0]}", "{int: [1, 1e300]}", "{float: [1, 2], step: 1e-300}",
    "{float: [.nan, 1]}", "{float: [1, 2], when: {a: 1}}", "{choice: [[1], {a: 1}]}", "{name: tpe, seed: 1}", "%", ":",
    "- a", "a: b: c", "? x", "| x", "> x", "@x", "`", "#", "\t", "s3://u:p@b", "x://", "a.b.c", "loss.temperature",
]  # fmt: skip
"""What is put in the place of a value, or anywhere else."""
OVERRIDES = {
    "model.path": "org/other",
    "model.lora": "{rank: 4}",
    "data.train": "other.jsonl",
    "loss": "{objective: sft}",
    "train.learning_rate": "{float: [1e-6, 1e-3], log: true}",
    "train.sft": "{weight_decay: 0.1}",
    "space": "{loss.temperature: {float: [0.25, 8.0], log: true}}",
    "space.train.batch_size": "{int: [4, 8]}",
    "space.loss.temperature": "{float: [0.25, 8.0], log: true}",
    "evaluate.metrics": "[nll]",
    "study": "{trials: 4}",
    "study.trials": "4",
    "name": "other",
    "store": "x.db",
    "a.b": "1",
}
"""What `--set` is tried on, each with a value that the mutations start from; all but the last two are fields."""
ROWS = {
    "a.jsonl": b'{"question": "1+1", "answer": "2"}\n\n{"question": "2+2", "answer": "4"}\n',
    "a.json": b'[{"question": "1+1", "answer": "2"}, {"question": "2+2", "answer": "4"}]',
    "a.csv": b'question,answer\n"1+1",2\n"two\nlines",4\n',
    "a.tsv": b"question\tanswer\n1+1\t2\n",
}
BYTES = [
    b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\xed\xa0\x80", b"\\ud83d", b"\xe2\x80\xa8", b'"', b"'", b",", b",,,",
    b"\n",
    b"\r", b"{", b"}", b"[" * 3000, b"]", b"{" * 3000, b"null", b"42", b"NaN", b"1" * 5000, b"1e400", b"x" * 200_000,
    b'{"a": ', b"\\", b"\\u", b"\x1f\x8b\x08", b"PAR1",
]  # fmt: skip


def mutated(text: str | bytes, pieces: list, dice: random.Random) -> str | bytes:
    """Return a text with one to four places cut out, doubled, or replaced by one of the pieces."""
    for _ in range(dice.randint(1, 4)):
        begin = dice.randrange(len(text) + 1)
        end = min(len(text), begin + dice.choice([0, 0, 1, 2, 5, 20, 100]))
        piece = dice.choice([dice.choice(pieces), text[begin:end] * 2, text[:0]])
        text = text[:begin] + piece + text[end:]
    return text


def with_another_value(dice: random.Random) -> str:
    """Return the configuration with one of its lines' values replaced."""
    lines = CONFIG.splitlines()
    at = dice.randrange(len(lines))
    head, colon, _ = lines[at].partition(": ")
    lines[at] = f"{head}{colon or ': '}{dice.choice(VALUES)}"
    return "\n".join(lines)


def attempt(act: Callable[[], object]) -> bool:
    """Return whether something was read; a refusal is a `UserError` of short lines, found soon."""
    begun, refusal = time.process_time(), ""
    try:
        act()
    except UserError as error:
        refusal = str(error)
    assert time.process_time() - begun < LONGEST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MOST_BYTES
    assert all(len(line) < 2000 for line in refusal.splitlines()), refusal[:3000]
    assert len(refusal) < 20_000
    return not refusal


def one_config(place: Path, dice: random.Random) -> bool:
    text = mutated(CONFIG, VALUES, dice) if dice.random() < 0.5 else with_another_value(dice)
    file = place / "s.yaml"
    file.write_bytes(str(text).encode("utf-8", "surrogatepass"))
    return attempt(lambda: load_config(file))


def one_override(place: Path, dice: random.Random) -> bool:
    file = place / "s.yaml"
    file.write_text(CONFIG)
    (path, allowed), kind = dice.choice(list(OVERRIDES.items())), dice.random()
    if kind < 0.3:  # a value that is allowed, so that what lies behind the reading of values is tried as well
        return attempt(lambda: load_config(file, [f"{path}={allowed}"]))
    if kind < 0.65:
        path = str(mutated(path, [".", "=", " ", "\0", "x" * 300], dice))
    value = dice.choice(VALUES) if dice.random() < 0.6 else str(mutated(allowed, VALUES, dice))
    return attempt(lambda: load_config(file, [f"{path}={value}"]))


def one_data_file(place: Path, dice: random.Random) -> bool:
    name = dice.choice(list(ROWS))
    file = place / name
    file.write_bytes(bytes(mutated(ROWS[name], BYTES, dice)))
    return attempt(lambda: json.dumps(read_rows(str(file), "data.train"), ensure_ascii=False, default=str).encode())


KINDS = {"configurations": one_config, "overrides": one_override, "data files": one_data_file}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_mutations_are_read_or_refused(tmp_path, monkeypatch, seed, kind, count):
    monkeypatch.chdir(tmp_path)
    dice = random.Random(f"{kind} {seed}")
    read = 0
    for index in range(count):
        state = dice.getstate()
        try:
            read += KINDS[kind](tmp_path, dice)
        except BaseException:
            print(f"{kind}: input {index} of seed {seed} failed; generator before it: {hash(state)}")
            raise
    print(f"{kind}: {count} inputs tried, {read} read, {count - read} refused, 0 failures")
    assert 0 < read < count
