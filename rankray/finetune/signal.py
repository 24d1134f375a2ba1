"""The base model's statistics of the training tokens: computed once for all trials, and found again in each batch.

Shapes: B sequences, T positions, N supervised tokens; 7 statistics in the order of `TokenStats`.

With `loss.signal: base` a weight looks at what the frozen base model predicts, and not at what the model in training
does; `iw_sft` compares the two. The statistics depend on the data and the base model alone, so all trials, workers and
restarts on a node share one file (`rankray.data.signal`). They hold for a token in the context of its own example, as
it was tokenised. Whatever changes the tokens in training is refused when a batch is made; noise on the embeddings
(NEFTune) changes no token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rankray.config.schema import Config
from rankray.data.signal import RECORD, Records, fingerprint, positions, predicted, shared_records
from rankray.data.tokenize import Split
from rankray.errors import DataError
from rankray.loss import TokenStats, head_stats
from rankray.loss.tokens import IGNORED
from rankray.model.head import HeadInputs, attach_head, sequences
from rankray.model.resident import frozen_model, model_stamp

logger = logging.getLogger(__name__)

BASE_STATS = "base_stats"
"""Key of a batch: (B, T, 7), the statistics of each supervised token at the token's own position, 0 elsewhere."""
ROWS_PER_BLOCK = 256
"""Examples whose statistics are written at a time: what a kill can cost."""


@dataclass(frozen=True, eq=False)
class BaseSignal:
    """The statistics of a training set.

    Attributes:
        dataset: the training set, with the number of its record in place of each supervised token's label.
        records: as in `rankray.data.signal.RECORD`.
        seconds: what this process spent on computing them; 0 where they were there.
    """

    dataset: datasets.Dataset
    records: Records
    seconds: float = 0.0


def base_signal(config: Config, tokenizer: PreTrainedTokenizerBase, train: Split, device: torch.device) -> BaseSignal:
    """Return the statistics of the training tokens, computed where no process of this node has done so before.

    Args:
        config: the trial's.
        tokenizer: the model's.
        train: the training set.
        device: where the base model computes.

    Raises:
        ModelError, ConfigError: the base model cannot be loaded.
    """
    table, started = train.dataset, time.monotonic()
    numbered = positions(table)
    lengths = [
        sum(sum(predicted(labels)) for labels in table[start : start + ROWS_PER_BLOCK]["labels"])
        for start in range(0, len(table), ROWS_PER_BLOCK)
    ]
    computed: list[int] = []
    model: Any = None

    def make(block: int) -> Records:
        nonlocal model
        if model is None:
            model = frozen_model(config)
            if config.model.quantization is None:  # else it is there
                torch.nn.Module.to(model, device)
            attach_head(model)
        computed.append(block)
        rows = table[block * ROWS_PER_BLOCK : (block + 1) * ROWS_PER_BLOCK]
        return block_records(model, rows, tokenizer.pad_token_id, config.evaluate.batch_size)

    made_from = [fingerprint(table), model_stamp(config), ROWS_PER_BLOCK, transformers.__version__]
    records = shared_records(made_from, lengths, make)
    seconds = time.monotonic() - started if computed else 0.0
    if computed:
        logger.debug("base statistics of %d tokens: %.1f s", len(records), seconds)
    return BaseSignal(numbered, records, seconds)


def cost_of(signal: BaseSignal, train_seconds: float) -> str:
    """Return what the statistics cost, against the training that this process did with them."""
    return (
        f"base model's statistics of {len(signal.records)} tokens took {signal.seconds:.1f} s, which is "
        f"{signal.seconds / max(train_seconds, 1e-9):.2g} of this trial's {train_seconds:.1f} s; other trials of the "
        "same data and model on this node find them there"
    )


