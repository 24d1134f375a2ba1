"""Answering the questions of a split and judging the answers, each worker its share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rankray.config.evaluation import EvaluateSection
from rankray.data.parse import Row
from rankray.data.tokenize import Split
from rankray.evaluate.answers import Judge
from rankray.evaluate.generate import generate_texts
from rankray.evaluate.ranks import Ranks


class Solver:
    """Answers and judges the examples of one split.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        data: the split.
        section: the `evaluate:` block, with the `answer` to judge by.
        ranks: the workers.

    Attributes:
        timeouts: answers that were given up while they were judged, and count as wrong, on all workers.
        texts: what this worker's last call generated, by (example, sample).
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, section: EvaluateSection, ranks: Ranks
    ) -> None:
        self._model, self._tokenizer, self._data = model, tokenizer, data
        self._section, self._ranks = section, ranks
        self.timeouts = 0
        self.texts: dict[tuple[int, int], str] = {}

    def right(self, samples: int | None = None, first: int | None = None) -> list[list[bool]]:
        """Return for each example which of its answers are right.

        An example whose prompt leaves no room for an answer has wrong ones.

        Args:
            samples: answers sampled per example; None is one greedy answer.
            first: only the first so many examples; None is all.
        """
        count = len(self._data.tokens) if first is None else min(first, len(self._data.tokens))
        examples = self._data.tokens[:count]
        asked = [index for index in range(count) if max(examples[index].start, 1) < len(examples[index].input_ids)]
        mine = [asked[place] for place in self._ranks.share([len(examples[index].input_ids) for index in asked])]
        draws = [(index, draw) for index in mine for draw in range(samples or 1)]
        prompts = [examples[index].input_ids[: examples[index].start] for index, _ in draws]
        texts = self._generate(prompts, draws, samples is not None, self._ranks.largest(len(asked)) * (samples or 1))
        self.texts = dict(zip(draws, texts, strict=True))
        held = self._data.own_rows if self._section.answer == "code" else self._data.rows
        rows = [held[index] for index, _ in draws]
        verdicts, timeouts = judged(self._section, texts, rows)
        found = torch.zeros(count * (samples or 1) + 1, dtype=torch.float64)
        found[[index * (samples or 1) + draw for index, draw in draws]] = torch.tensor(verdicts, dtype=torch.float64)
        found[-1] = timeouts
        found = self._ranks.sum(found).cpu()
        self.timeouts += int(found[-1])
        is_right_QS: list[list[bool]] = (found[:-1] > 0).view(count, samples or 1).tolist()
        return is_right_QS

    def _generate(
        self, prompts: list[list[int]], draws: list[tuple[int, int]], sampled: bool, largest_share: int
    ) -> list[str]:
        section = self._section
        temperature = section.sampling_temperature if sampled else None
        keys = [(section.seed, index, draw) for index, draw in draws]
        if section.engine is not None:
            from rankray.evaluate.engine import answers_by

            return answers_by(section, self._model, self._tokenizer, prompts, temperature, keys)
        return generate_texts(
            self._model,
            self._tokenizer,
            prompts,
            batch_size=section.batch_size,
            max_new_tokens=section.max_new_tokens,
            logit_temperature=temperature,
            keys=keys,
            ranks=self._ranks,
            batches=-(-largest_share // section.batch_size) if self._ranks.in_step else None,
        )


def judged(section: EvaluateSection, texts: Sequence[str], rows: Sequence[Row]) -> tuple[list[bool], int]:
    """Return which texts are right for their rows, and how many were given up (and are wrong).

    A program is filled from the columns of the data, so `answer: code` takes the split's `own_rows`.
    """
    if section.answer == "code":
        from rankray.evaluate.code import run_all

        return run_all(section, texts, rows)
    judge = Judge(section.answer)
    return judge.right(texts, [str(row["completion"]) for row in rows]), judge.timeouts
