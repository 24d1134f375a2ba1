"""Further sets to evaluate on (`evaluate.also`), each with its own data, prompt and metrics.

With `choices` nothing is generated: the answer is the choice that the model finds most likely after the prompt, by the
sum of its tokens' log-probabilities (`accuracy`), or by that per byte of the choice (`accuracy_norm`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rankray.config.evaluation import AlsoSection
from rankray.config.schema import Config
from rankray.config.sections import DataSection
from rankray.data.encode import Tokens
from rankray.data.examples import Places, common_prefix, make_examples
from rankray.data.files import hub_parts, is_file_source
from rankray.data.parse import Row
from rankray.data.tokenize import Split
from rankray.errors import DataError
from rankray.evaluate.metrics import Figures, run_head, with_error
from rankray.evaluate.ranks import Ranks
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
        asked = as_config(name, section, config)
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


def as_config(name: str, section: AlsoSection, config: Config) -> Config:
    """Return the configuration whose held-out split is this set."""
    completion = section.completion if not section.choices else "{" + section.label + "}"
    data = DataSection(
        train=config.data.train,
        eval=section.data,
        prompt=section.prompt,
        completion=completion,
        format="columns",
        revision=_revision(section, config),
        max_length=config.data.max_length,
    )
    evaluate = config.evaluate.model_copy(update={"max_examples": section.max_examples, "answer": section.answer})
    return config.model_copy(update={"data": data, "evaluate": evaluate})


def _revision(section: AlsoSection, config: Config) -> str | None:
    """Return the set's own revision where the configuration names it; else that of no other dataset."""
    given = config.data.revision
    if is_file_source(section.data) or not isinstance(given, Mapping):
        return None
    return given.get(hub_parts(section.data, "evaluate.also")[0])


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
    questions = [read_choices(row, section, where) for row in data.rows]
    texts = [str(example.prompt) for example in make_examples(data.rows, config.data, Places(source=where))]
    limit = config.data.max_length
    rows = {
        index: [_tokens(tokenizer, texts[index], choice, limit) for choice in choices]
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


def read_choices(row: Row, section: AlsoSection, where: str) -> tuple[list[str], int]:
    """Return a question's choices, and the index of the right one.

    Raises:
        DataError: there are no choices, or the label is none of them.
    """
    held = row.get(str(section.choices))
    labels: list[str] = []
    if isinstance(held, dict):
        labels, held = [str(each) for each in held.get("label") or held.get("labels") or []], held.get("text")
    if not isinstance(held, Sequence) or isinstance(held, str) or len(held) < 2:
        raise DataError(
            f"{where}: column {section.choices!r} holds {str(held)[:60]!r}; allowed is a list of choices, or "
            "{text: [...], label: [...]}; name the right column in choices"
        )
    choices = [str(choice) for choice in held]
    given = row.get(section.label)
    labels = labels or [chr(ord("A") + place) for place in range(len(choices))]
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(choices):
        return choices, given
    for names in (labels, choices, [str(place) for place in range(len(choices))]):
        if str(given) in names:
            return choices, names.index(str(given))
    raise DataError(
        f"{where}: column {section.label!r} holds {given!r}; allowed is an index below {len(choices)}, a label "
        f"({', '.join(labels)}) or one of the choices; name the right column in label"
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, choice: str, limit: int) -> Tokens:
    """Return prompt and choice, cut at the front where they are too long, so that the choice remains."""
    whole = list(tokenizer(prompt + choice, verbose=False)["input_ids"])
    if whole and whole[-1] == tokenizer.eos_token_id and not choice.endswith(str(tokenizer.eos_token)):
        whole = whole[:-1]
    before = tokenizer(prompt, verbose=False)["input_ids"] if prompt else []
    start = max(1, min(common_prefix(before, whole), len(whole) - 1))
    cut = max(0, len(whole) - limit)
    return Tokens(whole[cut:], max(1, start - cut))


def _likelihoods(model: Any, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Tokens]) -> list[float]:
    """Return ln p of each completion, in nats."""
    totals_B3 = run_head(model, tokenizer, batch, lambda given: sequence_totals(given, len(batch)))
    found: list[float] = (-totals_B3[:, 0]).tolist()
    return found