@torch.no_grad()
def block_records(model: Any, rows: dict[str, list[list[int]]], pad: int, batch_size: int) -> Records:
    """Return the records of some examples, in their order.

    Args:
        model: with `attach_head`, in evaluation mode.
        rows: `input_ids` and `labels` of the examples.
        pad: the token to fill up with.
        batch_size: examples per forward pass; those of similar length go together.
    """
    ids, labels = rows["input_ids"], rows["labels"]
    found: list[Records] = [np.empty(0, RECORD)] * len(ids)
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(ids[index]) for index in batch)
        ids_BT = torch.tensor([ids[index] + [pad] * (width - len(ids[index])) for index in batch])
        labels_BT = torch.tensor([labels[index] + [IGNORED] * (width - len(ids[index])) for index in batch])
        # No mask: what fills up an example stands after it, where a causal model does not look.
        stats = model(input_ids=ids_BT.to(model.device), labels=labels_BT.to(model.device), head=_statistics)
        records = np.empty(int((labels_BT[:, 1:] != IGNORED).sum()), RECORD)
        records["token"] = labels_BT[:, 1:][labels_BT[:, 1:] != IGNORED].numpy()
        for name, column in zip(RECORD.names[1:], stats, strict=False):  # type: ignore[index]
            records[name] = column.float().cpu().numpy()
        ends = np.cumsum([sum(predicted(labels[index])) for index in batch])
        for index, part in zip(batch, np.split(records, ends[:-1]), strict=True):
            found[index] = part
    return np.concatenate(found)


def _statistics(given: HeadInputs) -> TokenStats:
    """Head function: every statistic of every supervised token."""
    return head_stats(given.hidden_NH, given.head.weight_VH, given.label_N, **given.head.options)


class SignalCollator:
    """Makes a batch with another collator, then turns the numbers in `labels` into labels and statistics.

    Args:
        collate: makes a batch of `input_ids` and `labels`.
        signal: the training set's statistics.
    """

    def __init__(self, collate: Callable[..., Any], signal: BaseSignal) -> None:
        self._collate, self._records = collate, signal.records

    def __call__(self, examples: Any) -> dict[str, Any]:
        """Return the batch.

        Raises:
            DataError: a token is not the one that the statistics belong to.
        """
        batch: dict[str, Any] = dict(self._collate(examples))
        number_BT = batch["labels"].numpy()
        is_supervised_BT = number_BT != IGNORED
        found_N = self._records[number_BT[is_supervised_BT]]
        if not np.array_equal(found_N["token"], batch["input_ids"].numpy()[is_supervised_BT]):
            raise DataError(
                "loss.signal: base with training tokens that are not those of data.train as it was tokenised; allowed "
                "are data that training does not change (no augmentation); set loss.signal: online"
            )
        labels_BT = np.full(number_BT.shape, IGNORED)
        labels_BT[is_supervised_BT] = found_N["token"]
        stats_BT7 = np.zeros((*number_BT.shape, len(TokenStats.__annotations__) - 1), np.float32)
        stats_BT7[is_supervised_BT] = found_N.view(np.float32).reshape(len(found_N), -1)[:, 1:]
        return batch | {"labels": torch.from_numpy(labels_BT), BASE_STATS: torch.from_numpy(stats_BT7)}


def stats_at(base_BT7: Tensor, labels_BT: Tensor) -> TokenStats:
    """Return the base model's statistics of the supervised tokens, in the order of `model.head.gather`."""
    found_N7 = base_BT7[:, 1:][labels_BT[:, 1:] != IGNORED]
    return TokenStats(*found_N7.unbind(1))


def base_sequence_nlls(part: dict[str, Any]) -> list[float]:
    """Return the base model's mean NLL of each sequence of a micro batch, in nats."""
    labels_BT = part["labels"]
    sequence_BT = sequences(labels_BT, part)
    mask_BT = labels_BT[:, 1:] != IGNORED
    nll_N, sequence_N = -part[BASE_STATS][:, 1:, 0][mask_BT], sequence_BT[:, 1:][mask_BT]
    return [float(nll_N[sequence_N == sequence].double().mean()) for sequence in torch.unique(sequence_N)]
