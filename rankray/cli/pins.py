"""Pinning the model and the data of the hub to commits: by the study, for all its trials, drivers and confirmations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankray.config import Config, LoadedConfig
    from rankray.store import StudyStore

logger = logging.getLogger(__name__)


def pin(loaded: LoadedConfig) -> tuple[LoadedConfig, dict[str, Any]]:
    """Return the configuration with the commits of its model and data, and what to keep of what was asked for.

    A study that exists keeps the commits it was opened with, as long as the same revisions are asked for. One that an
    earlier version opened, and that pinned nothing, stays as it is.

    Raises:
        ModelError, DataError: there is no such model, dataset or revision.
    """
    from rankray.data import pin as data_pin
    from rankray.model import pin as model_pin

    study = _study(loaded.config)
    asked: dict[str, Any] = {}
    config, model = loaded.config, model_pin.asked_revision(loaded.config)
    held = _held_model(study, config, model)
    if held is not None:
        config = _with_place(loaded, lambda: model_pin.pinned(loaded.config, held))
        asked |= {"model_revision": model} if model else {}
    data = data_pin.asked_revisions(config)
    if data and (study is None or "data_revisions" in study.provenance or not _has_hub_data(study.config)):
        known = {} if study is None else held_data(study.config, study.provenance, data)
        config = _with_place(loaded, lambda: data_pin.pinned(config, known))
        asked |= {"data_revisions": data}
    return replace(loaded, config=config), asked


def pin_run(loaded: LoadedConfig, resume: str = "") -> LoadedConfig:
    """Return the configuration of a single training run with the commits of its model and data.

    Args:
        loaded: the configuration.
        resume: a checkpoint, whose commits stay where it lies on this machine.

    Raises:
        ModelError, DataError: there is no such model, dataset or revision; or no such checkpoint.
    """
    from rankray.checkpoints import places
    from rankray.config import config_from
    from rankray.data import pin as data_pin
    from rankray.model import pin as model_pin

    if resume and not places.is_remote(resume):
        from rankray.finetune.checkpoint import read_progress

        earlier = config_from({**read_progress(resume).config, "store": loaded.config.store})
        return replace(loaded, config=pinned_as(loaded.config, earlier))
    return replace(loaded, config=_with_place(loaded, lambda: data_pin.pinned(model_pin.pinned(loaded.config))))


def pinned_as(config: Config, other: Config) -> Config:
    """Return a configuration with the commits that another one has of the same model and datasets, where the first
    asks for no other revision than the main branch."""
    from rankray.data import pin as data_pin
    from rankray.model.pin import MAIN

    if config.model.path == other.model.path and config.model.revision in (None, MAIN):
        model = config.model.model_copy(update={"revision": other.model.revision})
        config = config.model_copy(update={"model": model})
    known = other.data.revision if isinstance(other.data.revision, Mapping) else {}
    asked = data_pin.asked_revisions(config)
    if any(name in known for name in asked):
        commits = {name: asked[name] for name in asked if asked[name] != MAIN}
        held = {name: known[name] for name in asked if name in known}
        commits |= {name: held[name] for name in held if asked[name] == MAIN or "@" in name}
        config = config.model_copy(update={"data": config.data.model_copy(update={"revision": commits})})
    return config


def held_data(config: Config, provenance: Mapping[str, Any], asked: Mapping[str, str]) -> dict[str, str]:
    """Return the commits that a study has of datasets for the revisions that are asked for now."""
    before, commits = provenance.get("data_revisions") or {}, config.data.revision
    if not isinstance(commits, Mapping):
        return {}
    return {name: commits[name] for name in asked if name in commits and before.get(name) == asked[name]}


def resolved_lines(config: Config) -> list[str]:
    """Return where a configuration's paths lead, a line each; no password is shown."""
    from rankray.config.sections import source_text
    from rankray.data.pin import asked_revisions
    from rankray.model.pin import asked_revision
    from rankray.store.urls import masked

    return [
        f"model.path: {config.model.path}" + (f" at {asked}" if (asked := asked_revision(config)) else ""),
        f"data.train: {source_text(config.data.train)}",
        f"data.eval: {source_text(config.data.eval)}",
        *(f"data.revision: {name} at {revision}" for name, revision in asked_revisions(config).items()),
        f"store: {masked(config.store)}",
        f"storage: {config.storage}",
    ]


def _study(config: Config) -> StudyStore | None:
    """Return the study of this name, if there is one."""
    from rankray.data.pin import asked_revisions
    from rankray.errors import StoreError
    from rankray.model.pin import asked_revision
    from rankray.store import attach

    if not (asked_revision(config) or asked_revisions(config)):
        return None
    try:
        return attach(config.store, config.name)
    except StoreError as error:
        logger.debug("there is no such study yet: %s", error)
        return None


def _held_model(study: StudyStore | None, config: Config, asked: str) -> str | None:
    """Return the model's commit that the study has, empty where it must be resolved; None: leave it as it is."""
    if study is None or study.config.model.path != config.model.path or not asked:
        return ""
    if "model_revision" not in study.provenance:  # an earlier version opened it, and pinned nothing
        return None
    return study.config.model.revision or "" if study.provenance["model_revision"] == asked else ""


def _has_hub_data(config: Config) -> bool:
    from rankray.data.pin import asked_revisions

    return bool(asked_revisions(config))


def _with_place(loaded: LoadedConfig, make: Any) -> Config:
    """Return what a function makes; an error of the user's begins with the place of its field."""
    from rankray.errors import UserError

    try:
        made: Config = make()
    except UserError as error:
        raise type(error)(f"{loaded.where(str(error).split(':')[0])}: {error}") from error
    return made
