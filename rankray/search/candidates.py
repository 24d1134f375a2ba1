"""What a confirmation compares: the finalists of a search, and plain SFT at several learning rates of its own.

The finalists are the search's best complete trials that are not plain SFT (with a KL anchor, SFT is not plain). Plain
SFT gets as many settings as there are finalists: its best trials of the search, and, where the search has not tried
rates on both sides of the best of them, a ladder of rates around it. So neither side is tuned more than the other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rankray.config import Config, Distribution, config_from, distributions
from rankray.config.params import get_path, is_plain_sft
from rankray.config.sections import source_text
from rankray.config.space import RATE
from rankray.errors import UserError

OBJECTIVE, ANCHOR, SEED, DATA = "loss.objective", "loss.kl_weight", "train.seed", "data.eval"
LARGEST_SEED = 10**9
NEAR = 1.5
"""Rates within this factor count as the same rung of a ladder."""
EDGE_SHARE = 0.02
"""How close to an end of its range, as a share of it, a rate lies on its edge."""
Row = Mapping[str, Any]
"""A trial of the search, as `rankray.store.views.trials` shows it."""


@dataclass(frozen=True)
class Candidate:
    """One setting that may be confirmed.

    Attributes:
        params: its values in the confirmation's space, without the seed and the data.
        number: the search's trial that it comes from; None for a rung of the ladder.
        value: the search's figure for it, or None.
    """

    params: dict[str, Any]
    number: int | None = None
    value: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def splits(config: Config) -> tuple[str, str]:
    """Return the examples that choose a finalist, and those that decide: `data.test`, or `data.eval` without it.

    Several sources are one text, which is a choice of the confirmation's space.
    """
    return source_text(config.data.eval), source_text(config.data.test or config.data.eval)


def decided_on(config: Config, plan: tuple[str, str]) -> dict[str, Any]:
    """Return what decides, as shown: its source, whether the search has not seen it, and the field that names it.

    A metric of a set in `evaluate.also` is measured on that set, which the search has seen, on whatever data a run is.

    Args:
        config: the search's configuration, or the confirmation's.
        plan: the examples that choose and those that decide.
    """
    is_test = plan[0] != plan[1]
    for name, each in config.evaluate.also.items():
        if config.study.metric.startswith(f"eval/{name}/"):
            return {"source": each.data, "is_test": False, "split": f"evaluate.also.{name}"}
    return {"source": plan[1], "is_test": is_test, "split": "data.test" if is_test else "data.eval"}


def confirmation_config(config: Config, name: str) -> Config:
    """Return the configuration of a confirmation's study: the search's, with a space that holds plain SFT and seeds.

    Every run has one seed, is never pruned, and is tried only because the plan asks for it.

    Args:
        config: the search's configuration, its `data.test` included.
        name: the name of the confirmation's study.
    """
    tree = config.model_dump(mode="json")
    space: dict[str, Any] = dict(config.space)
    there = space.get(OBJECTIVE, {}).get("choice", [config.loss.objective])
    space[OBJECTIVE] = {"choice": [*there, *(["sft"] if "sft" not in there else [])]}
    rate = config.train.learning_rate
    found = space.get(RATE) or {"float": [rate / 10, rate * 10], "log": True}
    anchored = config.loss.kl_weight
    if ANCHOR in space or anchored:
        highest = max([anchored, *space.get(ANCHOR, {}).get("choice", []), *space.get(ANCHOR, {}).get("float", [])])
        space |= {ANCHOR: {"float": [0.0, highest]}} if highest else {}
    space[RATE] = {key: value for key, value in found.items() if key != "when"}
    space[SEED] = {"int": [0, LARGEST_SEED]}
    space[DATA] = {"choice": list(dict.fromkeys(splits(config)))}
    study = {
        "metric": config.study.metric,
        "direction": config.direction,
        "sampler": "random",
        "pruner": "none",
        "known": [],
        "trials": 10_000,  # the plan says how many there really are
        "keep_best": 1,
        "max_failures_per_trial": config.study.max_failures_per_trial,
        "trial_timeout": config.study.trial_timeout,
        "budget": tree["study"]["budget"],
    }
    tree |= {"name": name, "space": space, "study": study, "data": {**tree["data"], "test": None}}
    return config_from(tree)


def finalists(rows: Sequence[Row], config: Config, confirmation: Config, most: int) -> list[Candidate]:
    """Return the best complete trials of a search that are not plain SFT, best first.

    Raises:
        UserError: there is none.
    """
    ranked = _ranked(rows, config)
    chosen = [row for row in ranked if not is_plain_sft(config, row["params"])]
    if not chosen:
        what = "every complete trial is plain SFT" if ranked else "no trial is complete"
        raise UserError(
            f"confirm: {config.name}: {what}; needed: a complete trial of another objective; search further, or search "
            "loss.objective"
        )
    return _distinct([_candidate(row, config, confirmation) for row in chosen])[:most]


def baselines(rows: Sequence[Row], config: Config, confirmation: Config, count: int) -> list[Candidate]:
    """Return plain SFT at so many learning rates: the search's best, and a ladder where it has not tried both sides.

    Args:
        rows: the search's trials.
        config: the search's configuration.
        confirmation: the confirmation's.
        count: how many; fewer only where the range holds no more rungs.
    """
    plain = [row for row in _ranked(rows, config) if is_plain_sft(config, row["params"])]
    known = _distinct([_candidate(row, config, confirmation) for row in plain])
    tried = [
        float(row["params"].get(RATE, config.train.learning_rate))
        for row in rows
        if is_plain_sft(config, row["params"]) and row["state"] in ("complete", "pruned")
    ]
    start = known[0] if known else _plain_start(rows, config, confirmation)
    chosen = [start]
    for around in _rungs(start, distributions(confirmation)[RATE], tried):
        if len(chosen) < count and 3.0 < _apart(around.params[RATE], start.params[RATE]) < 4.0:
            chosen.append(around)
    chosen += known[1:][: count - len(chosen)]
    for rung in _rungs(start, distributions(confirmation)[RATE], [each.params[RATE] for each in chosen]):
        if len(chosen) < count:
            chosen.append(rung)
    return chosen


def edge_of(rate: float, dist: Distribution) -> str:
    """Return which end of its range a learning rate lies on, in words, or an empty string."""
    if dist.kind == "choice":
        rates = sorted(float(choice) for choice in dist.choices)
        low, high, share = rates[0], rates[-1], None
    else:
        low, high = dist.low, dist.high
        span = math.log(high / low) if dist.log else high - low
        share = (math.log(rate / low) if dist.log else rate - low) / span
    if rate <= low or (share is not None and share < EDGE_SHARE):
        return f"the lower end of its range ({low:g} to {high:g})"
    if rate >= high or (share is not None and share > 1 - EDGE_SHARE):
        return f"the upper end of its range ({low:g} to {high:g})"
    return ""


def fresh_seed(salt: str, what: str, index: int, used: set[int]) -> int:
    """Return a training seed that the search has not used, the same for every driver.

    Args:
        salt: an id that no other confirmation has.
        what: the comparison it is for.
        index: which seed of it.
        used: the search's seeds.
    """
    for attempt in range(1000):
        text = f"{salt}:{what}:{index}:{attempt}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % LARGEST_SEED
        if seed not in used:
            return seed
    raise AssertionError("a thousand seeds in a row were used before")


def used_seeds(rows: Sequence[Row], config: Config) -> set[int]:
    """Return every seed that a run of the search was trained with."""
    starts = {int(row["params"].get(SEED, config.train.seed)) for row in rows} | {config.train.seed}
    return {start + index for start in starts for index in range(config.study.seeds)}


def _ranked(rows: Sequence[Row], config: Config) -> list[Row]:
    sign = -1.0 if config.direction == "maximize" else 1.0
    complete = [row for row in rows if row["state"] == "complete" and row["value"] is not None]
    return sorted(complete, key=lambda row: (sign * row["value"], row["number"]))


def _candidate(row: Row, config: Config, confirmation: Config) -> Candidate:
    params = _completed(row["params"], confirmation)
    return Candidate(params, int(row["number"]), float(row["value"]))


def _completed(given: Mapping[str, Any], confirmation: Config) -> dict[str, Any]:
    """Return the values of a setting in the confirmation's space: given, or fixed by the file."""
    params: dict[str, Any] = {}
    for path, dist in distributions(confirmation).items():
        if path not in (SEED, DATA) and dist.active(params, confirmation):
            params[path] = given.get(path, get_path(confirmation, path))
    return params


