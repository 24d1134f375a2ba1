"""The errors rankray raises, all under one root.

    RankrayError                    anything rankray raises itself; `exit_code` is what the command line returns
    ├── UserError (ValueError)      bad input, found before anything expensive starts (exit 2)
    │   ├── ConfigError             the YAML, `--set`, or a value in it
    │   ├── DataError               a data file, its columns, or what tokenising leaves of it
    │   ├── ModelError              a model or tokenizer that cannot be loaded as asked
    │   ├── LossError               a loss called with impossible arguments
    │   ├── ClusterError            a Ray cluster that does not answer, or refuses us
    │   ├── SubmitError             a cluster that accepts no jobs, or accepts them from anybody
    │   ├── StorageError            a place for checkpoints that cannot be written or read (resumable)
    │   │   ├── StorageFull         it is full
    │   │   └── CheckpointDamaged   a checkpoint is incomplete, or not as it was written
    │   └── StoreError              a store URL, a study name
    │       └── StudyMismatch       a study of that name exists with another configuration
    ├── StoreUnavailable            the store is unreachable (exit 1; resumable)
    ├── StudyGone                   the study was deleted while this driver worked on it (exit 1)
    ├── LeaseLost                   this driver no longer owns the trial it writes to (internal)
    ├── LeaseFailed                 this driver can no longer show that it is alive (exit 1; resumable)
    └── SearchFailed                the search ran and failed (exit 1)

Messages read `where: what was given; what is allowed; what to do`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

LONGEST_NAME = 100
"""Characters of a name or a value that an error message shows."""
LONGEST_LINE, MOST_LINES = 1_500, 200
"""Characters of a line, and lines, of an error message: what a user gave may be of any size, wherever it is named."""

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)


class RankrayError(Exception):
    """Root of everything rankray raises on purpose.

    Args:
        message: what is wrong. Lines that are too long are cut in the middle, further lines are counted, and control
            characters are written out: names and values in it may come from anywhere.

    >>> import rankray
    >>> try:
    ...     rankray.load({"model": {"path": "org/model"}})
    ... except rankray.RankrayError as error:
    ...     error.exit_code
    2
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(bounded(str(message))))


class UserError(RankrayError, ValueError):
    """Input that cannot work as given; nothing was started."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration file, an override or a value in it is wrong."""


class DataError(UserError):
    """Data cannot be trained or evaluated on as asked."""


class ModelError(UserError):
    """A model or a tokenizer cannot be loaded as asked."""


class LossError(UserError):
    """A loss was called with arguments that have no meaning."""


class ClusterError(UserError):
    """A Ray cluster cannot be joined at the address given, or with the token given."""


class SubmitError(UserError):
    """A search cannot be given to a cluster as a job."""


class StorageError(UserError):
    """A place for checkpoints cannot be written or read. No trial is to blame; its search can be resumed."""


class CheckpointDamaged(StorageError):
    """A checkpoint that was to be resumed from is incomplete, or not as it was written.

    Args:
        place: the checkpoint.
        why: what is wrong with it.
    """

    def __init__(self, place: str, why: str) -> None:
        super().__init__(
            f"checkpoint: {place} is damaged: {why}; allowed: one that is as it was written; take an earlier one, or "
            "start without"
        )
        self.place, self.why = place, why


class StorageFull(StorageError):
    """The disk or the quota that checkpoints are written to is full: no trial is to blame."""


class StoreError(UserError):
    """A store URL or a study name is wrong."""


class StudyMismatch(StoreError):
    """A study of this name exists and was made from another configuration."""


class StoreUnavailable(RankrayError):
    """The store is unreachable; what was committed is safe and the search can be resumed."""


class StudyGone(RankrayError, KeyError):
    """The study was deleted from the store while somebody worked on it.

    It is a `KeyError`, too, because that is what a storage of Optuna raises for a study that it does not have.
    """

    __str__ = Exception.__str__


class LeaseFailed(RankrayError):
    """What renews this driver's lease broke: others will declare it dead, so it must stop."""


class LeaseLost(RankrayError):
    """The trial is owned by another driver, or finished: this driver's write was refused."""


class SearchFailed(RankrayError):
    """The search ran, and ended without doing what was asked."""


ARGUMENTS = {
    "--code": "code=True",
    "--format": "kind",
    "--merge": "merge=True",
    "--resume": "checkpoint",
    "-o": "path",
    **{
        f"--{name.replace('_', '-')}": name
        for name in (
            *("choose_seeds", "finalists", "label", "looks", "metric", "name"),
            *("seeds", "spending", "split", "store", "strategies", "table"),
        )
    },
}
"""Option of the command line -> what it is called in the interface for Python (`rankray.api`, `rankray.studies`)."""


def in_python(text: str) -> str:
    """Return a message with the options that it names as arguments of the interface for Python; commands stay.

    >>> from rankray.errors import in_python
    >>> in_python("confirm: --choose-seeds 0; allowed: 1 or more; raise it, or run `rankray confirm --plan`")
    'confirm: choose_seeds 0; allowed: 1 or more; raise it, or run `rankray confirm --plan`'
    """
    options = "|".join(sorted(ARGUMENTS, key=len, reverse=True))
    found = rf"`[^`\n]*`|\b(?:rankray|optuna) [a-z][^;,)\n]*|(?<![^\s(])({options})(?![\w=-])"
    return re.sub(found, lambda match: ARGUMENTS[match[1]] if match[1] else match[0], text)


