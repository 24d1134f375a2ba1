"""The commands that rankray prints: each can be copied into a shell and does what is said of it.

What a study was made with need not be what its file says: `--set` changed it, or there is no file (`rankray.search` of
a mapping). `origin` here is what `rankray.store.origin` returns of it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rankray.config.schema import FREE_FIELDS
from rankray.config.secrets import variable_of_store
from rankray.config.yaml_text import parse_value
from rankray.errors import ConfigError

ELSEWHERE = ("study", "space", "resources", "name", "store")
"""What a search has and one training does not, but for SEEDS."""
SEEDS = "study.seeds"
"""Over how many seeds a trial's figure is a mean: one training has them as well."""
RESUMED_WITH = tuple(each for each in FREE_FIELDS if each not in ("study.trials", "study.keep_best", "store"))
"""What a confirmation may be resumed with that differs from the search."""
RUNS_CODE = ("model.trust_remote_code", "evaluate.allow_code_execution", "evaluate.functions")
"""What lets a model or a data set run code. A store is input: no command that it fills in grants that."""


def store_option(shown: str) -> str:
    """Return the option of a command that names a store, as a shell reads it.

    A password is never shown: such a store comes from the variable that it came from now, as `***` would not work.
    """
    return f"--store env:{variable_of_store(shown)}" if "***" in shown else f"--store {shlex.quote(shown)}"


def retrain_command(origin: Mapping[str, Any], params: Mapping[str, Any], *, recommended: bool = False) -> str:
    """Return the command that trains with a trial's settings what its study trained.

    With a file this is `rankray train FILE --set ...`: what the search's own options changed, the commits of model and
    data on the hub that it was pinned to, then the trial's settings. Without one, the whole configuration comes from
    the store, with the settings that are recommended; where these are not the given ones, they are set.
    """
    if not origin["file"]:
        study, file = shlex.quote(origin["study"]), shlex.quote(f"{origin['study']}.yaml")
        stored = f"rankray best {study} --yaml {store_option(origin['store'])} > {file}"
        other = {} if recommended else params
        return " ".join([f"{stored} && rankray train {file}", *map(_set, other.items())])
    pins = origin.get("pins") or {}
    changed = [
        (path, value)
        for path, value in _of_training(origin["overrides"])
        if path.split(".")[0] not in ELSEWHERE or path == SEEDS
        if path not in params and path not in pins
    ]
    changed += [(path, value) for path, value in pins.items() if path not in params]
    return " ".join(["rankray train", shlex.quote(origin["file"]), *map(_set, [*changed, *params.items()])])


def training_commands(
    origin: Mapping[str, Any], best: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return what to train after a search, as (what for, command), the better one first.

    That is the trial that is recommended, and where `rankray confirm` found nothing better than plain SFT at its own
    best rate, that too: first where the setting was found worse. A recommended trial that is plain SFT at this very
    rate is said once.

    Args:
        origin: see `rankray.store.origin`.
        best: the trial that is recommended.
        verdicts: those of `rankray confirm`, the one that counts first.
    """
    again = retrain_command(origin, best["params"], recommended=True)
    for first in verdicts[:1]:
        word, baseline = first["verdict"]["word"], first["baseline"]["params"]
        if word not in ("worse", "indistinguishable") or not baseline or best["params"].items() <= baseline.items():
            break
        plain = retrain_command(origin, baseline)
        if word == "worse" and not best.get("plain_sft"):
            return [("train plain SFT at its best rate, which is better", plain), ("train the search's best", again)]
        return [("train it again", again), ("train plain SFT at its best rate instead", plain)]
    return [("train it again", again)]


def resume_command(origin: Mapping[str, Any]) -> str:
    """Return the command that starts or resumes a search as it was begun.

    Of a confirmation it repeats limits and resources, which may be others with each start; options that are left out
    are those that it was begun with.
    """
    if of := origin["confirms"]:
        label = origin["study"].removeprefix(f"{of}.confirm").removeprefix("-")
        is_labelled = label and label != origin["study"]
        labelled = f" --metric {shlex.quote(origin['metric'])} --label {shlex.quote(label)}" if is_labelled else ""
        free = [
            (path, value)
            for path, value in _harmless(origin["overrides"])
            if value is not None and any(f"{path}.".startswith(f"{each}.") for each in RESUMED_WITH)
        ]
        words = [f"rankray confirm {shlex.quote(of)}{labelled}", *map(_set, free), store_option(origin["store"])]
        return " ".join(words)
    named = [f"--name {shlex.quote(origin['study'])}"] if "name" in origin["overrides"] else []
    changed = [(path, value) for path, value in _harmless(origin["overrides"]) if path not in ("name", "store")]
    words = ["rankray search", shlex.quote(origin["file"] or "FILE"), *named, *map(_set, changed)]
    return " ".join([*words, store_option(origin["store"])])


def _of_training(overrides: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the overrides that are no threat (`_harmless`), and of the section `study` what a training has, too."""
    for path, value in _harmless(overrides):
        inside = isinstance(value, Mapping) and path == "study" and SEEDS.removeprefix("study.") in value
        yield (SEEDS, value[SEEDS.removeprefix("study.")]) if inside else (path, value)


def _harmless(overrides: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the overrides but for RUNS_CODE, also within sections."""
    for path, value in overrides.items():
        if path in RUNS_CODE:
            continue
        inside = {each.removeprefix(f"{path}.") for each in RUNS_CODE if each.startswith(f"{path}.")}
        kept = {key: each for key, each in value.items() if key not in inside} if isinstance(value, Mapping) else value
        yield path, kept


def _set(override: tuple[str, Any]) -> str:
    """Return one override as `--set path=value`, its value as YAML reads it back."""
    path, value = override
    text = value if isinstance(value, str) and _is_read_as_itself(value) else json.dumps(value, ensure_ascii=False)
    return f"--set {shlex.quote(f'{path}={text}')}"


def _is_read_as_itself(text: str) -> bool:
    try:
        return bool(parse_value(text) == text)
    except ConfigError:
        return False