def _plain_start(rows: Sequence[Row], config: Config, confirmation: Config) -> Candidate:
    """Return plain SFT where no trial of it is complete: as the best of what was stopped, or as the search's best."""
    stopped = [row for row in rows if is_plain_sft(config, row["params"]) and row["state"] == "pruned"]
    sign = -1.0 if config.direction == "maximize" else 1.0
    stopped.sort(key=lambda row: (-row["step"], sign * (row["value"] or 0.0)))
    like = (stopped or _ranked(rows, config))[0]
    return Candidate(_completed({**like["params"], OBJECTIVE: "sft", ANCHOR: 0.0}, confirmation))


def _rungs(start: Candidate, dist: Distribution, tried: Sequence[float]) -> list[Candidate]:
    """Return a setting at the rates around its own that are not near a tried one, the nearest first."""
    middle = float(start.params[RATE])
    factors = [10 ** (sign * rung / 2) for rung in range(1, 7) for sign in (1, -1)]
    factors += [10 ** (sign * rung / 4) for rung in (1, 3, 5) for sign in (1, -1)]
    rates = [float(choice) for choice in dist.choices] or [_snapped(middle * factor, dist) for factor in factors]
    made: list[Candidate] = []
    for rate in sorted(rates, key=lambda rate: _apart(rate, middle)) if dist.kind == "choice" else rates:
        taken = [middle, *tried, *(each.params[RATE] for each in made)]
        near = 1.0 + 1e-9 if dist.kind == "choice" else NEAR
        if dist.contains(rate) and all(_apart(rate, other) >= near for other in taken):
            made.append(Candidate({**start.params, RATE: rate}))
    return made


def _apart(one: float, other: float) -> float:
    """Return by which factor two rates differ, at least 1."""
    return max(one / other, other / one)


def _snapped(rate: float, dist: Distribution) -> float:
    """Return the nearest rate on the distribution's grid, where it has one."""
    if dist.step is None:
        return rate
    return dist.at_step(round((rate - dist.low) / dist.step))


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    found: dict[str, Candidate] = {}
    for each in candidates:
        found.setdefault(repr(sorted(each.params.items())), each)
    return list(found.values())
