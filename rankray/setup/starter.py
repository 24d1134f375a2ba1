"""`rankray init`: a configuration for a model and data that were looked at, which `check` accepts.

The data decide format, lengths and batch size, the model whether adapters are trained, the answers the rest. Nothing is
written before the whole file passes the checks of `rankray check`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankray.config import load_config
from rankray.config.load import name_of
from rankray.config.sections import PLAIN_TEMPLATE
from rankray.config.yaml_text import parse_value
from rankray.data.chat_template import use_template
from rankray.data.encode import light_tokenizer, measure
from rankray.data.files import is_file_source
from rankray.data.lengths import length_table
from rankray.data.sources import Source
from rankray.errors import ConfigError
from rankray.finetune.preflight import preflight
from rankray.model.files import context_of, local_model
from rankray.setup.sources import Chosen, Part, choose

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
METRICS = ("nll", "accuracy")


@dataclass(frozen=True)
class Answers:
    """What a user said.

    Attributes:
        model: hub id or directory.
        train: data to train on, one or several: files, directories, patterns or hub datasets.
        eval: held-out data; empty sets some of the training data aside.
        metric: `nll`, or `accuracy` of generated answers.
        prompt: template for the prompt; None where the columns show it.
        completion: template for the completion.
        lora: train adapters instead of all weights.
        gpus: GPUs per trial; None takes one where this machine has one.
        trials: finished trials of the search.
    """

    model: str
    train: list[str]
    eval: list[str] = field(default_factory=list)
    metric: str = "nll"
    prompt: str | None = None
    completion: str | None = None
    lora: bool = False
    gpus: int | None = None
    trials: int = 32

    @property
    def templates(self) -> dict[str, str]:
        """The templates that the user gave."""
        given = {"prompt": self.prompt, "completion": self.completion}
        return {name: text for name, text in given.items() if text is not None}


def start(answers: Answers, file: Path, say: Callable[[str], None]) -> None:
    """Write a configuration, checked, and say what was found.

    Args:
        answers: what the user said.
        file: the file to write; it must not exist.
        say: prints a line.

    Raises:
        UserError: the data cannot be used, or the finished file does not pass the checks; nothing is left behind.
    """
    if file.exists():
        raise ConfigError(
            f"init: {str(file)!r} exists; allowed is a new file; give another with --output, or remove it"
        )
    if answers.metric not in METRICS:
        raise ConfigError(f"init: --metric: got {answers.metric!r}; allowed: {', '.join(METRICS)}; choose one")
    made: list[Path] = []
    try:
        tokenizer = _tokenizer(answers)
        found = choose(answers.train, answers.eval, answers.templates, file.parent, made, say, tokenizer)
        made.append(file)
        file.write_text(_text(answers, file, found, tokenizer), encoding="utf-8")
        for line in preflight(load_config(file)).all_warnings:
            say(line)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    say(f"wrote {file}")


def _text(answers: Answers, file: Path, found: Chosen, tokenizer: PreTrainedTokenizerBase | None) -> str:
    parts, held_out = found.train, found.held_out
    is_bare = tokenizer is not None and not tokenizer.chat_template
    if tokenizer is not None and is_bare:
        use_template(tokenizer, PLAIN_TEMPLATE)
    rows, tokens, has_chats = _measured(answers, parts, held_out, tokenizer)
    batch = max(1, min(64, 1 << max(0, (rows // 8).bit_length() - 1))) if rows else 64
    gpus = answers.gpus if answers.gpus is not None else int(Path("/dev/nvidia0").exists())
    name = name_of(file)
    rate = (3e-5, 3e-3) if answers.lora else (1e-6, 1e-3)
    measured = f"; the middle example here has {tokens[0]} tokens, 95 % have at most {tokens[1]}" if tokens else ""
    return "\n".join(
        [
            "# Which loss and which learning rate are best for this model and this data?",
            f"# Made by `rankray init`. Look: rankray preview {file.name}   Search: rankray search {file.name}",
            f"name: {name if parse_value(name) == name else _quoted(name)}",  # such as 2024, or no
            f"model:\n  path: {_quoted(_portable(answers.model, file, local_model(answers.model) is not None))}",
            *(["  lora: {rank: 16, alpha: 32}   # adapters instead of all weights"] if answers.lora else []),
            "data:",
            *_data_lines(found, file),
            *([f"  chat_template: {PLAIN_TEMPLATE}   # the model has none"] if is_bare and has_chats else []),
            *(["  train_on: all   # every assistant turn"] if any(p.train_on == "all" for p in parts) else []),
            f"  max_length: {tokens[2] if tokens else 2048}   # tokens; longer examples are cut{measured}",
            "loss: {objective: rri}",
            "train:",
            "  max_steps: 200   # of each trial; bad ones are stopped early",
            f"  batch_size: {batch}   # examples per step",
            f"  micro_batch_size: {min(8, batch)}   # of them at a time in memory",
            f"evaluate: {{every_steps: 25, metrics: {json.dumps(list(dict.fromkeys(['nll', answers.metric])))}}}",
            "space:   # what is searched",
            "  loss.objective: {choice: [sft, dft, rri]}",
            "  loss.temperature: {float: [0.25, 8.0], log: true, when: {loss.objective: rri}}",
            "  loss.entropy_weight: {float: [0.0, 2.0], when: {loss.objective: rri}}",
            f"  train.learning_rate: {{float: [{rate[0]:.1e}, {rate[1]:.1e}], log: true}}",
            f"study: {{metric: eval/{answers.metric}, trials: {answers.trials}}}",
            f"resources: {{gpus_per_worker: {gpus}}}",
            "",
        ]
    )  # fmt: skip


def _data_lines(found: Chosen, file: Path) -> list[str]:
    """Return the lines of the splits; a form that all sources have stands in `data` itself, once."""
    forms = [{"format": part.form, **part.templates} for part in (*found.train, *found.held_out, *found.test)]
    one_form = all(form == forms[0] for form in forms)
    shared = [f"  {key}: {_quoted(text) if key != 'format' else text}" for key, text in forms[0].items()]
    lines = []
    splits = (
        ("train", found.train, ""),
        ("eval", found.held_out, "   # never trained on"),
        ("test", found.test, "   # for the last word: only `confirm` and `evaluate --split test` read it"),
    )
    for split, parts, remark in splits:
        if not parts:
            continue
        paths = [_quoted(_portable(part.path, file, is_file_source(part.path))) for part in parts]
        if one_form and len(parts) == 1:
            lines.append(f"  {split}: {paths[0]}{remark}")
        else:
            entries = [{} if one_form else {"format": part.form, **part.templates} for part in parts]
            said = ["".join(f", {key}: {_quoted(text)}" for key, text in entry.items()) for entry in entries]
            lines.append(f"  {split}:{remark}")
            lines += [f"    - {{path: {path}{more}}}" for path, more in zip(paths, said, strict=True)]
        if split == "train" and one_form:
            lines += shared
    return lines


def _tokenizer(answers: Answers) -> PreTrainedTokenizerBase | None:
    directory = local_model(answers.model)
    return None if directory is None or not directory.is_dir() else light_tokenizer(directory)


def _measured(
    answers: Answers, parts: list[Part], held_out: list[Part], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[int, tuple[int, int, int] | None, bool]:
    """Return the training examples; of all examples' tokens: median, 95 %, and the limit to set; what is known.

    And whether there are conversations that need the model's chat template.
    """
    if not all(is_file_source(part.path) for part in parts):
        return 0, None, False
    local = [part for part in (*parts, *held_out) if is_file_source(part.path)]
    found = [(part.section(), Source("train", part.section(), tokenizer=tokenizer).examples()) for part in local]
    count = sum(len(placed) for _, placed in found[: len(parts)])
    has_chats = any(p.example.is_chat and p.example.template is None for _, placed in found for p in placed)
    directory = local_model(answers.model)
    if directory is None or tokenizer is None:
        return count, None, has_chats
    no_limit = 1 << 30
    lengths = [
        length
        for data, placed in found
        for length in measure([p.example for p in placed], tokenizer, data, no_limit, [p.place for p in placed])
    ]
    table = length_table(lengths, no_limit)
    context = context_of(directory) or LENGTHS[-1]
    fitting = next((length for length in LENGTHS if length >= table.p95), LENGTHS[-1])
    return count, (table.median, table.p95, min(fitting, context)), has_chats


def _portable(path: str, file: Path, is_local: bool) -> str:
    """Return a path as it is written into the file: relative to it where it lies below its directory."""
    if not is_local:
        return path
    absolute, base = os.path.abspath(os.path.expanduser(path)), os.path.abspath(file.parent)
    return f"./{os.path.relpath(absolute, base)}" if absolute.startswith(f"{base}{os.sep}") else absolute


def _quoted(text: Any) -> str:
    """Return a text as YAML: JSON's quotes are YAML's."""
    return json.dumps(text, ensure_ascii=False)
