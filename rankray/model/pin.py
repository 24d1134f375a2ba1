"""The commit of a model on the hub: what a branch or a tag was when a study was opened, for all its trials.

A hub id names whatever its main branch is at the moment. A study that goes on for days, on several machines, would mix
trials of different weights. Needs no torch.
"""

from __future__ import annotations

import logging
from pathlib import Path

from rankray.config.schema import Config
from rankray.errors import ModelError, first_line, shown
from rankray.model.files import local_model

logger = logging.getLogger(__name__)

MAIN = "main"


def asked_revision(config: Config) -> str:
    """Return the revision that a configuration asks for; empty for a local directory, or where the space chooses
    one."""
    if local_model(config.model.path) is not None or "model.path" in config.space:
        return ""
    return config.model.revision or MAIN


def pinned(config: Config, held: str | None = None) -> Config:
    """Return the configuration with its model's revision resolved to a commit.

    Args:
        config: the configuration.
        held: the commit that the study has for the same revision already, which stays; None if it has none.

    Raises:
        ModelError: there is no such model or revision on the hub, or the hub does not answer and nothing is cached; or
            a revision is given of a local directory.
    """
    asked = asked_revision(config)
    if not asked:
        if problem := revision_problem(config):
            raise ModelError(problem)
        local = local_model(config.model.path) is not None
        return _with_revision(config, None) if local and config.model.revision else config
    commit = held or commit_of(config.model.path, asked)
    return _with_revision(config, commit)


def revision_problem(config: Config) -> str | None:
    """Return why a configuration's revision cannot be had: a local directory has none but what is there, `main`."""
    path, revision = config.model.path, config.model.revision
    if revision in (None, MAIN) or "model.path" in config.space or local_model(path) is None:
        return None
    return (
        f"model.revision: got {shown(revision)} for the local directory {shown(path)}, which has none; allowed there "
        f"are null and {MAIN}; remove it"
    )


def _with_revision(config: Config, revision: str | None) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"revision": revision})})


def commit_of(model: str, revision: str) -> str:
    """Return the commit that a revision of a model is now; without a connection, the one in the hub's local cache.

    Raises:
        ModelError: it cannot be found.
    """
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(model, "config.json", revision=revision)
    except Exception as error:  # of the hub's library, of its connection, or of an id that cannot be one
        logger.debug("revision %s of %s cannot be resolved", revision, model, exc_info=True)
        first = first_line(error)
        raise ModelError(
            f"model.path: {model!r} at revision {revision!r} cannot be found ({first}); allowed is a hub id, with a "
            "branch, tag or commit as model.revision, or a local directory; check both, and the connection"
        ) from error
    return Path(file).parent.name  # .../snapshots/<commit>/config.json
