"""Reading a configuration: YAML to `Config`, with errors that say `file:line`.

`load_config(file, overrides)` reads the file, applies `--set a.b=c` overrides, follows `space:` to its file, validates
everything, and raises one `ConfigError` that lists every problem found, one line each:

    search.yaml:7: loss.temprature: unknown key (did you mean 'temperature'?); allowed: alpha, ...; correct the key
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from rankray.config.params import set_path
from rankray.config.problems import Key, problems_of
from rankray.config.schema import DEFAULT_STORAGE, Config, default_store
from rankray.config.space import key_of, problem_text, space_problems
from rankray.config.where import resolve_tree
from rankray.config.yaml_text import parse_value, read_yaml
from rankray.errors import ConfigError, nearest, shown
from rankray.paths import resolved

MAX_PROBLEMS = 12
GIVEN = ("--set ", "--name", "overrides: ")
"""How the place of a value starts that stands in no file."""
MAPPING = "mapping"
"""What a configuration that is no file is called in errors."""


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and where each of its values was written.

    Attributes:
        config: the validated configuration.
        file: the file it was read from.
        places: key path to `file:line` or `--set path`.
        written: the paths that were made absolute (`where`), as they were written: dotted path to text.
    """

    config: Config
    file: str
    places: dict[Key, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    @property
    def is_from_file(self) -> bool:
        """Whether it was read from a file, and not given as a mapping or a configuration."""
        return any(key[0] != "space" and not place.startswith(GIVEN) for key, place in self.places.items())

    def where(self, path: str) -> str:
        """Return where the value at a dotted path was written, or the nearest enclosing key, or the file.

        A number in the path is the index of an entry of a list; below `space` a whole path is one key.
        """
        if path.startswith("space."):
            return _place(self.places, ("space", path.removeprefix("space.")), self.file)
        key = tuple(int(part) if part.isdecimal() and len(part) < 10 else part for part in path.split("."))
        return _place(self.places, key, self.file)


def load_config(
    file: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), name: str | None = None
) -> LoadedConfig:
    """Read, override and validate a configuration.

    Paths in the file are relative to the file, those in `overrides` and defaults to the current directory; the
    configuration has them all absolute.

    Args:
        file: path of the YAML file.
        overrides: `path=value` strings, of which the value is read as YAML; or a mapping of dotted paths to values.
        name: replaces the study's name.

    Raises:
        ConfigError: the file is missing or not YAML, or anything in it is wrong; lists every problem.

    >>> import rankray
    >>> loaded = rankray.load_config(file, {"train.max_steps": 10})
    >>> loaded.config.name, loaded.config.train.max_steps
    ('demo', 10)
    """
    label = str(file)
    file = _expanded(file)
    tree, places = read_yaml(file, label)
    if name is None:
        tree.setdefault("name", name_of(file))
    return _loaded(tree, places, label, file, overrides, name)


def load_mapping(given: Mapping[str, Any], overrides: Mapping[str, Any]) -> LoadedConfig:
    """Return a configuration that is given as a mapping; paths are relative to the current directory.

    Args:
        given: what a file would hold; paths may be `os.PathLike`, numbers numpy's.
        overrides: dotted path to value.

    Raises:
        ConfigError: something in it is wrong, or nothing that YAML can hold; lists every problem.
    """
    tree = _as_yaml(given, MAPPING)
    return _loaded({"name": "study", **tree}, {}, MAPPING, Path.cwd() / MAPPING, overrides)


def _loaded(
    tree: dict[str, Any],
    places: dict[Key, str],
    label: str,
    file: Path,
    overrides: Sequence[str] | Mapping[str, Any],
    name: str | None = None,
) -> LoadedConfig:
    """Override, resolve and validate what was read.

    Args:
        tree: what was read; changed in place.
        places: of its keys.
        label: what it was read from, for errors.
        file: the same as an absolute path; relative paths are relative to its directory.
        overrides: see `load_config`.
        name: replaces the study's name.

    Raises:
        ConfigError: anything in it is wrong; lists every problem.
    """

    def where(path: str) -> str:
        return _place(places, tuple(path.split(".")), label)

    written = resolve_tree(tree, file.parent, where)
    given = list(parsed_overrides(overrides))
    for path, value, text in given:
        written |= _apply_override(tree, places, path, value, text)
    _steps_for_epochs(tree, [path for path, _, _ in given])
    if name is not None:
        tree["name"], places[("name",)] = name, "--name"
    _follow_space(tree, places, file)
    defaults = {"store": default_store(), "storage": DEFAULT_STORAGE}
    resolve_tree(defaults, Path(), lambda path: "RANKRAY_STORE" if path == "store" else "the default")
    for key, default in defaults.items():
        tree.setdefault(key, default)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems = [f"{_place(places, key, label)}: {text}" for key, text in problems_of(error)]
        raise ConfigError(_list(problems)) from error
    problems = [
        f"{_place(places, key_of(path), label)}: {problem_text(path, message)}"
        for path, message in space_problems(config)
    ]
    if problems:
        raise ConfigError(_list(problems))
    return LoadedConfig(config=config, file=label, places=places, written=written)


def _steps_for_epochs(tree: dict[str, Any], overridden: Sequence[str]) -> None:
    """Let an override of `train.max_steps` take the place of the passes that a file counts."""
    train = tree.get("train")
    if "train.max_steps" in overridden and "train.epochs" not in overridden and isinstance(train, dict):
        train.pop("epochs", None)


