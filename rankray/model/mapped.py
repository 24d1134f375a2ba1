"""Base weights shared by the processes of a node: mapped from the model's own files, copied only to be trained.

`from_pretrained` gives each process its own copy. `map_weights` replaces it, tensor by tensor, with the pages of the
safetensors files, which the kernel keeps once for all processes. A tensor whose name, shape, type or value differs from
the file's (converted, tied, initialised in another way) stays as it is. The mapping is private: a write goes to a copy
of the page and never to the file.
"""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

logger = logging.getLogger(__name__)


def map_weights(model: PreTrainedModel, path: str) -> int:
    """Replace a model's weights with the same ones in its files, and return how many bytes are now shared.

    Args:
        model: freshly loaded, on the CPU.
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
    """Return a copy of a model whose weights have their own memory."""
    return copy.deepcopy(model)


def copy_to_adapt(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model over the same memory: for adapters, which do not change the weights below them."""
    views = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, views)


def _weight_files(path: str) -> list[str]:
    """Return the safetensors files of a model that are on this node; none where there are none."""
    index = _file(path, SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        whole = _file(path, SAFE_WEIGHTS_NAME)
        return [] if whole is None else [whole]
    try:
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError) as error:
        logger.debug("%s cannot be read, weights are not mapped: %s", index, error)
        return []
    return [found for name in names if (found := _file(path, name)) is not None]


def _file(path: str, name: str) -> str | None:
    """Return where a file of a model is on this node, or None."""
    try:
        found: str | None = cached_file(path, name, local_files_only=True)
    except (OSError, ValueError) as error:
        logger.debug("%s of %s is not on this node: %s", name, path, error)
        return None
    return found
