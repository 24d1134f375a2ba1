"""What a process keeps from one trial to the next: tokenizer, tokenised data, base weights.

A trial in a used process gives the same numbers as in a fresh one: each gets its own copy of the saved weights, and
`finetune.process` restores everything else that training changes. Each thing is kept under a key that holds everything
it depends on (files by path, size and modification time), and only the last few of each kind are kept.
"""

from __future__ import annotations

import gc
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rankray.config.schema import Config
from rankray.data.chat_template import use_template
from rankray.data.sources import file_stamps
from rankray.data.tokenize import Split, load_split
from rankray.errors import ConfigError, ModelError, first_line
from rankray.model.files import local_model
from rankray.model.head import check_head
from rankray.model.mapped import copy_to_adapt, copy_to_train, map_weights
from rankray.model.pin import MAIN
from rankray.model.quantized import check_saved_form, loading_options
from rankray.model.saved import refuse_unfit

logger = logging.getLogger(__name__)

Value = TypeVar("Value")
KEPT = {"tokenizer": 2, "config": 2, "model": 1, "split": 6}
"""How many of each kind are kept."""
RESIDENT_BYTES = 8 << 30
"""A model with more bytes of unmapped weights is loaded again for each trial: a second copy would cost too much."""

_kept: dict[str, OrderedDict[Hashable, Any]] = {kind: OrderedDict() for kind in KEPT}


def forget() -> None:
    """Drop everything that is kept."""
    for entries in _kept.values():
        entries.clear()
    gc.collect()


