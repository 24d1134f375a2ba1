"""Weights that the data give to tokens (`rankray.data.weights`), on their way into a batch.

Shapes: B sequences, T positions.

TRL carries nothing along with a token but its label. So the number of its record travels in the place of its label, as
that of the base model's statistics does (`rankray.finetune.signal`), through packing, shuffling and padding. A trainer
of the user's own data takes them from columns instead, and does not pack.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from rankray.data.chat import MOST_WEIGHT
from rankray.data.signal import ROWS_PER_PART, Records, positions, weight_records
from rankray.data.weights import LEAST, number
from rankray.errors import DataError
from rankray.loss.tokens import IGNORED

logger = logging.getLogger(__name__)

TOKEN_WEIGHTS = "token_weights"
"""Key of a batch: (B, T), the weight of each supervised token at the token's own position, 0 elsewhere."""


@dataclass(frozen=True, eq=False)
class TokenWeights:
    """The weights of a training set.

    Attributes:
        dataset: the training set, with the number of its record in place of each supervised token's label.
        records: as in `rankray.data.signal.WEIGHT`, weights below 0 for tokens of prompts.
        prompt_weight: what such a token's weight is multiplied with, instead of -1.
    """

    dataset: datasets.Dataset
    records: Records
    prompt_weight: float


def token_weights(table: datasets.Dataset, prompt_weight: float) -> TokenWeights:
    """Return the weights of a training set that has them (`Split.weighted`)."""
    return TokenWeights(positions(table), weight_records(table), prompt_weight)


class WeightCollator:
    """Makes a batch with another collator, and puts the weights that the numbers in `labels` stand for beside it.

    Args:
        collate: makes a batch of `input_ids` and `labels`.
        weights: the training set's.
        keeps_numbers: leave the numbers for `SignalCollator`; else they become labels.
    """

    def __init__(self, collate: Callable[..., Any], weights: TokenWeights, keeps_numbers: bool = False) -> None:
        self._collate, self._weights, self._keeps_numbers = collate, weights, keeps_numbers

    def __call__(self, examples: Any) -> dict[str, Any]:
        """Return the batch.

        Raises:
            DataError: a token is not the one that the weight belongs to.
        """
        batch: dict[str, Any] = dict(self._collate(examples))
        number_BT = batch["labels"].numpy()
        is_supervised_BT = number_BT != IGNORED
        found_N = self._weights.records[number_BT[is_supervised_BT]]
        if not np.array_equal(found_N["token"], batch["input_ids"].numpy()[is_supervised_BT]):
            raise DataError(
                "data.weight_column: weights with training tokens that are not those of data.train as it was "
                "tokenised; allowed are data that training does not change (no augmentation); leave out the weights"
            )
        weight_N = found_N["weight"]
        weight_BT = np.zeros(number_BT.shape, np.float32)
        weight_BT[is_supervised_BT] = np.where(weight_N < 0, -self._weights.prompt_weight * weight_N, weight_N)
        batch[TOKEN_WEIGHTS] = torch.from_numpy(weight_BT)
        if not self._keeps_numbers:
            labels_BT = np.full(number_BT.shape, IGNORED)
            labels_BT[is_supervised_BT] = found_N["token"]
            batch["labels"] = torch.from_numpy(labels_BT)
        return batch


class ColumnCollator:
    """Makes a batch with another collator, and puts weights from columns of the examples beside it.

    Args:
        collate: makes a batch of `input_ids` and `labels`, without the two columns.
        example: column with a number for each example; None: all 1.
        tokens: column with a list of numbers, one for each of `input_ids`; None: all 1.
        prompt_weight: weight of the tokens that have no label, next to 1 for the others; 0 leaves them out. The first
            token of an example, which nothing predicts, stays without one.
        trains: whether the examples are trained on; in evaluation the columns are dropped and nothing is weighted.

    A token of weight 0 loses its label, as in `rankray.data.weights`: it is not supervised, and does not count.
    """

    def __init__(
        self,
        collate: Callable[..., Any],
        example: str | None,
        tokens: str | None,
        prompt_weight: float = 0.0,
        trains: bool = True,
    ) -> None:
        self._collate, self._example, self._tokens = collate, example, tokens
        self._prompt_weight, self._trains = prompt_weight, trains

    def for_evaluation(self) -> ColumnCollator:
        """Return the one that weights nothing."""
        return ColumnCollator(self._collate, self._example, self._tokens, trains=False)

    def __call__(self, examples: Any) -> dict[str, Any]:
        """Return the batch.

        Raises:
            DataError: a weight is missing, no number, negative or not finite, or there are not as many as tokens; or
                another collator moves the tokens.
        """
        names = [name for name in (self._example, self._tokens) if name is not None]
        plain = [{key: value for key, value in each.items() if key not in names} for each in examples]
        batch: dict[str, Any] = dict(self._collate(plain))
        if not self._trains:
            return batch
        ids_BT: Tensor = batch["input_ids"]
        weight_BT = torch.zeros(ids_BT.shape)
        is_flat, begin = len(ids_BT) == 1 and len(examples) > 1, 0
        for row, each in enumerate(examples):
            ids = [int(token) for token in each["input_ids"]]
            place = (0 if is_flat else row, slice(begin, begin + len(ids)))
            if ids_BT[place].tolist() != ids:
                raise DataError(
                    "RRITrainer: weights with a data_collator that moves tokens; allowed is one that pads at the end; "
                    "leave out data_collator, or the weights"
                )
            weight_T = torch.tensor(self._weights_of(each, len(ids)))
            if self._prompt_weight:
                label_T = batch["labels"][place]
                is_prompt_T = (label_T == IGNORED) & (torch.arange(len(ids)) > 0)
                label_T[is_prompt_T] = ids_BT[place][is_prompt_T]
                weight_T[is_prompt_T] *= self._prompt_weight
            batch["labels"][place][weight_T < LEAST] = IGNORED
            weight_BT[place] = weight_T
            begin += len(ids) if is_flat else 0
        batch[TOKEN_WEIGHTS] = weight_BT
        return batch

    def _weights_of(self, example: dict[str, Any], count: int) -> list[float]:
        return row_weights(example, count, self._example, self._tokens)


