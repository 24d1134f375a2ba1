"""Liger's kernels for the layers of a model, with `train.sft: {use_liger_kernel: true}`: never for the loss.

transformers applies them to the model when training starts. Those for the loss would replace the model's forward, or
the function that the loss is made with; rankray's loss is computed from the hidden states below, and stays.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from rankray.config.schema import Config
from rankray.errors import ConfigError, nearest, shown
from rankray.finetune.sft_fields import LIGER_LOSSES

logger = logging.getLogger(__name__)

FIELD, SETTINGS = "train.sft.use_liger_kernel", "train.sft.liger_kernel_config"


def layer_kernels(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `liger_kernel_config` as given, with the kernels for the loss switched off."""
    return {**(given or {}), **dict.fromkeys(LIGER_LOSSES, False)}


def check_liger(config: Config, model_type: str, remote: bool) -> str:
    """Refuse Liger's kernels where they would not run, or replace nothing.

    Args:
        config: of one trial.
        model_type: the architecture, as in the model's config.json.
        remote: whether the workers have GPUs that this machine has not.

    Returns:
        What could not be looked at, or an empty text.

    Raises:
        ConfigError: no GPU, an architecture without kernels, or a kernel that it does not have.
    """
    if not config.train.sft.get("use_liger_kernel"):
        return ""
    if not (remote or torch.cuda.is_available()):
        raise ConfigError(
            f"{FIELD}: got true without a CUDA device, for which its kernels are; allowed there is false; remove it, "
            "or give each worker a GPU with resources.gpus_per_worker"
        )
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as table
    except Exception as error:  # its kernels look for a GPU's driver when they are imported
        logger.debug("liger_kernel cannot be imported here", exc_info=True)
        return f"{FIELD}: liger_kernel cannot be imported here ({type(error).__name__})"
    check_kernels(table, model_type, config.train.sft.get("liger_kernel_config") or {})
    return ""


def check_kernels(table: Mapping[str, Callable[..., Any]], model_type: str, given: Mapping[str, Any]) -> None:
    """Refuse what Liger would silently leave out.

    Args:
        table: architecture -> the function that applies the kernels; its arguments are their names.
        model_type: the architecture.
        given: `liger_kernel_config`.

    Raises:
        ConfigError: it has no kernels for the architecture, or not the one that is named.
    """
    if model_type not in table:
        raise ConfigError(
            f"{FIELD}: got true, and Liger has no kernels for {model_type}{nearest(model_type, table)}; allowed are "
            f"{', '.join(sorted(table))}; remove it"
        )
    names = [name for name in inspect.signature(table[model_type]).parameters if name not in ("model", *LIGER_LOSSES)]
    for name in given:
        if name not in (*names, *LIGER_LOSSES):
            raise ConfigError(
                f"{SETTINGS}: got {shown(name)}, which Liger has not for {model_type}{nearest(name, names)}; allowed: "
                f"{', '.join(names)}; correct or remove it"
            )
