"""Libraries that only some configurations need: found without being imported, and named with their extra.

Imports neither torch nor transformers, so that `check --offline` finds a missing one too.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from rankray.config.schema import Config
from rankray.errors import ConfigError


@dataclass(frozen=True)
class Extra:
    """A library that comes with `pip install rankray[name]`.

    Attributes:
        field: the dotted path of the field that asks for it.
        module: what is imported.
        package: what is installed.
        least: the oldest version that transformers takes.
        name: of our extra.
    """

    field: str
    module: str
    package: str
    least: str
    name: str


QUANTIZATION = Extra("model.quantization", "bitsandbytes", "bitsandbytes", "0.46.1", "quantization")
LIGER = Extra("train.sft.use_liger_kernel", "liger_kernel", "liger-kernel", "0.6", "liger")


def needed(config: Config) -> list[Extra]:
    """Return the libraries that a configuration asks for."""
    asked = {QUANTIZATION: config.model.quantization, LIGER: config.train.sft.get("use_liger_kernel")}
    return [extra for extra, value in asked.items() if value]


def require(extra: Extra) -> None:
    """Refuse a field whose library is missing here or too old.

    Raises:
        ConfigError: it is.
    """
    problem = _problem(extra)
    if problem:
        raise ConfigError(
            f"{extra.field}: {problem}; needed is {extra.package} {extra.least} or newer; pip install "
            f"'rankray[{extra.name}]', or remove it"
        )


def _problem(extra: Extra) -> str:
    if find_spec(extra.module) is None:
        return f"{extra.package} is not installed"
    try:
        version = metadata.version(extra.package)
    except metadata.PackageNotFoundError:
        return f"a {extra.module} of unknown version is installed"
    return f"{extra.package} {version} is installed" if _numbers(version) < _numbers(extra.least) else ""


def _numbers(version: str) -> list[int]:
    """Return the numbers that a version begins with: [0, 46, 1] for 0.46.1.dev2."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return found
