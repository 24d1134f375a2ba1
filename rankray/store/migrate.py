"""The schema of what is stored of a study, and how a study of an earlier schema is brought up to date.

A study carries the number of its schema in the attribute `rankray:schema`, and in its identity (`claims`), from which
all else about the study is derived. A study without a number has schema 0: the first versions wrote none.

    0    no number
    1    `rankray:schema` in the study's attributes, `schema` in its identity; `loss.low_entropy` and
         `loss.min_competence`, which earlier studies trained without
    2    `study.prune_on`: earlier studies prune on their metric; their defaults were `sampler: tpe` and
         `pruner: successive_halving`. `study.known`, which was `study.baselines`

A new schema is one more function in `STEPS`: it takes an identity (`config`, `provenance`, `versions`, maybe `id`) of
the schema before and returns it as the new schema has it. The first entry of the claims is never rewritten, so it is
brought up to date whenever it is read; the copy of the configuration in the study's attributes is rewritten when the
study is opened to work on it. A kill may come between the two writes of that, so a step must accept what it has already
changed. What is stored with trials (`records`) is not migrated: its keys keep their meaning, and new ones are optional.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from optuna.storages import BaseStorage

import rankray
from rankray.config.schema import Config
from rankray.errors import StoreError
from rankray.store.stored import whole

logger = logging.getLogger(__name__)

SCHEMA = "rankray:schema"
CONFIG = "rankray:config"
Identity = dict[str, Any]


EARLIER_LOSS = {"low_entropy": "bound", "min_competence": 0.0}
"""What a study of schema 0 trains with, whose loss had neither field: 2^H / 4 + 1 at all entropies, and no limit."""


def _from_0_to_1(identity: Identity) -> Identity:
    """A number, and the loss as it was: a study continues with what it began with, not with new defaults."""
    config = dict(identity["config"])
    config["loss"] = EARLIER_LOSS | dict(config.get("loss", {}))
    return {**identity, "config": config}


EARLIER_STRATEGIES = {"sampler": "tpe", "pruner": "successive_halving"}
"""The defaults of a study before schema 2."""


def _from_1_to_2(identity: Identity) -> Identity:
    """A study continues with the strategies it began with, and prunes on its metric; `study.baselines` is `known`."""
    study = EARLIER_STRATEGIES | dict(identity["config"].get("study", {}))
    study.setdefault("prune_on", study.get("metric", "eval/nll"))
    if "baselines" in study:
        study["known"] = study.pop("baselines")
    return {**identity, "config": {**identity["config"], "study": study}}


STEPS: tuple[Callable[[Identity], Identity], ...] = (_from_0_to_1, _from_1_to_2)
"""The step at index n takes an identity from schema n to n + 1."""


def current() -> int:
    """Return the schema that this version of rankray writes."""
    return len(STEPS)


def migrated(name: str, identity: Mapping[str, Any]) -> Identity:
    """Return a study's identity as the current schema has it.

    Raises:
        StoreError: a newer version of rankray wrote it.
    """
    return _migrated(name, dict(identity), _version(identity.get("schema")))


def migrated_config(name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in a study's attributes as the current schema has it.

    Raises:
        StoreError: a newer version of rankray wrote it.
    """
    identity = {"config": dict(attributes[CONFIG])}
    return dict(_migrated(name, identity, _version(attributes.get(SCHEMA)))["config"])


def continued(config: Config, identity: Mapping[str, Any]) -> Config:
    """Return the configuration to resume a study with: as read, but with the defaults that its schema had.

    A study of schema 0 keeps its loss, and one before schema 2 its sampler, its pruner and its known settings, where
    the file leaves these fields out; a file that gives them is compared as it is.

    Args:
        config: the configuration as it was read.
        identity: the study's identity as it is stored, not migrated.
    """
    version = _version(identity.get("schema"))
    if version < 1:
        kept = {key: value for key, value in EARLIER_LOSS.items() if key not in config.loss.model_fields_set}
        config = config.model_copy(update={"loss": config.loss.model_copy(update=kept)})
    if version < 2:
        study = _from_1_to_2({"config": identity["config"]})["config"]["study"]
        stored = {key: study[key] for key in ("sampler", "pruner", "prune_on", "known") if key in study}
        kept = {key: value for key, value in stored.items() if key not in config.study.model_fields_set}
        config = config.model_copy(update={"study": config.study.model_copy(update=kept)})
    return config


def migrate_study(storage: BaseStorage, study_id: int, name: str) -> None:
    """Rewrite a study's attributes as the current schema has them; a new study is given its number.

    Raises:
        StoreError: a newer version of rankray wrote it.
        StoreUnavailable: the store does not answer.
    """
    attributes = storage.get_study_user_attrs(study_id)
    if CONFIG in attributes:
        config = migrated_config(name, attributes)
        if config != attributes[CONFIG]:
            storage.set_study_user_attr(study_id, CONFIG, config)
    if attributes.get(SCHEMA) != current():
        storage.set_study_user_attr(study_id, SCHEMA, current())


def _migrated(name: str, identity: Identity, version: int) -> Identity:
    if version > current():
        raise StoreError(
            f"study {name}: stored with schema {version} by a newer version of rankray; "
            f"allowed: up to schema {current()}, which rankray {rankray.__version__} knows; upgrade rankray"
        )
    for number, step in enumerate(STEPS[version:], version):
        logger.debug("study %s: migrating it from schema %d to %d", name, number, number + 1)
        identity = step(identity)
    if isinstance(config := identity.get("config"), dict):
        identity = {**identity, "config": _without_repeats(config)}
    return {**identity, "schema": current()}


def _without_repeats(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose lists have each name once: earlier versions took `metrics: [nll, nll]`."""

    def once(section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        keys = ("logging", "metrics", "functions", "target_modules")
        lists = {key: held for key in keys if isinstance(held := section.get(key), list)}
        return {**section, **{key: [e for i, e in enumerate(held) if e not in held[:i]] for key, held in lists.items()}}

    found: dict[str, Any] = once(config)
    if isinstance(model := found.get("model"), dict) and "lora" in model:
        found["model"] = {**model, "lora": once(model["lora"])}
    if isinstance(evaluate := found.get("evaluate"), dict):
        found["evaluate"] = once(evaluate)
        if isinstance(also := evaluate.get("also"), dict):
            found["evaluate"]["also"] = {name: once(each) for name, each in also.items()}
    return found


def _version(stored: Any) -> int:
    """Return a stored number; 0 where there is none."""
    found = 0 if stored is None else whole(stored)
    if found is None or found < 0:
        raise StoreError(f"store: a study's schema is stored as {stored!r}; allowed: a whole number; restore a backup")
    return found