def tokenizer_of(config: Config) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, with a padding token (EOS where it has none of its own).

    Raises:
        ModelError: it cannot be loaded, or has neither padding nor EOS token.
    """
    path = config.model.path

    def load() -> PreTrainedTokenizerBase:
        place = _model_place(path)
        try:
            found = AutoTokenizer.from_pretrained(
                place, revision=config.model.revision or MAIN, trust_remote_code=config.model.trust_remote_code
            )
        except Exception as error:
            raise _load_error("tokenizer", path, error) from error
        use_template(found, config.data.chat_template)
        found.pad_token = found.pad_token or found.eos_token
        if found.pad_token is None:
            raise ModelError(
                f"model.path: the tokenizer of {path!r} has neither a padding nor an EOS token; one is needed; add one "
                "and save the tokenizer again"
            )
        return found

    key = (_model_key(config), config.model.trust_remote_code, config.data.chat_template)
    return _keep("tokenizer", key, load)


def split_of(split: str, config: Config, tokenizer: PreTrainedTokenizerBase) -> Split:
    """Return a split, tokenised; see `load_split`."""
    data, limit = config.data, config.data.max_length
    context = getattr(model_config(config).get_text_config(), "max_position_embeddings", None)
    if isinstance(context, int) and context > 0:
        limit = min(limit, context)
    first = config.evaluate.max_examples if split == "eval" else None
    source = getattr(data, split)
    made_from = json.dumps([data.model_dump(mode="json"), [] if source is None else file_stamps(source)])
    key = (split, made_from, limit, first, _model_key(config), config.model.trust_remote_code)
    return _keep("split", key, lambda: load_split(split, data, tokenizer, limit, first))


def fresh_model(config: Config, checkpoint: str | None = None) -> PreTrainedModel:
    """Return the base model with its saved weights, on the CPU, for the caller to change freely.

    A quantized one is on the process's GPU, and for adapters alone.

    Args:
        config: whose `model:` block names the model and its type.
        checkpoint: a directory with weights of the same model to load instead of the base model's.

    Raises:
        ModelError: it cannot be loaded, or computes its logits in an unknown way.
        ConfigError: float16 without an accelerator, or a quantized model without a CUDA device.
    """
    if checkpoint is not None:
        return _load_model(config, checkpoint, _dtype(config))
    model = _base_model(config, copy_to_train if config.model.lora is None else copy_to_adapt)
    if config.model.quantization is None and model.dtype != _dtype(config):
        torch.nn.Module.to(model, _dtype(config))  # from 16 bits to 32, without rounding
    return model


def frozen_model(config: Config) -> PreTrainedModel:
    """Return the base model with its saved weights, in evaluation mode and not trainable, on the CPU.

    A quantized one is on the process's GPU.

    Its weights are those that are kept for all trials, not a copy, so they must not be changed in place. Moving it to
    another device or type makes new ones.

    Raises:
        ModelError, ConfigError: as `fresh_model`.
    """
    model = _base_model(config, copy_to_adapt)
    model.requires_grad_(False)
    model.train(False)
    return model


def model_stamp(config: Config) -> list[Any]:
    """Return what identifies the base model's weights, as plain JSON types: its files with size and time, or its hub id
    and revision; and how it computes.
    """
    directory = local_model(config.model.path)
    local = directory is not None and directory.is_dir()
    files = [list(file) for file in _model_key(config)[1]] if local else []
    given = config.model
    stamp = [str(given.path), files, given.revision, str(configured_dtype(config)), given.attn_implementation]
    return stamp if given.quantization is None else [*stamp, given.quantization]


def _base_model(config: Config, copied: Callable[[PreTrainedModel], PreTrainedModel]) -> PreTrainedModel:
    """Return a copy of the kept model, which has the type it was saved in, or that `model.dtype` names."""
    given = config.model
    if given.quantization is not None:  # bitsandbytes' weights are no plain tensors, of which views can be made
        return _quantized_model(config)
    key = (_model_key(config), configured_dtype(config), given.attn_implementation, given.trust_remote_code)
    if key in _kept["model"]:
        return copied(_kept["model"][key])
    _kept["model"].clear()
    model = _load_model(config, _model_place(config.model.path), configured_dtype(config))
    check_head(model)
    mapped = map_weights(model, _model_place(config.model.path))
    if sum(p.numel() * p.element_size() for p in model.parameters()) - mapped <= RESIDENT_BYTES:
        return copied(_keep("model", key, lambda: model))
    logger.debug("%s is too large to keep, each trial loads it again", config.model.path)
    return model


def _quantized_model(config: Config) -> PreTrainedModel:
    """Load a quantized model; none is kept, so each trial loads it anew."""
    check_saved_form(model_config(config), config.model.quantization)
    model = _load_model(config, _model_place(config.model.path), configured_dtype(config))
    check_head(model)
    return model


def computes_in_half(config: Config) -> bool:
    """Whether training is to run in float16 with loss scaling.

    Raises:
        ConfigError: float16 without an accelerator.
    """
    half = configured_dtype(config) == torch.float16
    if half and not torch.accelerator.is_available():
        given = config.model.dtype + (" (saved as float16)" if config.model.dtype == "auto" else "")
        raise ConfigError(
            f"model.dtype: {given} on a CPU, where float16 does not train; allowed there are float32 and bfloat16; "
            "set one of them"
        )
    return half


def _load_model(config: Config, path: str, dtype: torch.dtype) -> PreTrainedModel:
    options = loading_options(config, dtype)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=config.model.revision or MAIN,
            dtype=dtype,
            attn_implementation=config.model.attn_implementation,
            trust_remote_code=config.model.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=config.model.quantization is None,  # refused below, with its name
            **options,
        )
    except Exception as error:
        raise _load_error("model", path, error) from error
    model: PreTrainedModel = loaded[0]
    refuse_unfit(loaded[1], path)
    return model


def keeps_master_weights(config: Config) -> bool:
    """Whether bfloat16 weights are trained as float32 ones and computed with under autocast in bfloat16.

    So it is where all weights are trained and `model.dtype` names no type: a small update is rounded away in bfloat16.
    """
    is_auto = config.model.dtype == "auto" and config.model.lora is None
    return is_auto and configured_dtype(config) == torch.bfloat16


def _dtype(config: Config) -> torch.dtype:
    """Return the type of the weights in memory: float32 for full fine-tuning in float16, or with master weights."""
    half = computes_in_half(config) and config.model.lora is None
    return torch.float32 if half or keeps_master_weights(config) else configured_dtype(config)


def configured_dtype(config: Config) -> torch.dtype:
    """Return `model.dtype`, or for `auto` the type that the weights were saved in."""
    dtype = model_config(config).dtype if config.model.dtype == "auto" else getattr(torch, config.model.dtype)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def model_config(config: Config) -> Any:
    """Return the model's own configuration, of transformers.

    Raises:
        ModelError: it cannot be loaded.
    """
    path = config.model.path

    def load() -> Any:
        place = _model_place(path)
        try:
            return AutoConfig.from_pretrained(
                place, revision=config.model.revision or MAIN, trust_remote_code=config.model.trust_remote_code
            )
        except Exception as error:
            raise _load_error("model", path, error) from error

    return _keep("config", (_model_key(config), config.model.trust_remote_code), load)


def _model_place(path: str) -> str:
    """Return what `from_pretrained` is given: the absolute directory, or the hub id."""
    directory = local_model(path)
    if directory is not None and not directory.is_dir():
        raise ModelError(f"model.path: no directory {path!r}; allowed is a model directory or a hub id; fix the path")
    return path if directory is None else str(directory)


def _model_key(config: Config) -> tuple[str, Any]:
    path = config.model.path
    directory = local_model(path)
    if directory is None or not directory.is_dir():
        return path, config.model.revision
    return str(directory.resolve()), _stamp(sorted(p for p in directory.iterdir() if p.is_file()))


def _stamp(files: list[Path]) -> Hashable:
    return tuple((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _keep(kind: str, key: Hashable, make: Callable[[], Value]) -> Value:
    """Return what is kept under a key, made where it is missing; the least recently used entries are dropped."""
    entries: OrderedDict[Hashable, Value] = _kept[kind]
    if key not in entries:
        entries[key] = make()
    entries.move_to_end(key)
    while len(entries) > KEPT[kind]:
        entries.popitem(last=False)
    return entries[key]


def _load_error(what: str, path: str, error: Exception) -> ModelError:
    first = first_line(error)
    return ModelError(
        f"model.path: the {what} of {path!r} cannot be loaded ({first}); allowed is a hub id or a local directory of a "
        "causal language model; check the path, the connection and model.trust_remote_code"
    )