@contextmanager
def as_arguments() -> Iterator[None]:
    """Have the errors of a block, or of a function that it decorates, name arguments in place of options."""
    try:
        yield
    except RankrayError as error:
        error.args = (in_python(str(error)),)
        raise


def bounded(text: str) -> str:
    """Return a text with lines of at most LONGEST_LINE characters, and at most MOST_LINES of them."""
    lines = text.splitlines() or [""]
    kept = [
        line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE * 2 // 3]} ... {line[-LONGEST_LINE // 4 :]}"
        for line in lines[:MOST_LINES]
    ]
    return "\n".join([*kept, *([f"... and {len(lines) - MOST_LINES:,} lines more"] if lines[MOST_LINES:] else [])])


def printable(text: str) -> str:
    """Return a text whose control characters are visible, so that it can be shown in a terminal.

    Tabs and line breaks stay; escape sequences, and characters that change the direction of what follows, do not.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "backslashreplace").decode("ascii"), text)


def closest(given: object, allowed: Iterable[object]) -> list[str]:
    """Return the allowed name that is closest to what was given, as a list of one; [] if none is close.

    Capitals are no difference where nothing else is: `SFT` is `sft`.
    """
    names = [name for name in map(str, allowed) if len(name) <= LONGEST_NAME]
    text = str(given)[:LONGEST_NAME]
    same = sorted((name for name in names if name.casefold() == text.casefold()), key=lambda name: name != text)
    if same or (same := difflib.get_close_matches(text, names, n=1, cutoff=0.5)):
        return same[:1]
    by_small = {name.casefold(): name for name in names}
    return [by_small[found] for found in difflib.get_close_matches(text.casefold(), by_small, n=1, cutoff=0.5)]


def nearest(given: object, allowed: Iterable[object]) -> str:
    """Return ` (did you mean 'x'?)` for the closest allowed name, or an empty string."""
    matches = closest(given, allowed)
    return f" (did you mean '{matches[0]}'?)" if matches else ""


def listed(names: Iterable[object], most: int = 20) -> str:
    """Return names with commas between them; of many, the first ones and how many there are more."""
    texts = [shown(name) if len(str(name)) > LONGEST_NAME else str(name) for name in names]
    more = f", ... and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def first_line(error: BaseException | None) -> str:
    """Return the first line of what an exception says, or its type where it says nothing."""
    return (str(error or "").strip().splitlines() or [type(error).__name__])[0]


def shown(value: object, most: int = LONGEST_NAME) -> str:
    """Return a value as it is written in Python, cut to `most` characters: what a user gave may be of any size."""
    try:
        text = repr(value[: most + 1] if isinstance(value, str | bytes) else value)
    except (RecursionError, ValueError) as error:  # nested too deep; a number with more digits than Python prints
        return f"a {type(value).__name__} ({(str(error).splitlines() or [''])[0][:most]})"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def in_yaml(text: str) -> str:
    """Return a text as YAML has it in double quotes, in which `\\n` is a new line; in single ones it is not."""
    return json.dumps(text, ensure_ascii=False)


PLAIN = {
    "bool": "true or false",
    "dict": "a mapping of names to values",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "a mapping of names to values",
    "string": "text",
}
"""What pydantic's kinds of values are called, by how the types of its errors begin (`int_type`, `int_parsing`)."""


def _allowed(error: Mapping[str, Any]) -> str:
    """Return what one item of `ValidationError.errors()` says is allowed."""
    kind, _, what = str(error["type"]).partition("_")
    if kind in PLAIN and what in ("type", "parsing", "from_float", "attributes_type"):
        return PLAIN[kind]
    rule = re.sub(r"^Input should be |, (got|unable to) .*", "", str(error["msg"]))
    if error["loc"][-1:] == ("[key]",):
        return f"a mapping with {rule}"
    return rule[:1].lower() + rule[1:]


def describe_invalid(errors: Sequence[Mapping[str, Any]], keys: Iterable[str] = ()) -> str:
    """Return what pydantic found wrong with one field as `what was given; what is allowed; what to do`.

    Args:
        errors: items of `ValidationError.errors()`, all about this field: several where it may be of several types.
        keys: the names allowed where the field stands, for a field that does not exist.
    """
    first, kinds = errors[0], {str(error["type"]) for error in errors}
    if "extra_forbidden" in kinds:
        names = sorted(keys)
        return f"unknown key{nearest(first['loc'][-1], names)}; allowed: {', '.join(names)}; correct the key"
    given = first.get("input")
    if "store" in first["loc"][:1] and kinds:
        return "got a value that is not shown, for it may hold a password; allowed: a store URL; correct the value"
    named = [error for error in errors if error["type"] == "value_error"]
    if kinds == {"value_error"} or (named and isinstance(given, str)):  # a name that may also be of another type
        return str(named[0]["ctx"]["error"])
    literals = [
        name
        for error in errors
        if error["type"] == "literal_error"
        for name in re.findall(r"'(.*?)'", error["ctx"]["expected"])
    ]
    near = nearest(given, literals) if isinstance(given, str) and literals else ""
    allowed = " or ".join(dict.fromkeys(map(_allowed, errors)))
    lacks_list = "list_type" in kinds and "string_type" not in kinds and isinstance(given, int | float)
    todo = f"write [{given}]" if lacks_list else "correct the value"
    if "string_type" in kinds and isinstance(given, dict) and given and all(v is None for v in given.values()):
        todo = f"braces are a mapping in YAML; put it in quotes, {in_yaml('{' + ', '.join(map(str, given)) + '}')}"
    return f"got {shown(given)}{near}; allowed: {allowed}; {todo}"