def row_weights(
    row: dict[str, Any], count: int, example: str | None, tokens: str | None, place: str = ""
) -> list[float]:
    """Return the weights that the columns of a row give to its tokens.

    Args:
        row: of a training set.
        count: how many tokens it has.
        example: column with a number for the row; None: 1.
        tokens: column with a list of numbers, at least one for each token; None: all 1.
        place: of the row, for errors.

    Raises:
        DataError: a weight is missing, no number, negative or not finite, or there are not as many as tokens.
    """
    whole, found = 1.0, [1.0] * count
    if example is not None:
        whole = number(row.get(example), f"weight_column: {place}column {example!r}")
    if tokens is not None:
        where, given = f"token_weights: {place}column {tokens!r}", row.get(tokens)
        if given is None or not hasattr(given, "__len__") or isinstance(given, str) or len(given) < count:
            is_list = hasattr(given, "__len__") and not isinstance(given, str)
            raise DataError(
                f"{where} holds {f'{len(given)} weights' if is_list else 'no list'}, and the example has {count} "  # type: ignore[arg-type]
                "tokens; allowed is one for each of input_ids; fix that row"
            )
        found = [number(each, where) for each in given[:count]]
    return [whole * each for each in found]


def check_columns(dataset: Any, example: str | None, tokens: str | None, longest: int | None) -> None:
    """Look at all weights of a table before it is trained on; those of a stream are looked at batch by batch.

    Args:
        dataset: of the user; only a `datasets.Dataset` is looked at.
        example: column with a number for each row, or None.
        tokens: column with a list of numbers for each row, or None.
        longest: tokens that are kept of a row; None keeps all.

    Raises:
        DataError: as `row_weights`, or all weights are 0.
    """
    names = [name for name in (example, tokens) if name is not None]
    if not isinstance(dataset, datasets.Dataset) or not names or not len(dataset):
        return
    has_ids = tokens is not None and "input_ids" in dataset.column_names
    looked_at = dataset.with_format(None).select_columns([*names, *(["input_ids"] if has_ids else [])])
    largest = 0.0
    for start in range(0, len(looked_at), ROWS_PER_PART):
        columns = looked_at[start : start + ROWS_PER_PART]
        for index, values in enumerate(zip(*columns.values(), strict=True), start):
            row = dict(zip(columns, values, strict=True))
            count = len(row["input_ids"]) if has_ids else 0
            place = f"train_dataset[{index}]: "
            largest = max(largest, _largest(row, min(count, longest or count), example, tokens, place))
    if largest < LEAST:
        raise DataError(
            f"{' and '.join(names)}: train_dataset: all its tokens have weight 0, so nothing would be trained; allowed "
            "is at least one above 0; correct the weights"
        )


def _largest(row: dict[str, Any], count: int, example: str | None, tokens: str | None, place: str) -> float:
    """Return the largest weight of a row as `row_weights` has them; long lists of good numbers take no Python loop."""
    [whole] = row_weights(row, 1, example, None, place)
    if tokens is None or not count:
        return whole
    try:
        given = np.asarray(row[tokens], np.float64)
    except (TypeError, ValueError) as error:
        logger.debug("%scolumn %r is no list of numbers: %s", place, tokens, error)
        return max(row_weights(row, count, example, tokens, place))
    if given.ndim != 1 or len(given) < count or not ((given >= 0) & (given <= MOST_WEIGHT))[:count].all():
        return max(row_weights(row, count, example, tokens, place))
    return whole * float(given[:count].max())


def weights_at(weight_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the weights of the supervised tokens, in the order of `model.head.gather`."""
    return weight_BT[:, 1:][labels_BT[:, 1:] != IGNORED]
