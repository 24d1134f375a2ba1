"""Further sets to evaluate on (`evaluate.also`), each with its own data, prompt and metrics.

With `choices` nothing is generated: the answer is the choice that the model finds most likely after the prompt, by the
sum of its tokens' log-probabilities (`accuracy`), or by that per byte of the choice (`accuracy_norm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rankray.config.evaluation import AlsoSection
from rankray.config.schema import Config
from rankray.data.encode import Tokens, text_ids
from rankray.data.examples import common_prefix
from rankray.data.tokenize import Split
from rankray.evaluate.metrics import Figures, run_head, with_error
from rankray.evaluate.ranks import Ranks
from rankray.evaluate.sets import as_config, read_choices
from rankray.evaluate.solve import Solver
from rankray.evaluate.tokens import text_bytes, token_sums
from rankray.model.head import attach_head, plain_model, sequence_totals
from rankray.model.resident import split_of


def also_figures(
    model: Any, tokenizer: PreTrainedTokenizerBase, config: Config, ranks: Ranks, last: bool = True
) -> Figures:
    """Return the metrics of all further sets.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        config: whose `evaluate.also` names the sets.
        ranks: the workers.
        last: whether this is the last evaluation of a run; else greedy answers are limited by `rungs.answers`.

    Raises:
        DataError: a set cannot be read, or its choices are not as they should be.
    """
    figures: Figures = {}
    for name, section in config.evaluate.also.items():
        asked = as_config(section, config)
        data = split_of("eval", asked, tokenizer)
        prefix = f"eval/{name}/"
        if section.choices:
            found = _choices(model, tokenizer, data, section, asked, ranks, f"evaluate.also.{name}")
        else:
            found = _plain(
                model, tokenizer, data, section, asked, ranks, None if last else config.evaluate.rungs.answers
            )
        figures |= {prefix + metric: value for metric, value in found.items()}
    return figures


def _plain(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    data: Split,
    section: AlsoSection,
    config: Config,
    ranks: Ranks,
    answers: int | None,
) -> Figures:
    figures: Figures = {}
    if set(section.metrics) & {"nll", "bits_per_byte", "token_accuracy"}:
        sums = token_sums(model, tokenizer, data, config.evaluate.batch_size, ranks)
        bytes_Q = text_bytes(tokenizer, data) if "bits_per_byte" in section.metrics else ()
        figures |= sums.figures(section.metrics, bytes_Q)
    if "accuracy" in section.metrics and answers != 0:
        right = Solver(model, tokenizer, data, config.evaluate, ranks).right(first=answers)
        figures |= with_error("accuracy", [float(row[0]) for row in right])
    return figures


def _choices(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    data: Split,
    section: AlsoSection,
    config: Config,
    ranks: Ranks,
    where: str,
) -> Figures:
    attach_head(plain_model(model))
    questions = [read_choices(row, section, where) for row in data.own_rows]
    texts = [str(row["prompt"]) for row in data.rows]
    limit = config.data.max_length
    rows = {
        index: [_tokens(tokenizer, texts[index], choice, limit, not section.chat) for choice in choices]
        for index, (choices, _) in enumerate(questions)
    }
    mine = ranks.share([sum(len(each.input_ids) for each in row) for row in rows.values()])
    asked = [each for index in mine for each in rows[index]]
    scores: list[float] = []
    size = config.evaluate.batch_size
    most = max(len(choices) for choices, _ in questions)
    for begin in range(0, most * ranks.largest(len(questions)) if ranks.in_step else len(asked), size):
        batch = asked[begin : begin + size]
        scores += _likelihoods(model, tokenizer, batch or rows[0][:1])[: len(batch)]
    verdict_Q2 = torch.zeros(len(questions), 2, dtype=torch.float64)
    place = 0
    for index in mine:
        choices, right = questions[index]
        found = scores[place : place + len(choices)]
        place += len(choices)
        norm = [score / max(1, len(choice.encode())) for score, choice in zip(found, choices, strict=True)]
        verdict_Q2[index] = torch.tensor([found.index(max(found)) == right, norm.index(max(norm)) == right])
    verdict_Q2 = ranks.sum(verdict_Q2).cpu()
    figures: Figures = {}
    for place, name in enumerate(("accuracy", "accuracy_norm")):
        if name in section.metrics:
            figures |= with_error(name, verdict_Q2[:, place].tolist())
    return figures


def _tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, choice: str, limit: int, special: bool = True) -> Tokens:
    """Return prompt and choice, cut at the front where they are too long, so that the choice remains.

    Args:
        tokenizer: the model's.
        prompt: text.
        choice: text.
        limit: the most tokens.
        special: whether the tokenizer begins a text with a token of its own; a chat template has done so itself.
    """
    whole = text_ids(tokenizer, prompt + choice, special)
    before = text_ids(tokenizer, prompt, special) if prompt else []
    start = max(1, min(common_prefix(before, whole), len(whole) - 1))
    cut = max(0, len(whole) - limit)
    return Tokens(whole[cut:], max(1, start - cut))


def _likelihoods(model: Any, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Tokens]) -> list[float]:
    """Return ln p of each completion, in nats."""
    totals_B3 = run_head(model, tokenizer, batch, lambda given: sequence_totals(given, len(batch)))
    found: list[float] = (-totals_B3[:, 0]).tolist()
    return found
