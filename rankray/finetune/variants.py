"""The configurations that a search will train, as far as a check tries each: what the space may choose, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rankray.config import Config, LoadedConfig, apply_params
from rankray.config.distribution import Distribution
from rankray.config.space import distributions, with_conditions
from rankray.errors import ConfigError

SFT = "train.sft."
ALONE = ("model.path", "model.quantization", "model.lora.target_modules")
"""Fields of the model of which each choice is tried."""


def searched_variants(loaded: LoadedConfig) -> Iterator[LoadedConfig]:
    """Yield the configuration with each choice or lower bound the space has for data, model and `train.sft`.

    What else the space gives `train.sft` is there too: one field of it may need another.
    """
    space = distributions(loaded.config)
    for path, distribution in space.items():
        if path in ALONE or path.startswith(("data.", SFT)):
            for value in _first_values(distribution):
                point = _sft_point(loaded.config, with_conditions({path: value}, space, loaded.config))
                yield LoadedConfig(apply_params(loaded.config, point), loaded.file, _places(loaded, point))


def as_drawn(loaded: LoadedConfig) -> LoadedConfig:
    """Return the configuration with a value for each field of `train.sft` that the space gives one."""
    point = _sft_point(loaded.config, {})
    if not point:
        return loaded
    config = loaded.config.model_copy(update={"train": apply_params(loaded.config, point).train})
    return LoadedConfig(config, loaded.file, _places(loaded, point))


def check_kept_processes(loaded: LoadedConfig) -> None:
    """Refuse to search what changes a process for good: a slot keeps its process from trial to trial.

    Raises:
        ConfigError: Liger's kernels are searched, which replace modules of transformers.
    """
    for path in loaded.config.space:
        if path.startswith((f"{SFT}use_liger_kernel", f"{SFT}liger_kernel_config")):
            raise ConfigError(
                f"{_space_place(loaded, path)}: space.{path}: cannot be searched, because Liger's kernels stay in the "
                "process for the trials after; allowed is one value for the study; set it under train.sft"
            )


def _sft_point(config: Config, given: dict[str, Any]) -> dict[str, Any]:
    """Return given parameters, and the first values of the fields of `train.sft` that exist beside them."""
    point: dict[str, Any] = {}
    for path, distribution in distributions(config).items():
        if path in given:
            point[path] = given[path]
        elif path.startswith(SFT) and distribution.active({**given, **point}, config):
            point[path] = _first_values(distribution)[0]
    return point


def _first_values(distribution: Distribution) -> tuple[Any, ...]:
    """Return the choices, or the lower bound."""
    low = int(distribution.low) if distribution.kind == "int" else distribution.low
    return distribution.choices or (low,)


def _places(loaded: LoadedConfig, point: dict[str, Any]) -> dict[tuple[str | int, ...], str]:
    """Return the places of the file, and for each drawn field where the space has it."""
    places: dict[tuple[str | int, ...], str] = dict(loaded.places)
    for path in point:
        places[tuple(path.split("."))] = _space_place(loaded, path)
    return places


def _space_place(loaded: LoadedConfig, path: str) -> str:
    return loaded.places.get(("space", path), loaded.file)
