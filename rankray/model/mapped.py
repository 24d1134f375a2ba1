"""Base weights shared by the processes of a node: mapped from the model's own files, copied only to be trained.

`from_pretrained` gives each process a copy of its own. `map_weights` exchanges it, tensor by tensor, for the pages of
the safetensors files, which the kernel keeps once for everybody; a tensor whose name, shape, type or value is not the
file's (converted, tied, initialised otherwise) stays as it is. The mapping is private: whoever writes, writes to a copy
of the page, and never to the file.
"""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file


def map_weights(model: PreTrainedModel, path: str) -> int:
    """Exchange a model's weights for the same ones in its files, and return how many bytes are now shared.

    Args:
        model: just loaded, on the CPU.
        path: the directory or hub id it was loaded from.
    """
    own, shared = dict(model.named_parameters()), 0
    for file in _weight_files(path):
        for name, saved in load_file(file).items():
            weight = own.get(name)
            if weight is not None and weight.dtype == saved.dtype and torch.equal(weight.detach(), saved):
                weight.data = saved
                shared += saved.nbytes
    return shared


def copy_to_train(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model of its own with the same weights, in memory of its own."""
    return copy.deepcopy(model)


def copy_to_adapt(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model of its own over the same memory: for adapters, which leave the weights below them as they are."""
    views = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, views)


def _weight_files(path: str) -> list[str]:
    """Return the safetensors files of a model, none where it has none here."""
    with suppress(OSError, ValueError):
        index = _file(path, SAFE_WEIGHTS_INDEX_NAME)
        if index is None:
            whole = _file(path, SAFE_WEIGHTS_NAME)
            return [] if whole is None else [whole]
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
        return [found for name in names if (found := _file(path, name)) is not None]
    return []


def _file(path: str, name: str) -> str | None:
    return cached_file(
        path,
        name,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