def _as_yaml(value: Any, place: str) -> Any:
    """Return what a program gives as YAML would have it: paths as text, numbers and arrays of numpy as Python's.

    Raises:
        ConfigError: YAML cannot hold it.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        if callable(convert := getattr(value, "tolist", None)):
            return convert()
        raise ConfigError(
            f"{place}: got {type(value).__name__} {shown(value)}; allowed: what YAML can hold; correct it"
        )

    try:
        return json.loads(json.dumps(value, default=plain))
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {error}; allowed: what YAML can hold; correct it") from None


def _expanded(file: str | Path) -> Path:
    try:
        return Path(resolved(str(file)))
    except ValueError as error:
        raise ConfigError(f"{shown(str(file))}: {error}") from None


def name_of(file: Path) -> str:
    """Return a study's name from its file's: letters with accents lose them, other characters become dashes."""
    plain = unicodedata.normalize("NFKD", file.stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]", "-", plain).lstrip("._-")[:100] or "study"


def parsed_overrides(given: Sequence[str] | Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted path, value, how it is called in errors) of each override."""
    if isinstance(given, Mapping):
        for path, value in given.items():
            yield str(path), _as_yaml(value, f"overrides: {path}"), f"overrides: {path}"
        return
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigError(
            f"overrides: got {shown(given)}; allowed: a mapping of dotted paths to values, as in "
            "{'study.trials': 12}; write it so"
        )
    for override in given:
        path, equals, text = override.partition("=")
        path = path.strip()
        if not equals or not path:
            raise ConfigError(f"--set {shown(override)}: no value; write --set path=value, as in --set study.trials=12")
        try:
            value = parse_value(text)
        except ConfigError as error:
            raise ConfigError(f"--set {path}: {error}") from error
        yield path, value, f"--set {path}"


def overridden(tree: dict[str, Any], given: Sequence[str] | Mapping[str, Any]) -> Config:
    """Return the configuration that a tree describes that was read from no file, with overrides as in `load_config`.

    Args:
        tree: changed in place.
        given: as for `load_config`; paths are relative to the current directory, and absolute afterwards.

    Raises:
        ConfigError: one of them is not `path=value`, names a path that cannot be, or is refused, and is then named as
            it was given; lists every problem.
    """
    places: dict[Key, str] = {}
    for path, value, place in parsed_overrides(given):
        _apply_override(tree, places, path, value, place)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = [(_place(places, key, ""), text) for key, text in problems_of(error)]
        raise ConfigError(_list([f"{place}: {text}" if place else text for place, text in found])) from error


def _apply_override(tree: dict[str, Any], places: dict[Key, str], path: str, value: Any, place: str) -> dict[str, str]:
    """Set one override, its paths relative to the current directory; return those as they were written."""
    own: dict[str, Any] = {}
    if path.startswith("space."):
        own["space"] = {path.removeprefix("space."): value}
    else:
        set_path(own, path, value)
    written = resolve_tree(own, Path(), lambda _: place)
    if path.startswith("space."):
        space = tree["space"] = {} if tree.get("space") is None else tree["space"]
        if not isinstance(space, dict):
            raise ConfigError(f"{place}: space: is a file ({shown(space)}); edit that file, or set the whole of space")
        space[path.removeprefix("space.")] = own["space"][path.removeprefix("space.")]
        places[("space", path.removeprefix("space."))] = place
        return written
    value, inside = own, tree
    *parents, last = key = tuple(path.split("."))
    for end, part in enumerate(parents, start=1):
        value, inside = value[part], inside.get(part, {}) if isinstance(inside, dict) else {}
        if not isinstance(inside, dict):  # a value that a section takes the place of
            places.pop(key[:end], None)
    set_path(tree, path, value[last])
    for below in [each for each in places if each[: len(key)] == key]:  # what the file had there
        del places[below]
    places[key] = place
    return written


def _follow_space(tree: dict[str, Any], places: dict[Key, str], file: Path) -> None:
    if not isinstance(tree.get("space"), str):
        return
    given = tree["space"]
    place = places.get(("space",), str(file))
    package = Path(__file__).resolve().parent.parent
    shipped = next((d for d in (package.parent, package) if (d / "search_spaces").is_dir()), package)
    base = Path() if place.startswith(("--set", "overrides")) else file.parent
    bases = [base, shipped, shipped / "search_spaces"]
    here = file.resolve()
    try:
        candidates = [Path(resolved(given, base)) for base in bases]
    except ValueError as error:
        raise ConfigError(f"{place}: space: {error}") from None
    found = next((each for each in candidates if os.path.isfile(each) and each.resolve() != here), None)
    if found is None:
        have = sorted(p.name for p in (shipped / "search_spaces").glob("*.yaml"))
        raise ConfigError(
            f"{place}: space: no file {shown(given)}{nearest(given, have)}; give a mapping, or one of {', '.join(have)}"
        )
    space, inner = read_yaml(found, str(found))
    prefix: Key = ()
    if isinstance(space.get("space"), dict):
        space, prefix = space["space"], ("space",)
    tree["space"] = space
    resolve_tree({"space": space}, found.parent, lambda path: str(found))
    for key, value in inner.items():
        if key[: len(prefix)] == prefix and len(key) > len(prefix):
            places[("space", *key[len(prefix) :])] = value


def _place(places: dict[Key, str], key: Key, default: str) -> str:
    if key and key not in places:  # a section that is only there because an option is in it
        for inner, place in places.items():
            if inner[: len(key)] == key and place.startswith(GIVEN):
                return place
    for end in range(len(key), 0, -1):
        if key[:end] in places:
            return places[key[:end]]
    return default


def _list(problems: list[str]) -> str:
    unique = list(dict.fromkeys(problems))
    more = [f"... and {len(unique) - MAX_PROBLEMS} more"] if len(unique) > MAX_PROBLEMS else []
    return "\n".join(unique[:MAX_PROBLEMS] + more)
