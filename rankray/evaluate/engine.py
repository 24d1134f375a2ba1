"""Answers from elsewhere: a function of your own, or an OpenAI-compatible server. Standard library only.

The function is called with (model, tokenizer, prompts, options): the prompts as texts, the options `samples` (answers
per prompt), `temperature` (None: greedy), `max_new_tokens` and `seed`. It returns a list with `samples` texts for each
prompt. It is given the model in training, so it can hand the weights on to an engine of its own.

A server knows only the weights it was started with: it is refused in training and in a search, where they change with
every step, and is for `rankray evaluate` of the checkpoint that it serves.
"""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rankray.config.evaluation import EvaluateSection
from rankray.errors import ConfigError
from rankray.evaluate.answers import load_function

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 600.0


def is_server(engine: str | None) -> bool:
    """Whether an engine is the URL of a server."""
    return engine is not None and "://" in engine


def refuse_server_in_training(section: EvaluateSection) -> None:
    """Refuse a server where the weights change.

    Raises:
        ConfigError: `evaluate.engine` is a URL.
    """
    if is_server(section.engine):
        raise ConfigError(
            f"evaluate.engine: {section.engine} has its own weights, not those of a trial in training; allowed there "
            "are null and module:function; give the server to `rankray evaluate` instead"
        )


def answers_by(
    section: EvaluateSection,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    temperature: float | None,
    keys: Sequence[tuple[int, ...]],
) -> list[str]:
    """Return an answer to each prompt; those of one example stand beside each other.

    Args:
        section: the `evaluate:` block.
        model: the model, for a function.
        tokenizer: the model's.
        prompts: token ids, equal for the samples of one example.
        temperature: None for greedy answers.
        keys: (seed, example, sample) of each prompt.

    Raises:
        ConfigError: the function or the server does not answer as it should.
    """
    examples = [list(rows) for _, rows in groupby(range(len(prompts)), key=lambda row: keys[row][1])]
    if not examples:
        return []
    texts = [tokenizer.decode(list(prompts[rows[0]]), skip_special_tokens=False) for rows in examples]
    samples = len(examples[0])
    engine = str(section.engine)
    if is_server(engine):
        found = [_from_server(section, text, samples, temperature) for text in texts]
    else:
        options = {
            "samples": samples,
            "temperature": temperature,
            "max_new_tokens": section.max_new_tokens,
            "seed": section.seed,
        }
        found = load_function(engine, "evaluate.engine")(model, tokenizer, texts, options)
    fits = isinstance(found, list) and len(found) == len(texts)
    if not fits or not all(
        isinstance(each, list) and len(each) == samples and all(isinstance(text, str) for text in each)
        for each in found
    ):
        raise ConfigError(
            f"evaluate.engine: {engine} returned {str(found)[:80]!r} for {len(texts)} prompts; allowed is a list with "
            f"{samples} texts for each prompt; fix the engine"
        )
    return [text for each in found for text in each]


def _from_server(section: EvaluateSection, prompt: str, samples: int, temperature: float | None) -> list[str]:
    """Ask `/completions`, with the first model that the server lists."""
    base = str(section.engine).rstrip("/")
    asked = {
        "model": _model_of(base),
        "prompt": prompt,
        "n": samples,
        "max_tokens": section.max_new_tokens,
        "temperature": 0.0 if temperature is None else temperature,
        "seed": section.seed,
    }
    answer = _call(f"{base}/completions", asked)
    try:
        return [str(choice["text"]) for choice in answer["choices"]]
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"evaluate.engine: {base} answered without choices ({str(answer)[:80]!r}); allowed is an OpenAI-compatible "
            "server; check the URL"
        ) from error


def _model_of(base: str) -> str:
    listed = _call(f"{base}/models", None)
    try:
        return str(listed["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(
            f"evaluate.engine: {base} lists no model ({str(listed)[:80]!r}); allowed is an OpenAI-compatible server; "
            "check the URL"
        ) from error


def _call(url: str, asked: dict[str, Any] | None) -> Any:
    body = None if asked is None else json.dumps(asked).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:
            return json.load(response)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise ConfigError(
            f"evaluate.engine: {url} does not answer ({error}); allowed is an OpenAI-compatible server that serves "
            "this checkpoint; start it, or leave evaluate.engine out"
        ) from error
