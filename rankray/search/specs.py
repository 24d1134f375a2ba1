"""From a ticket of the store to the spec that a worker gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rankray.checkpoints import places
from rankray.config import Config, trial_tree
from rankray.contracts import TrialSpec
from rankray.store import Ticket


def spec_maker(
    config: Config,
    directory: Callable[[int], str],
    usable: Callable[[Iterable[str]], str | None] = lambda stored: next(iter(stored), None),
) -> Callable[[Ticket], TrialSpec]:
    """Return what turns a ticket into a spec.

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
        )

    return make


def worker_config(config: Config, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a worker needs of a trial's configuration: parameters applied, local paths absolute, no store.

    `finetune.run` validates it, so that a combination that is refused fails its trial and not the search.
    """
    tree = trial_tree(config, params)
    tree["store"] = "worker://"
    tree["storage"] = places.absolute(config.storage)
    tree["train"]["threads"] = config.train.threads or max(1, int(config.resources.cpus_per_worker))
    for section, key in (("data", "train"), ("data", "eval"), ("model", "path")):
        if Path(tree[section][key]).exists():
            tree[section][key] = str(Path(tree[section][key]).absolute())
    return tree
