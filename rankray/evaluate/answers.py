"""When a text gives the same answer as a reference: `same_answer`, and `Judge` for many. Needs no torch.

auto              `####`, `\\boxed{}`, plain numbers and words (`plain`); refuses references that hold other LaTeX
math              LaTeX, fractions, sets, intervals, units, percentages: `latex`, then math-verify (`math_pool`)
text              all of it, stripped
(expression)      a regular expression with one group, of which the last that is not empty counts
module:function   a function of your own, `(text, reference) -> bool`
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any
from unicodedata import normalize

from rankray.errors import ConfigError, nearest
from rankray.evaluate import latex, plain

LONGEST = 1000
"""An answer that has so many characters more than the reference could have is none, and algebra would take minutes."""
ALLOWED = "auto, math, text, a regular expression with one group and module:function"


def same_answer(text: str, reference: str, how: str = "auto") -> bool:
    """Whether a text gives the same answer as a reference.

    Args:
        text: a completion, with or without its reasoning.
        reference: a solution or an answer, in the form of the data.
        how: as `evaluate.answer`.

    Raises:
        ConfigError: `how` is nothing of the allowed, or `auto` would misread the reference.
    """
    return Judge(how).right([text], [reference])[0]


class Judge:
    """Judges answers in one way.

    Args:
        how: as `evaluate.answer`.

    Attributes:
        timeouts: answers that were given up, and count as wrong.

    Raises:
        ConfigError: `how` is nothing of the allowed.
    """

    def __init__(self, how: str = "auto") -> None:
        self.timeouts = 0
        self._how = how
        self._function: Callable[[str, str], bool] | None = None
        if is_function(how):
            self._function = load_function(how, "evaluate.answer")
        elif how == "math":
            from rankray.evaluate.math_pool import require_math_verify

            require_math_verify()
        elif how not in ("auto", "text"):
            _pattern(how)

    def right(self, texts: Sequence[str], references: Sequence[str]) -> list[bool]:
        """Return for each text whether it gives its reference's answer.

        Raises:
            ConfigError: `auto` would misread a reference, or a function of one's own does not return a bool.
        """
        pairs = list(zip(texts, references, strict=True))
        if self._how == "math":
            return self._by_algebra(pairs)
        if self._function is not None:
            return [self._own(text, reference) for text, reference in pairs]
        if self._how == "auto":
            return [plain.same(text, reference) for text, reference in pairs]
        if self._how == "text":
            return [_spaced(text) == _spaced(reference) for text, reference in pairs]
        return [self._by_pattern(text, reference) for text, reference in pairs]

    def _by_algebra(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        from rankray.evaluate.math_pool import shared_pool

        verdicts: list[bool | None] = []
        hard: dict[int, tuple[str, str]] = {}
        for index, (text, reference) in enumerate(pairs):
            given, wanted = latex.final_answer(text), latex.final_answer(reference)
            if given is None or wanted is None:
                verdicts.append(False)
                continue
            if len(given) > LONGEST + 4 * len(wanted):
                verdicts.append(False)
                continue
            pair = latex.comparable(given, wanted)
            verdicts.append(latex.quickly_same(*pair))
            if verdicts[-1] is None:
                hard[index] = pair
        pool = shared_pool()
        before = pool.timeouts
        for index, right in zip(hard, pool.same(list(hard.values())), strict=True):
            verdicts[index] = right
        self.timeouts += pool.timeouts - before
        return [bool(verdict) for verdict in verdicts]

    def _by_pattern(self, text: str, reference: str) -> bool:
        matches = [_pattern(self._how).finditer(each) for each in (text, reference)]
        found = [[match[1] for match in each if match[1]] for each in matches]  # (\d*) matches nothing at every end
        if not all(found):
            return False
        given, wanted = found[0][-1], found[1][-1]
        values = plain.number(given), plain.number(wanted)
        return values[0] == values[1] if None not in values else _spaced(given) == _spaced(wanted)

    def _own(self, text: str, reference: str) -> bool:
        assert self._function is not None
        verdict = self._function(text, reference)
        if not isinstance(verdict, bool):
            raise ConfigError(
                f"evaluate.answer: {self._how} returned {verdict!r}; allowed is True or False; fix the function"
            )
        return verdict


def check_answer(how: str, references: Sequence[str]) -> None:
    """Find before anything starts what `evaluate.answer` cannot do with these references.

    Raises:
        ConfigError: `how` is nothing of the allowed, or `auto` would misread a reference.
    """
    Judge(how)
    if how == "auto":
        for reference in references:
            plain.answer_of(reference)


def is_function(how: str) -> bool:
    """Whether a text has the form `module:function`."""
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", how))


def load_function(name: str, where: str) -> Callable[..., Any]:
    """Return the function that `module:function` names.

    Args:
        name: what is loaded.
        where: the field that names it.

    Raises:
        ConfigError: there is no such module or function, or the module cannot be imported.
    """
    module_name, _, function = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"{where}: {name}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            "allowed is a module on the Python path; check PYTHONPATH"
        ) from error
    found: Callable[..., Any] | None = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(
            f"{where}: {name}: {module_name} has no function {function!r}{nearest(function, dir(module))}; "
            "allowed is one of its functions; fix the name"
        )
    return found


def _spaced(text: str) -> str:
    return normalize("NFC", " ".join(text.split()))


@cache
def _pattern(how: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(how)
    except re.error as error:
        raise ConfigError(
            f"evaluate.answer: {how!r} is not a regular expression ({error}); allowed are {ALLOWED}; fix the expression"
        ) from error
    if pattern.groups != 1:
        raise ConfigError(
            f"evaluate.answer: {how!r} has {pattern.groups} groups; allowed are {ALLOWED}; put one pair of "
            "parentheses around the answer"
        )
    return pattern
