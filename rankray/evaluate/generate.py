"""Answers of a model: greedy or sampled, in left-padded batches with a key-value cache.

A prompt that is answered several times is read once. Rows that have ended leave the batch. A model's saved generation
settings (repetition penalty, top-k, ...) are not used, so greedy means greedy, and sampled means from the model's own
distribution at a temperature. The random numbers of a sampled answer depend on its key alone: neither the batch it is
in nor the worker that draws it matters, and every trial draws with the same ones.

A model whose cache is of another kind (a recurrent one) is left to `model.generate`, prompts of one length at a time.

Shapes: B rows of a batch, U prompts in it, T positions, V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase

from rankray.errors import ModelError
from rankray.evaluate.ranks import Ranks
from rankray.model.head import plain_model

logger = logging.getLogger(__name__)

Key = tuple[int, ...]
"""What the random numbers of one sampled answer are made from."""
MIX_ROWS = ("rwkv",)
"""Models whose rows of a batch read each other's state, by an error of transformers: each prompt is answered alone."""
LEAVE_SHARE = 8
"""Rows that have ended leave the batch once they are more than one in so many of it."""


def generate_texts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
    logit_temperature: float | None = None,
    keys: Sequence[Key] | None = None,
    ranks: Ranks | None = None,
    batches: int | None = None,
) -> list[str]:
    """Return the model's answer to each prompt, without special tokens.

    Args:
        model: in eval mode; with or without LoRA.
        tokenizer: the model's.
        prompts: token ids; an empty prompt is answered from the EOS token. Equal ones beside each other are read once.
        batch_size: answers at a time, longest prompts first.
        max_new_tokens: the most tokens of an answer; fewer if the model's context ends earlier.
        logit_temperature: sample at this temperature; None takes the most likely token.
        keys: one for each prompt, where answers are sampled.
        ranks: the workers; needed where they compute in step.
        batches: how many batches to compute, at least as many as there are; the same number in all workers in step.
    """
    ranks = ranks or Ranks(model)
    context = _context(model)
    texts = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    needed = -(-len(order) // batch_size)
    with _own_settings(model) as ends, torch.no_grad(), _casts_kept(model, ranks):
        ends = sorted({*ends, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])})
        for number in range(max(needed, batches or 0)):
            chosen = order[number * batch_size : (number + 1) * batch_size]
            limits = [max_new_tokens] * len(chosen)
            if context is not None:
                room = [context - max(len(prompts[index]), 1) for index in chosen]
                chosen = [index for index, left in zip(chosen, room, strict=True) if left > 0]
                limits = [min(max_new_tokens, left) for left in room if left > 0]
            rows = [_started(prompts[index], tokenizer) for index in chosen]
            uniform_BT = None
            if logit_temperature is not None:
                assert keys is not None, "sampled answers need keys"
                drawn = [np.random.default_rng(keys[index]).random(max_new_tokens) for index in chosen]
                uniform_BT = torch.tensor(np.array(drawn), dtype=torch.float64, device=model.device)
            batch = _Batch(model, tokenizer, rows, ends, limits, logit_temperature, uniform_BT, ranks)
            for index, answer in zip(chosen, batch.answers(max_new_tokens), strict=True):
                texts[index] = str(tokenizer.decode(answer, skip_special_tokens=True))
    return texts


