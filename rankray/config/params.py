"""Values at dotted paths of a configuration: reading one, setting one, and the configuration of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from rankray.config.problems import problems_of
from rankray.config.schema import Config
from rankray.errors import ConfigError


def get_path(config: BaseModel, path: str) -> Any:
    """Return the value at a dotted path; KeyError where there is no such field, None for what a mapping lacks."""
    node: Any = config
    is_free = False
    for part in path.split("."):
        if isinstance(node, BaseModel):
            if part not in type(node).model_fields:
                raise KeyError(path)
            node = getattr(node, part)
            is_free = isinstance(node, Mapping)
        elif isinstance(node, Mapping):
            node = node.get(part)
        elif not (is_free and node is None):
            raise KeyError(path)
    return node


def plain(value: Any) -> Any:
    """Return a field's value as plain JSON types; of a section within it, such as a source, what is not default."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path in nested dicts, making the dicts on the way."""
    *parents, last = path.split(".")
    for part in parents:
        child = tree.get(part)
        if not isinstance(child, dict):
            child = tree[part] = {}
        tree = child
    tree[last] = value


def is_plain_sft(config: Config, params: Mapping[str, Any]) -> bool:
    """Return whether a trial with these values is plain SFT: every token weighted alike, and no KL anchor."""
    objective = params.get("loss.objective", config.loss.objective)
    return bool(objective == "sft" and not params.get("loss.kl_weight", config.loss.kl_weight))


def trial_tree(config: Config, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of one trial as JSON types: `params` set at their paths, and no space.

    It is not validated here: whoever makes a `Config` of it (`config_from`) does that, once.
    """
    tree = config.model_dump(mode="json", exclude={"space"})
    for path, value in params.items():
        set_path(tree, path, value)
    return tree


def config_from(tree: Mapping[str, Any]) -> Config:
    """Return the configuration that a tree of plain values describes.

    Raises:
        ConfigError: a key or a value the configuration does not accept; lists every problem.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(text for _, text in problems_of(error))) from error


def apply_params(config: Config, params: Mapping[str, Any]) -> Config:
    """Return the configuration of one trial, validated: `params` set at their paths, and no space.

    Raises:
        ConfigError: a value the configuration does not accept.
    """
    return config_from(trial_tree(config, params))
