"""One entry of `space:`: what it may say, and the distribution it describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rankray.config.params import get_path
from rankray.config.problems import space_entry_form
from rankray.config.schema import Config
from rankray.errors import ConfigError, listed, nearest, shown

_KINDS = ("float", "int", "choice")
_OPTIONS = {"float": {"log", "step", "when"}, "int": {"log", "step", "when"}, "choice": {"when"}}


class Distribution(BaseModel):
    """What one parameter may be.

    `float` and `int` lie in [low, high], both ends included; `log` spreads them evenly over orders of magnitude, `step`
    puts them on a grid from `low`. `choice` takes one of `choices`. `when` maps paths to the values under which the
    parameter exists.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    when: dict[str, tuple[Any, ...]] = {}

    def contains(self, value: Any) -> bool:
        """Return whether `value` is one this distribution could propose."""
        if self.kind == "choice":
            return any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        if self.kind == "int" and value != int(value):
            return False
        if not self.low <= value <= self.high:
            return False
        return self.step is None or math.isclose(round((value - self.low) / self.step) * self.step, value - self.low)

    @property
    def is_ordered(self) -> bool:
        """Whether it is a choice among three numbers or more, which have an order: 8 is nearer to 16 than to 64."""
        numbers = [each for each in self.choices if isinstance(each, (int, float)) and not isinstance(each, bool)]
        return len(numbers) == len(self.choices) > 2

    @property
    def in_words(self) -> str:
        """The range of a number, and its step, as people read it."""
        step = f" in steps of {self.step:g}" if self.step else ""
        return f"{'whole numbers, ' if self.kind == 'int' else ''}{self.low:g} to {self.high:g}{step}"

    @property
    def step_problem(self) -> str:
        """What is wrong with a step that can be drawn with, but not as it says; an empty string if nothing is."""
        if self.step is None:
            return ""
        if self.kind == "int" and self.step != int(self.step):
            return f"step: got {shown(self.step)}; allowed in a range of int: a whole number; correct it, or use float:"
        if self.step > self.high - self.low:
            return (
                f"step: {self.step:g} is more than the range, {self.low:g} to {self.high:g}, which leaves {self.low:g} "
                f"alone; allowed: at most {self.high - self.low:g}; lower it, or fix the field"
            )
        return ""

    def at_step(self, index: int) -> float:
        """Return the value after so many steps from `low`: nine of 0.001 from 0.001 end at 0.01, not just above it."""
        return min(self.low + index * (self.step or 1.0), self.high)

    def at(self, share: float) -> float:
        """Return the value of a float that lies at a share of the way from `low` to `high`, 0 to 1, along its scale."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = low + share * (high - low)
        return math.exp(value) if self.log else value

    def active(self, params: Mapping[str, Any], config: Config) -> bool:
        """Return whether this parameter exists, given the parameters drawn so far and the fixed fields.

        A condition on a searched parameter that does not itself exist is not met.
        """
        searched = config.space
        for path, values in self.when.items():
            if path in searched and path not in params:
                return False
            if not _is_one_of(params[path] if path in params else get_path(config, path), values):
                return False
        return True


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    """Return whether a value is among others; three steps of 0.1 count as 0.3, which they are not quite."""
    if isinstance(value, float):
        return any(isinstance(each, (int, float)) and math.isclose(value, each, abs_tol=1e-12) for each in values)
    return value in values


def parse_distribution(path: str, raw: dict[str, Any]) -> Distribution:
    """Return what an entry of `space:` says about the field at `path`.

    Raises:
        ConfigError: it is not of a form that `Distribution` can have. Whether the field accepts the values is not
            checked here.
    """
    kinds = [kind for kind in _KINDS if kind in raw]
    if len(kinds) != 1:
        got = f"needs exactly one of float, int or choice, got {listed(raw) or 'nothing'}"
        raise ConfigError(got if kinds else f"{got}; {space_entry_form(raw)}")
    kind = kinds[0]
    for key in raw:
        if key != kind and key not in _OPTIONS[kind]:
            allowed = sorted(_OPTIONS[kind])
            raise ConfigError(
                f"unknown key {shown(key)}{nearest(key, allowed)}; allowed beside {kind}: {', '.join(allowed)}; "
                "correct the key"
            )
    when = raw.get("when") or {}
    if not isinstance(when, dict):
        raise ConfigError(f"when: got {shown(when)}; write a mapping such as when: {{loss.objective: rri}}")
    conditions = {other: tuple(v) if isinstance(v, list) else (v,) for other, v in when.items()}
    if kind == "choice":
        choices = raw["choice"]
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"choice: got {shown(choices)}; write a list of at least one value")
        return Distribution(path=path, kind="choice", choices=tuple(choices), when=conditions)
    return _parse_range(path, kind, raw, conditions)  # type: ignore[arg-type]


def _parse_range(path: str, kind: Literal["float", "int"], raw: dict[str, Any], when: dict[str, Any]) -> Distribution:
    bounds, log, step = raw[kind], raw.get("log", False), raw.get("step")
    numbers = isinstance(bounds, list) and len(bounds) == 2
    if not numbers or not all(isinstance(b, (int, float)) and not isinstance(b, bool) for b in bounds):
        raise ConfigError(f"{kind}: got {shown(bounds)}; write two numbers, [low, high]")
    low, high = bounds
    if not low < high:
        raise ConfigError(f"{kind}: low {low} is not below high {high}; write [low, high] with low < high")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{kind}: [{low}, {high}] is not finite; give finite bounds")
    if kind == "int" and not (low == int(low) and high == int(high)):
        raise ConfigError(f"int: [{low}, {high}] are not whole numbers; use float: or whole bounds")
    if not isinstance(log, bool):
        raise ConfigError(f"log: got {shown(log)}; allowed: true, false; choose one")
    if log and low <= 0:
        raise ConfigError(f"log: true needs low > 0, got {low}; raise low or leave log out")
    if step is not None and (isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step < math.inf):
        raise ConfigError(f"step: got {shown(step)}; allowed: a finite number above 0; correct the step")
    if step is not None and kind == "int" and step < 1:
        raise ConfigError(f"step: got {shown(step)}; allowed in a range of int: 1 or more, whole; correct it")
    if step is not None and log:
        raise ConfigError("step and log exclude each other; keep one")
    return Distribution(path=path, kind=kind, low=low, high=high, log=log, step=step, when=when)
