"""Whether a model's saved weights are those that its config.json describes, found without reading them.

transformers' own loader compares them, with the names that older versions gave them, tied weights and all; on the meta
device it reads the headers of the files alone, of safetensors and of what `torch.save` wrote.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rankray.config.schema import Config
from rankray.errors import ModelError
from rankray.model.files import model_on_disk, weight_files
from rankray.model.pin import MAIN
from rankray.model.shapes import saved_shapes

logger = logging.getLogger(__name__)


def check_saved_weights(config: Config) -> list[str]:
    """Refuse weights that do not fit the model; return a warning where some of its layers would be left out.

    Nothing is looked at where the weights are not on this machine, or were quantized before they were saved.

    Raises:
        ModelError: some are missing, or of another shape.
    """
    path, revision = config.model.path, config.model.revision
    directory = model_on_disk(path, revision)
    if directory is None or not all(file.is_file() for file in weight_files(directory)) or not saved_shapes(directory):
        return []
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(directory),
            revision=revision or MAIN,
            trust_remote_code=config.model.trust_remote_code,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # code of a model's own, or a form of weights that needs a GPU or a library
        logger.debug("%s: its weights are not compared with its config.json: %s", path, error)
        return []
    model, found = loaded
    if getattr(model.config, "quantization_config", None) is not None:
        return []
    refuse_unfit(found, path)
    return _left_out(model, found, path)


def refuse_unfit(found: Mapping[str, Any], path: str) -> None:
    """Refuse what was loaded where weights are missing, or of another shape than the model's.

    Args:
        found: what `from_pretrained` returns with `output_loading_info`.
        path: the model's, for people.

    Raises:
        ModelError: it does not fit.
    """
    odd = sorted(found.get("mismatched_keys") or [])
    if odd:
        name, saved, wanted = odd[0]
        raise ModelError(
            f"model.path: {len(odd)} of the weights of {path!r} have another shape than its config.json says (first: "
            f"{name} is {_shape(saved)}, and {_shape(wanted)} by config.json); allowed are weights and config.json of "
            "one model; take both from the same place, or save the model again with save_pretrained"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"model.path: the weights of {path!r} lack {len(missing)} of the model's tensors (first: {missing[0]}), "
            "which would start at random; allowed are complete weights of the architecture config.json names; "
            "complete the directory"
        )


def _left_out(model: torch.nn.Module, found: Mapping[str, Any], path: str) -> list[str]:
    """Return a warning where saved layers are not loaded, though the model has others of their kind."""
    own = {_kind(name) for name in model.state_dict()}
    more = sorted(name for name in found["unexpected_keys"] if "*" in _kind(name) and _kind(name) in own)
    if not more:
        return []
    return [
        f"model.path: {len(more)} of the weights of {path!r} are in layers that its config.json does not have (first: "
        f"{more[0]}), and are left out; take weights and config.json from the same place"
    ]


def _kind(name: str) -> str:
    """Return a weight's name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".*.", name)


def _shape(size: Any) -> str:
    return " x ".join(map(str, size))
