"""What the loss needs of the base model beside the model in training, said and checked before anything starts.

Imports neither torch nor transformers: sizes are read from the files of a local model, and are unknown for a hub id.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rankray.config import LoadedConfig, apply_params
from rankray.config.schema import Config
from rankray.config.space import distributions
from rankray.data.sources import Source, is_local
from rankray.errors import ConfigError
from rankray.loss.knobs import Knobs
from rankray.model.files import local_model, weight_files

logger = logging.getLogger(__name__)


def check_base_model(loaded: LoadedConfig) -> None:
    """Refuse what sharded training cannot hold: a reference model, or a quantized one.

    Raises:
        ConfigError: `loss.kl_weight` or `model.quantization` with sharded training.
    """
    config = loaded.config
    is_sharded = config.train.parallelism == "fsdp" and config.resources.worker_range[1] > 1
    if is_sharded and config.model.quantization is not None:
        raise ConfigError(
            f"{loaded.where('model.quantization')}: model.quantization: {config.model.quantization} with "
            "train.parallelism fsdp, which shards whole weights alone; allowed there is null; remove it, or set "
            "train.parallelism: ddp"
        )
    if is_sharded and _some(config, lambda loss: loss.kl_weight > 0):
        raise ConfigError(
            f"{loaded.where('loss.kl_weight')}: loss.kl_weight with train.parallelism fsdp, whose shards leave no room "
            "for a whole reference model; allowed there is 0; set it, or train.parallelism: ddp"
        )


def base_model_lines(config: Config) -> list[str]:
    """Return what the base model costs beside the model in training, a line each; for `rankray check`."""
    lines = []
    directory = local_model(config.model.path)
    weight_bytes = _weight_bytes(directory)
    if (
        config.model.lora is None
        and config.model.dtype == "auto"
        and _saved_dtype(directory) in ("bfloat16", "float16")
    ):
        more = f": {gigabytes(weight_bytes)} more than the file" if weight_bytes else ""
        lines.append(f"weights are trained in float32 and computed with in 16 bits (model.dtype: auto){more}")
    if _some(config, lambda loss: loss.kl_weight > 0):
        if config.model.lora is not None:
            lines.append("loss.kl_weight: the reference is the model with its adapters off, which takes no memory")
        else:
            size = f", {gigabytes(weight_bytes)}" if weight_bytes else ""
            lines.append(f"loss.kl_weight: each worker holds a frozen copy of the base model{size}")
    if _some(config, lambda loss: loss.needs_base):
        lines.append(f"base model's statistics: 32 bytes a supervised token, computed once{_share(config)}")
    return lines


def _share(config: Config) -> str:
    """Compare a forward pass over the data with a trial's passes, which are three times the work with backward."""
    if not is_local(config.data.train):
        return " for all trials on a node"
    rows, trained = len(Source("train", config.data).examples()), config.full_steps * config.train.batch_size
    return (
        f" for all trials on a node; {rows} examples forward, about {rows / (3 * trained):.2g} of one trial's"
        f" {trained} forward and backward"
    )


def _some(config: Config, is_so: Callable[[Knobs], bool]) -> bool:
    return any(is_so(loss) for loss in _losses(config))


def _losses(config: Config) -> Iterator[Knobs]:
    """Yield the loss as the file has it, and with each choice and bound that the space has for a field of it."""
    yield config.loss
    for path, dist in distributions(config).items():
        if path.startswith("loss."):
            values = dist.choices if dist.kind == "choice" else (dist.low, dist.high)
            for value in values:
                yield apply_params(config, {path: int(value) if dist.kind == "int" else value}).loss


def _weight_bytes(directory: Path | None) -> int:
    return 0 if directory is None else sum(file.stat().st_size for file in weight_files(directory) if file.is_file())


def _saved_dtype(directory: Path | None) -> str:
    if directory is None:
        return ""
    try:
        tree: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.debug("%s: no type of the weights in its config.json: %s", directory, error)
        return ""
    return str(tree.get("dtype") or tree.get("torch_dtype") or "")


def gigabytes(size: int) -> str:
    """Return a size in bytes as text."""
    number, unit = (size / 1e9, "GB") if size >= 1e8 else (size / 1e6, "MB")
    return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.2g} {unit}"
