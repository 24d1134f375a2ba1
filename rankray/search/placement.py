"""The resources of a trial, and how many trials fit: on the nodes there are, and on those an autoscaler may start.

Slots are counted over all nodes that may be started (see `autoscaler`), and Tune asks for all of them at once. Each
pending trial is then a demand that the autoscaler sees, so the cluster grows to what the search can use in one step
instead of node by node (docs/traps.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from ray.tune import PlacementGroupFactory

from rankray.cluster.autoscaler import NodeKind, autoscaler_reports, nodes_startable, nodes_there
from rankray.config import Config
from rankray.errors import ConfigError

BESIDE_A_GROUP = {"node:__internal_head__": 0.001}
"""Resources of a process that trains nothing itself: a place on the head, which is not a spot node."""


@dataclass(frozen=True)
class Placement:
    """Resources of one trial and the number of trials at a time.

    Attributes:
        bundle: resources of the process that Tune starts for a trial, as Ray names them. For a trial of several workers
            this process only manages the worker group, which reserves its own resources.
        slots: how many trials run at a time.
        reason: why as many, for people.
    """

    bundle: dict[str, float]
    slots: int
    reason: str

    def factory(self) -> PlacementGroupFactory:
        """Return the bundle in Tune's form."""
        return PlacementGroupFactory([self.bundle])


def place(config: Config) -> Placement:
    """Fit trials into the cluster that Ray is connected to, as it is and as it could grow.

    Raises:
        ConfigError: one trial asks for more than any node has, or for more workers than fit.
    """
    wanted = {"CPU": float(config.resources.cpus_per_worker)}
    if config.resources.gpus_per_worker:
        wanted["GPU"] = float(config.resources.gpus_per_worker)
    least, most = config.resources.worker_range
    there, startable = nodes_there(), nodes_startable()
    now, fits = _room(wanted, there, startable)
    limit = config.resources.concurrency
    if isinstance(limit, int) and not startable and autoscaler_reports():
        fits = max(fits, limit * most)
    _refuse_what_fits_nowhere(wanted, least, fits, [*there, *startable])
    groups = max(1, fits // most)
    slots = min(groups if limit == "auto" else min(groups, limit), config.study.trials)
    growth = f", {now // most} of them now" if fits > now else ""
    return Placement(wanted if most == 1 else BESIDE_A_GROUP, slots, f"{slots} of {groups} that fit{growth}")


def _room(wanted: dict[str, float], there: list[NodeKind], startable: list[NodeKind]) -> tuple[int, int]:
    """Return how many workers fit on the running nodes, and on all that there could be."""
    now = sum(kind.room(wanted) for kind in there)
    # Startable nodes include those that run already, but not the head.
    head = sum(kind.room(wanted) for kind in there if kind.is_head)
    return now, max(now, head + sum(kind.room(wanted) for kind in startable))


def _refuse_what_fits_nowhere(wanted: dict[str, float], least: int, fits: int, kinds: list[NodeKind]) -> None:
    have = "; ".join(map(str, kinds))
    asked = ", ".join(f"{amount:g} {kind}" for kind, amount in wanted.items())
    if not fits:
        advice = (
            "; or, if the autoscaler could start such nodes, set resources.concurrency to a number"
            if autoscaler_reports()
            else ""
        )
        raise ConfigError(
            f"resources: a trial asks for {asked}; the nodes here have {have}; "
            f"lower resources.cpus_per_worker or resources.gpus_per_worker{advice}"
        )
    if fits < least:
        raise ConfigError(
            f"resources.workers: a trial asks for {least} workers of {asked} each; the nodes here have room for {fits} "
            f"({have}); lower resources.workers, or what each worker takes"
        )
