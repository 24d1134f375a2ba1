"""From a ticket of the store to the spec that a worker gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rankray.checkpoints import places
from rankray.config import Config, config_from, trial_tree
from rankray.contracts import TrialSpec
from rankray.store import Ticket


def spec_maker(
    config: Config,
    directory: Callable[[int], str],
    usable: Callable[[Iterable[str]], str | None] = lambda stored: next(iter(stored), None),
) -> Callable[[Ticket], TrialSpec]:
    """Return what turns a ticket into a spec; it raises a ConfigError for a point that the configuration refuses.

    Args:
        config: the search's configuration, with its space.
        directory: returns where trial `number` writes its checkpoints.
        usable: returns the first of the ticket's checkpoints, the latest first, that may be resumed from, or None.
    """

    def make(ticket: Ticket) -> TrialSpec:
        return TrialSpec(
            config=worker_config(config, ticket.params),
            directory=directory(ticket.number),
            number=ticket.number,
            checkpoint=usable([ticket.checkpoint, *ticket.earlier]) if ticket.checkpoint else None,
            history=ticket.history,
            untrained=ticket.untrained,
        )

    return make


def worker_config(config: Config, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a worker needs of a trial's configuration: parameters applied, local paths absolute, no store.

    `finetune.run` validates it again, as it was sent.

    Raises:
        ConfigError: the configuration refuses this combination; that fails the trial, and the search continues.
    """
    tree = trial_tree(config, params)
    config_from(tree)
    tree["store"] = "worker://"
    tree["storage"] = places.absolute(config.storage)
    tree["train"]["threads"] = config.train.threads or max(1, int(config.resources.cpus_per_worker))
    for section, key in (("data", "train"), ("data", "eval"), ("data", "test"), ("model", "path")):
        if isinstance(tree[section][key], str) and Path(tree[section][key]).exists():
            tree[section][key] = str(Path(tree[section][key]).absolute())
    for each in tree["evaluate"]["also"].values():
        if Path(each["data"]).exists():
            each["data"] = str(Path(each["data"]).absolute())
    return tree
