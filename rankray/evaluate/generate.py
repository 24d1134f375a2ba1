"""Answers of a model: greedy or sampled, in left-padded batches, without the model's own generation settings.

A model's saved generation settings (repetition penalty, top-k, ...) replace every setting that a call to `generate`
does not give. They are set aside during generation, so greedy means greedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rankray.model.head import plain_model


def generate_texts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
    logit_temperature: float | None = None,
) -> list[str]:
    """Return the model's answer to each prompt, without special tokens.

    Args:
        model: in eval mode; with or without LoRA.
        tokenizer: the model's.
        prompts: token ids; an empty prompt is answered from the EOS token.
        batch_size: prompts at a time, longest first.
        max_new_tokens: the most tokens of an answer; fewer if the model's context ends earlier.
        logit_temperature: sample at this temperature with torch's generator; None takes the most likely token.
    """
    context = getattr(plain_model(model).config.get_text_config(), "max_position_embeddings", None)
    texts = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    with _generation_settings(model, tokenizer, max_new_tokens, logit_temperature) as settings:
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            ids_BT, mask_BT = _left_padded([prompts[i] for i in chosen], tokenizer)
            room = context - ids_BT.shape[1] if isinstance(context, int) and context > 0 else max_new_tokens
            if room < 1:
                continue
            settings.max_new_tokens = min(max_new_tokens, room)
            out_BT = model.generate(
                input_ids=ids_BT.to(model.device), attention_mask=mask_BT.to(model.device), generation_config=settings
            )
            answers = tokenizer.batch_decode(out_BT[:, ids_BT.shape[1] :], skip_special_tokens=True)
            for index, text in zip(chosen, answers, strict=True):
                texts[index] = text
    return texts


@contextmanager
def _generation_settings(
    model: Any, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, logit_temperature: float | None
) -> Iterator[GenerationConfig]:
    """Give the settings to generate with, while the model's own are set aside."""
    plain = plain_model(model)
    saved, use_cache = plain.generation_config, plain.config.use_cache
    ends = saved.eos_token_id if isinstance(saved.eos_token_id, list) else [saved.eos_token_id]
    ends = sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": logit_temperature is not None,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": ends or None,
        "bos_token_id": tokenizer.bos_token_id,
        "use_cache": True,
    }
    if logit_temperature is not None:
        settings |= {"temperature": logit_temperature, "top_k": 0, "top_p": 1.0}
    plain.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    plain.config.use_cache = True
    try:
        yield GenerationConfig(**settings)  # type: ignore[no-untyped-call]
    finally:
        plain.generation_config, plain.config.use_cache = saved, use_cache


def _left_padded(
    prompts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> tuple[torch.Tensor, torch.Tensor]:
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    filled = [list(prompt) or [start if start is not None else tokenizer.pad_token_id] for prompt in prompts]
    width = max(len(prompt) for prompt in filled)
    ids_BT = torch.full((len(filled), width), int(tokenizer.pad_token_id or 0))
    mask_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(filled):
        ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, width - len(prompt) :] = 1
    return ids_BT, mask_BT