class _Batch:
    """The answers to some prompts, longest first."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: list[list[int]],
        ends: list[int],
        limits: list[int],
        logit_temperature: float | None,
        uniform_BT: torch.Tensor | None,
        ranks: Ranks,
    ) -> None:
        self._model, self._ranks, self._rows = model, ranks, rows
        self._ends = torch.tensor(ends or [-1], device=model.device)
        self._pad = int(tokenizer.pad_token_id or 0)
        self._limits, self._temperature, self._uniform_BT = limits, logit_temperature, uniform_BT
        self._context = _context(model)
        accepted = inspect.signature(plain_model(model).forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def answers(self, most_steps: int) -> list[list[int]]:
        """Return the tokens of each answer, without the one that ends it.

        In step every worker makes as many calls of the model as the one that makes the most, and no more than
        `most_steps` after the first.
        """
        answers: list[list[int]] = [[] for _ in self._rows]
        alive = list(range(len(self._rows)))
        if not self._ranks.any(bool(alive)):
            return answers
        state = self._read_prompts()
        if state is None and alive:
            return self._by_the_model()
        for step in range(most_steps):
            if state is not None and alive:
                alive, token_B = self._extended(answers, alive, state, step)
            if not self._ranks.any(bool(alive)):
                break
            if state is not None and alive:
                state.logits_BV = self._next(state, token_B)
            else:
                self._idle()
        return answers

    def _extended(
        self, answers: list[list[int]], alive: list[int], state: _State, step: int
    ) -> tuple[list[int], torch.Tensor]:
        """Add a token to each answer; return the rows that are left in the batch, and their tokens.

        A row that has ended but is still in the batch is there as `~row`. None stays beyond its own limit, where the
        model may have no position for it.
        """
        token_B = self._choose(state.logits_BV, alive, step)
        ended_B = torch.isin(token_B, self._ends)
        is_beyond = False
        for place, (token, ended) in enumerate(zip(token_B.tolist(), ended_B.tolist(), strict=True)):
            row = alive[place]
            if row >= 0 and not ended:
                answers[row].append(token)
            is_at_limit = step + 1 >= self._limits[max(row, ~row)]
            is_beyond |= is_at_limit
            if row >= 0 and (ended or is_at_limit):
                alive[place] = ~row
        gone = sum(row < 0 for row in alive)
        if gone == len(alive):
            return [], token_B
        if is_beyond or gone * LEAVE_SHARE >= len(alive):
            stay = [place for place, row in enumerate(alive) if row >= 0]
            alive, token_B = [alive[place] for place in stay], token_B[stay]
            state.keep(stay)
        return alive, token_B

    def _read_prompts(self) -> _State | None:
        """Read each different prompt once; None where the model has a cache of its own kind, or there is no row."""
        if not self._rows:
            self._idle()
            return None
        place_of: dict[tuple[int, ...], int] = {}
        places = [place_of.setdefault(tuple(row), len(place_of)) for row in self._rows]
        ids_UT, mask_UT = _left_padded([list(prompt) for prompt in place_of], self._pad)
        ids_UT, mask_UT = ids_UT.to(self._model.device), mask_UT.to(self._model.device)
        cache = DynamicCache(config=plain_model(self._model).config)
        inputs: dict[str, Any] = {"input_ids": ids_UT, "attention_mask": mask_UT, "past_key_values": cache}
        if self._takes_positions:
            inputs["position_ids"] = (mask_UT.cumsum(1) - 1).clamp(min=0)
        try:
            out = self._model(**inputs, use_cache=True, **self._last_only)
            length = cache.get_seq_length()
        except (TypeError, ValueError, AttributeError) as error:
            logger.debug("%s does not take a key-value cache: %s", type(self._model).__name__, error)
            return None
        if getattr(out, "past_key_values", None) is not cache or length != ids_UT.shape[1]:
            logger.debug("%s has a cache of another kind; its own generate is used", type(self._model).__name__)
            return None
        state = _State(cache, mask_UT, out.logits[:, -1])
        if places != list(range(len(places))):
            state.keep(places)
        return state

    def _next(self, state: _State, token_B: torch.Tensor) -> torch.Tensor:
        if self._context is not None and state.mask_BT.shape[1] >= self._context:
            state.narrow()
        state.mask_BT = torch.cat([state.mask_BT, state.mask_BT.new_ones(len(token_B), 1)], 1)
        inputs = {"input_ids": token_B[:, None], "attention_mask": state.mask_BT, "past_key_values": state.cache}
        if self._takes_positions:
            inputs["position_ids"] = state.mask_BT.sum(1, keepdim=True) - 1
        logits_BV: torch.Tensor = self._model(**inputs, use_cache=True, **self._last_only).logits[:, -1]
        return logits_BV

    def _choose(self, logits_BV: torch.Tensor, alive: list[int], step: int) -> torch.Tensor:
        if self._temperature is None:
            return logits_BV.argmax(-1)
        assert self._uniform_BT is not None
        share_BV = (logits_BV.float() / self._temperature).softmax(-1).double().cumsum(-1)
        uniform_B = self._uniform_BT[[max(row, ~row) for row in alive], step]
        token_B = torch.searchsorted(share_BV, (uniform_B * share_BV[:, -1])[:, None], right=True)[:, 0]
        return token_B.clamp(max=logits_BV.shape[1] - 1)

    def _idle(self) -> None:
        """Compute something while other workers, which share the model, compute their answers."""
        if self._ranks.in_step:
            one = torch.tensor([[self._pad]], device=self._model.device)
            self._model(input_ids=one, attention_mask=torch.ones_like(one), use_cache=False)

    def _by_the_model(self) -> list[list[int]]:
        """Let the model's own `generate` answer.

        Raises:
            ModelError: the model is sharded over workers, which have to compute in step.
        """
        if self._ranks.in_step:
            raise ModelError(
                f"model.path: {type(self._model).__name__} has a cache of its own kind and is sharded over workers; "
                "allowed for generated answers is one of the two; set train.parallelism: ddp"
            )
        answers: list[list[int]] = [[] for _ in self._rows]
        mixes_rows = plain_model(self._model).config.model_type in MIX_ROWS
        # Beside a longer prompt there is padding, which MiniMax and RWKV read.
        alike: dict[tuple[int, int, int], list[int]] = {}
        for row, (prompt, limit) in enumerate(zip(self._rows, self._limits, strict=True)):
            alike.setdefault((len(prompt), limit, row if mixes_rows else 0), []).append(row)
        for (length, limit, _), group in alike.items():
            for row, answer in zip(group, self._generated(group, length, limit), strict=True):
                answers[row] = answer
        return answers

    def _generated(self, group: list[int], length: int, limit: int) -> list[list[int]]:
        """Return the answers to prompts of one length, each with the tokens that its own random numbers choose."""
        ids_BT = torch.tensor([self._rows[row] for row in group], device=self._model.device)

        def only_ours(seen_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
            token_B = self._choose(logits_BV, group, seen_BT.shape[1] - length)
            return torch.full_like(logits_BV, -torch.inf).scatter(1, token_B[:, None], 0.0)

        settings: dict[str, Any] = {
            "max_new_tokens": limit,
            "do_sample": False,
            "pad_token_id": self._pad,
            "eos_token_id": self._ends.tolist() if self._ends[0] >= 0 else None,
            "use_cache": True,
        }
        out_BT = self._model.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            generation_config=GenerationConfig(**settings),  # type: ignore[no-untyped-call]
            logits_processor=LogitsProcessorList([only_ours]),
        )
        ends = set(self._ends.tolist())
        return [_until(row, ends) for row in out_BT[:, length:].tolist()]


class _State:
    """What is known of the rows that are still in the batch."""

    def __init__(self, cache: DynamicCache, mask_BT: torch.Tensor, logits_BV: torch.Tensor) -> None:
        self.cache, self.mask_BT, self.logits_BV = cache, mask_BT, logits_BV

    def keep(self, places: list[int]) -> None:
        """Keep these rows, in this order; a row may be there several times."""
        index_B = torch.tensor(places, device=self.mask_BT.device)
        cache: Any = self.cache
        cache.reorder_cache(index_B)  # layers of linear attention know no `batch_select_indices`
        self.mask_BT, self.logits_BV = self.mask_BT[index_B], self.logits_BV[index_B]

    def narrow(self) -> None:
        """Leave out what is padding in every row: some models have masks that are no wider than their context."""
        width = self.mask_BT.shape[1]
        padding = int(self.mask_BT.any(0).int().argmax())
        layers: list[Any] = self.cache.layers
        if not padding or any(hasattr(layer, "indexer_keys") for layer in layers):
            return
        self.mask_BT = self.mask_BT[:, padding:]
        for layer in layers:
            if getattr(layer, "keys", None) is not None:  # a sliding window holds the last tokens only
                layer.keys, layer.values = layer.keys[:, :, padding - width :], layer.values[:, :, padding - width :]
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length -= padding


def _context(model: Any) -> int | None:
    """Return the most tokens a model has positions for, or None where it does not say."""
    config = plain_model(model).config.get_text_config()
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return found if isinstance(found, int) and found > 0 else None


@contextmanager
def _own_settings(model: Any) -> Iterator[list[int]]:
    """Give the ids that end an answer, while the model's own generation settings are set aside."""
    plain = plain_model(model)
    saved, use_cache = plain.generation_config, getattr(plain.config, "use_cache", None)
    eos = saved.eos_token_id if saved is not None else None
    plain.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    plain.config.use_cache = True
    try:
        yield [end for end in (eos if isinstance(eos, list) else [eos]) if end is not None]
    finally:
        plain.generation_config = saved
        if use_cache is None:  # as of GPT, whose configuration has no such field
            del plain.config.use_cache
        else:
            plain.config.use_cache = use_cache


def _casts_kept(model: Any, ranks: Ranks) -> AbstractContextManager[Any]:
    """Let a forward under autocast find the weights cast by the one before it: else each token casts all of them.

    Autocast drops them where the outermost one ends, also one that does nothing. Shards are not kept.
    """
    return nullcontext() if ranks.in_step else torch.autocast(model.device.type, enabled=False)


def _started(prompt: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return list(prompt) or [int(start if start is not None else tokenizer.pad_token_id or 0)]


def _until(row: list[int], ends: set[int]) -> list[int]:
    return row[: next((place for place, token in enumerate(row) if token in ends), len(row))]


def _left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids_BT = torch.full((len(prompts), width), pad)
    mask_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):
        ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, width - len(prompt) :] = 1
    return ids_BT, mask_BT
