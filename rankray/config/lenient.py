"""The configuration of a study that this version would refuse: what is finished is shown, exported and deleted anyway.

Another version may have had other fields or wider limits. Who only looks gets the configuration with what this version
knows. What a study is made from is still compared and checked where it is opened to work on it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rankray.config.fields import all_fields, keys_of
from rankray.config.params import trial_tree
from rankray.config.problems import problems_of
from rankray.config.schema import Config
from rankray.config.secrets import secret_paths
from rankray.errors import listed, shown

UNREADABLE = "unreadable"
"""What stands in place of a value that every study has, and that cannot be read."""
MOST_ROUNDS = 50
"""How often something is taken out: where one thing is wrong, another may not have been looked at."""
Key = tuple[str | int, ...]
AnyModel = TypeVar("AnyModel", bound=BaseModel)


def readable(stored: Mapping[str, Any], url: str) -> tuple[Config, list[str]]:
    """Return the configuration of a stored study for who looks at it, and a line for each thing that does not fit.

    A field that is unknown, or of another kind, is left out, and so is a secret. A value that is not allowed stays.

    Args:
        stored: all of it but its store, as JSON has it.
        url: masked, stands in for its store.

    Raises:
        ValidationError: it is no configuration at all.
    """
    tree, refused, staying = copy.deepcopy(dict(stored)), dict[Key, Any](), set[Key]()
    for rounds in range(MOST_ROUNDS):
        try:
            config = Config.model_validate({**tree, "store": url})
            break
        except ValidationError as error:
            found = _refused(tree, error, url)
            if not found or rounds == MOST_ROUNDS - 1:
                raise
        for key, stays in found.items():
            value = _taken_out(tree, key)
            refused.setdefault(key, value)
            staying |= {key} if stays and _is_plain(value) and value != UNREADABLE else set()
    config, unknown = _with_known_space(config)  # parsed before anything is there by which all would be refused
    refused |= {("space", path): stored["space"][path] for path in unknown}
    secret = {key for key, value in refused.items() if next(secret_paths({_dotted(key): value}), None)}
    for key in staying - secret:
        config = _with(config, key, refused[key])
    if staying:  # pydantic would say of each again, whenever the configuration is written
        warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
    return config, [_dotted(key) + f": {shown(refused[key])}" * (key not in secret) for key in refused]


def unfit(name: str, refused: Sequence[str]) -> str:
    """Return what is said of a study that another version made with what this one refuses, or an empty string."""
    return f"{name}: another version of rankray made it, with what this one refuses: {listed(refused)}" * bool(refused)


def params_of(config: Config, params: Mapping[str, Any]) -> Config:
    """Return the configuration of a trial that is finished, as `apply_params` does, also where it would be refused."""
    return readable(trial_tree(config, params) | {"space": {}}, config.store)[0]


def _refused(tree: dict[str, Any], error: ValidationError, url: str) -> dict[Key, bool]:
    """Return the fields that are to be taken out of a tree, and whether what they have is of the right kind."""
    found: dict[Key, bool] = {}
    for named, _ in problems_of(error):
        key = _field_of(named)
        if keys_of(_dotted(key)) and isinstance(_at(tree, key), dict):
            key = _culprit(tree, key, url)
        kinds = [item["type"] for item in error.errors() if item["loc"][: len(key)] == key] or ["value_error"]
        if key:
            found[key] = not all(_says_kind(kind) for kind in kinds)
    return found


def _says_kind(kind: str) -> bool:
    """Whether one of pydantic's errors says that a value is of another kind, or that there is no such field."""
    return kind in ("extra_forbidden", "missing") or kind.endswith(("_type", "_parsing", "_from_float"))


def _field_of(named: Key) -> Key:
    """Return the field or section that an error names; entries of a list or a mapping are their field."""
    if named[:1] == ("space",):
        return named[:2]
    end = next((end for end in range(1, len(named)) if not keys_of(_dotted(named[:end]))), len(named))
    return named[:end]


def _culprit(tree: dict[str, Any], section: Key, url: str) -> Key:
    """Return the field of a section that contradicts the others: without it the section is no longer refused."""
    for name in _at(tree, section):
        rest = copy.deepcopy(tree)
        del _at(rest, section)[name]
        try:
            Config.model_validate({**rest, "store": url})
        except ValidationError as error:
            if any(key[: len(section)] == section for key, _ in problems_of(error)):
                continue
        return (*section, name)
    return section


def _taken_out(tree: dict[str, Any], key: Key) -> Any:
    """Take a field out of a tree, and return what it had; where every study has one, something else takes its place."""
    parent = _at(tree, key[:-1])
    value = parent.pop(key[-1], None)
    field = all_fields().get(_dotted(key))
    if field is not None and field.is_required() and value != UNREADABLE:
        parent[key[-1]] = UNREADABLE
    return value


def _at(tree: dict[str, Any], key: Key) -> Any:
    node: Any = tree
    for part in key:
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(e, dict) for e in value))


def _with(node: AnyModel, key: Key, value: Any) -> AnyModel:
    """Return a section with a value at a key, which is not validated."""
    name = str(key[0])
    inner = getattr(node, name, None)
    if key[1:]:
        value = _with(inner, key[1:], value) if isinstance(inner, BaseModel) else inner
    return node.model_copy(update={name: value})


def _with_known_space(config: Config) -> tuple[Config, list[str]]:
    """Return the configuration with what can be read of its space, parsed, and the paths of the rest."""
    left, kept = dict(config.space), dict[str, Any]()
    if not config.search_space.problems:
        return config, []
    while ready := [path for path in left if not _parsed(config, {**kept, path: left[path]}).search_space.problems]:
        kept[ready[0]] = left.pop(ready[0])
    return _parsed(config, kept), list(left)


def _parsed(config: Config, space: dict[str, Any]) -> Config:
    """Return a configuration with another space, which its copies have parsed, too."""
    made = config.model_copy(update={"space": space})
    _ = made.search_space
    return made


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))
