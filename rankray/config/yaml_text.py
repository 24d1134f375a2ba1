"""YAML to plain values, with the place of each; whatever is wrong with the text is one `ConfigError` with its place.

What YAML 1.1 reads in surprising ways is text or a number here: `1e-5` is a number; `1:30`, `2024-01-31` and `0100`
(which would be 64) are text, and a field that is a number takes `0100` for a hundred.
A text may be `MAX_BYTES` long, `MAX_DEPTH` levels deep and, with its aliases written out, hold `MAX_VALUES` values:
an alias that contains itself has no end, and a few lines of aliases of aliases have more values than any memory holds.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from rankray.config.problems import Key
from rankray.errors import ConfigError, first_line, nearest, shown

MAX_BYTES = 1 << 19
MAX_DEPTH = 40
MAX_VALUES = 50_000
DATA_FILES = (".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
"""Endings of files that are given by mistake where a configuration is asked for."""
BRACES = re.compile(r"(?:^|:\s|-\s)\s*[{\[][^{}\[\]]*[}\]]\s*[^\s,}\]#:]")
"""A line with more text after a value in braces or brackets, such as a template that is not in quotes."""
_FLOAT = re.compile(
    r"^[-+]?(?:(?:0|[1-9][\d_]*)(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?(?:0b[01_]+|0x[\da-fA-F_]+|0|[1-9][\d_]*)$")


class _Loader(yaml.SafeLoader):
    """SafeLoader with limits, and without numbers and dates that nobody means."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH:
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, f"more than {MAX_DEPTH} levels deep", mark)
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # the constructors of tags raise anything: ValueError, IndexError, OverflowError ...
            why = first_line(error)
            said = f"{shown(node.value, 60)} cannot be read ({why[:60]})"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from error


def _resolvers() -> dict[str, list[tuple[str, Any]]]:
    replaced = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}
    return {
        first: [(tag, pattern) for tag, pattern in pairs if tag not in replaced]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.yaml_implicit_resolvers = _resolvers()
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_yaml(file: Path, name: str) -> tuple[dict[str, Any], dict[Key, str]]:
    """Read a file that holds a mapping.

    Args:
        file: the file.
        name: how errors call it.

    Returns:
        The mapping, and the place (`file:line`) of each of its values.

    Raises:
        ConfigError: it is missing, too long, not YAML, or something else than a mapping.
    """
    text = _text(file, name)
    places: dict[Key, str] = {}
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            _check_size(root)
            _note_places(root, (), places, name)
        tree = None if root is None else loader.construct_document(root)
    except yaml.YAMLError as error:
        todo = "fix that line"
        if file.suffix in DATA_FILES:
            todo = "this looks like a file of data; give the configuration that names it under data:"
        raise ConfigError(f"{name}:{_problem(error, text)}; {todo}") from error
    if not isinstance(tree, dict) or root is None:
        raise ConfigError(f"{name}: got {type(tree).__name__}; allowed: a mapping; start it with name:, model:, data:")
    return tree, places


def parse_value(text: str) -> Any:
    """Read one YAML value as it would be read in a file.

    Raises:
        ConfigError: it is not YAML, or too much of it, or text without quotes of which YAML would leave something out.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"the value has {len(text):,} characters; allowed are {MAX_BYTES:,}; write it in a file")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        _check_whole(root, text.strip(" \t\r\n"))
        if root is None:
            return None
        _check_size(root)
        _note_places(root, (), {}, "the value")
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        said = _problem(error, text).partition(": ")[2]
        raise ConfigError(f"the value {shown(text, 60)} is {said}; quote or correct it") from error


def _check_whole(root: yaml.Node | None, text: str) -> None:
    """Refuse a text without quotes that YAML reads as another: it leaves out comments, and joins lines.

    Raises:
        ConfigError: the value would be another text than was given.
    """
    is_plain = isinstance(root, yaml.ScalarNode) and root.style is None and root.tag == "tag:yaml.org,2002:str"
    if (root is None and text) or (is_plain and root is not None and root.value != text):
        read = "nothing" if root is None else f"as {shown(root.value, 60)}"
        raise ConfigError(
            f"the value {shown(text, 60)} is read {read} (without quotes YAML leaves out what follows # and joins "
            "lines); allowed: such text in quotes; put it in quotes"
        )


def _text(file: Path, name: str) -> str:
    try:
        kind = os.stat(file).st_mode
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind) or stat.S_ISDIR(kind):
            raise ConfigError(f"{name}: is no file; give the path of a YAML configuration")
        with open(file, "rb") as opened:  # a pipe, too, as in `rankray train <(rankray best NAME --yaml)`
            raw = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = nearest(file.name, [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else [])
        raise ConfigError(f"{name}: no such file{near}; give the path of a YAML configuration") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{name}: cannot be read ({error}); give the path of a YAML configuration") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"{name}: has more than {MAX_BYTES:,} bytes; allowed is a shorter file; give the path of a configuration"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{name}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); allowed is text in UTF-8; save the file again"
        ) from None


def _problem(error: yaml.YAMLError, text: str) -> str:
    """Return `line: not valid YAML: why` of what the parser raised."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        near = text.split("\n")[line - 1 : line]
        quotes = "; text that begins with { or [ needs quotes" if near and BRACES.search(near[0]) else ""
        return f"{line}: not valid YAML: {error.problem or error.context}{quotes}"
    position = getattr(error, "position", 0)
    sign = getattr(error, "character", None)
    line = text.count("\n", 0, position) + 1
    given = f"the character U+{sign:04X} is not allowed" if isinstance(sign, int) else str(error).splitlines()[0]
    return f"{line}: not valid YAML: {given}"


def _check_size(root: yaml.Node) -> None:
    """Refuse an alias inside what it names, and aliases that stand for too many values.

    Raises:
        ComposerError: the text has one of these.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size_of(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise yaml.composer.ComposerError(None, None, "an alias stands inside what it names", node.start_mark)
        if id(node) not in sizes:
            open_nodes.add(id(node))
            children = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                children = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(size_of(child) for child in children)
            open_nodes.discard(id(node))
            if sizes[id(node)] > MAX_VALUES:
                said = f"it holds more than {MAX_VALUES:,} values, with its aliases written out"
                raise yaml.composer.ComposerError(None, None, said, node.start_mark)
        return sizes[id(node)]

    size_of(root)


def _key_text(node: yaml.Node) -> str:
    return shown(node.value) if isinstance(node, yaml.ScalarNode) else "that is a list or a mapping"


def _note_places(node: yaml.Node, key: Key, places: dict[Key, str], name: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            place = f"{name}:{key_node.start_mark.line + 1}"
            if key_node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise ConfigError(f"{place}: got the key {_key_text(key_node)}; allowed: text; put it in quotes")
            child = (*key, key_node.value)
            if child in places:
                raise ConfigError(f"{place}: {shown(key_node.value)}: given twice, first at {places[child]}; keep one")
            places[child] = place
            _note_places(value_node, child, places, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            places[(*key, index)] = f"{name}:{item.start_mark.line + 1}"
            _note_places(item, (*key, index), places, name)
