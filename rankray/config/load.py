"""Reading a configuration: YAML to `Config`, with errors that say `file:line`.

`load_config(file, overrides)` reads the file, applies `--set a.b=c` overrides, follows `space:` to its file, validates
everything, and raises one `ConfigError` that lists every problem found, one line each:

    search.yaml:7: loss.temprature: unknown key (did you mean 'temperature'?); allowed: alpha, ...; correct the key
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rankray.config.params import set_path
from rankray.config.problems import Key, problems_of
from rankray.config.schema import Config
from rankray.config.space import space_problems
from rankray.errors import ConfigError, nearest

MAX_PROBLEMS = 12


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-5` as a number (in YAML 1.1 it is a string)."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and where each of its values was written.

    Attributes:
        config: the validated configuration.
        file: the file it was read from.
        places: key path to `file:line` or `--set path`.
    """

    config: Config
    file: str
    places: dict[Key, str] = field(default_factory=dict)

    def where(self, path: str) -> str:
        """Return where the value at a dotted path was written, or the nearest enclosing key, or the file."""
        return _place(self.places, tuple(path.split(".")), self.file)


def load_config(file: str | Path, overrides: Sequence[str] = (), name: str | None = None) -> LoadedConfig:
    """Read, override and validate a configuration.

    Args:
        file: path of the YAML file.
        overrides: `path=value` strings; the value is read as YAML.
        name: replaces the study's name.

    Raises:
        ConfigError: the file is missing or not YAML, or anything in it is wrong; lists every problem.
    """
    shown = str(file)
    tree, places = _read(Path(file), shown)
    for override in overrides:
        _apply_override(tree, places, override)
    if name is not None:
        tree["name"], places[("name",)] = name, "--name"
    if "name" not in tree:
        tree["name"] = re.sub(r"[^A-Za-z0-9._-]", "-", Path(file).stem)
    _follow_space(tree, places, Path(file))
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems = [f"{_place(places, key, shown)}: {text}" for key, text in problems_of(error)]
        raise ConfigError(_list(problems)) from error
    problems = [
        f"{_place(places, ('space', path), shown)}: space.{path}: {message}" for path, message in space_problems(config)
    ]
    if problems:
        raise ConfigError(_list(problems))
    return LoadedConfig(config=config, file=shown, places=places)


def parse_value(text: str) -> Any:
    """Read one YAML value as it would be read in a file."""
    return yaml.load(text, Loader=_Loader)


def _read(file: Path, shown: str) -> tuple[dict[str, Any], dict[Key, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = nearest(file.name, [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else [])
        raise ConfigError(f"{shown}: no such file{near}; give the path of a YAML configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: cannot be read ({error}); give the path of a YAML configuration") from error
    places: dict[Key, str] = {}
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        tree = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{shown}:{line}: not valid YAML: {error.problem}; fix that line") from error
    if not isinstance(tree, dict) or root is None:
        raise ConfigError(f"{shown}: got {type(tree).__name__}; allowed: a mapping; start it with name:, model:, data:")
    _note_places(root, (), places, shown)
    return tree, places


def _note_places(node: yaml.Node, key: Key, places: dict[Key, str], shown: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            child = (*key, key_node.value)
            place = f"{shown}:{key_node.start_mark.line + 1}"
            if child in places:
                raise ConfigError(f"{place}: {key_node.value}: given twice, first at {places[child]}; keep one")
            places[child] = place
            _note_places(value_node, child, places, shown)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            places[(*key, index)] = f"{shown}:{item.start_mark.line + 1}"
            _note_places(item, (*key, index), places, shown)


def _apply_override(tree: dict[str, Any], places: dict[Key, str], override: str) -> None:
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not path:
        raise ConfigError(f"--set {override}: no value; write --set path=value, as in --set study.trials=12")
    try:
        value = parse_value(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML ({error}); quote or correct it") from error
    place = f"--set {path}"
    if path.startswith("space."):
        space = tree.setdefault("space", {})
        if not isinstance(space, dict):
            raise ConfigError(f"{place}: space: is a file ({space}); edit that file, or set the whole of space")
        space[path.removeprefix("space.")] = value
        places[("space", path.removeprefix("space."))] = place
        return
    set_path(tree, path, value)
    places[tuple(path.split("."))] = place


def _follow_space(tree: dict[str, Any], places: dict[Key, str], file: Path) -> None:
    if not isinstance(tree.get("space"), str):
        return
    given = tree["space"]
    place = places.get(("space",), str(file))
    package = Path(__file__).resolve().parent.parent
    shipped = next((d for d in (package.parent, package) if (d / "search_spaces").is_dir()), package)
    bases = [Path(), file.parent, shipped, shipped / "search_spaces"]
    here = file.resolve()
    found = next(
        (base / given for base in bases if (base / given).is_file() and (base / given).resolve() != here), None
    )
    if found is None:
        have = sorted(p.name for p in (shipped / "search_spaces").glob("*.yaml"))
        raise ConfigError(
            f"{place}: space: no file {given!r}{nearest(given, have)}; give a mapping, or one of {', '.join(have)}"
        )
    space, inner = _read(found, str(found))
    prefix: Key = ()
    if isinstance(space.get("space"), dict):
        space, prefix = space["space"], ("space",)
    tree["space"] = space
    for key, value in inner.items():
        if key[: len(prefix)] == prefix and len(key) > len(prefix):
            places[("space", *key[len(prefix) :])] = value


def _place(places: dict[Key, str], key: Key, default: str) -> str:
    for end in range(len(key), 0, -1):
        if key[:end] in places:
            return places[key[:end]]
    return default


def _list(problems: list[str]) -> str:
    unique = list(dict.fromkeys(problems))
    more = [f"... and {len(unique) - MAX_PROBLEMS} more"] if len(unique) > MAX_PROBLEMS else []
    return "\n".join(unique[:MAX_PROBLEMS] + more)
