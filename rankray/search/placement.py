"""What a trial occupies, and how many fit: on the nodes there are, and on those an autoscaler may still start.

Ray's autoscaler publishes what it is allowed to start (node types with their resources and highest numbers). Slots are
counted over all of it, and Tune is told to ask for all of them at once: each pending trial is then a demand that the
autoscaler sees, and the cluster grows to what the search can use in one go instead of node by node (trap 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ray
from ray._private.state import state
from ray.tune import PlacementGroupFactory

from rankray.config import Config
from rankray.errors import ConfigError

BESIDE_A_GROUP = {"node:__internal_head__": 0.001}
"""What a process takes that trains nothing itself: a place on the head, which is not a spot node."""
UNBOUNDED_NODES = 1000
"""What an autoscaler without a highest number of nodes is taken to be able to start."""


@dataclass(frozen=True)
class Placement:
    """Resources of one trial and the number of trials at a time.

    Attributes:
        bundle: resources of the process that Tune starts for a trial, as Ray names them. A trial of several workers is
            only looked after there: its worker group reserves its own.
        slots: trials that run at a time.
        reason: how `slots` came about, for people.
    """

    bundle: dict[str, float]
    slots: int
    reason: str

    def factory(self) -> PlacementGroupFactory:
        """Return the bundle in Tune's form."""
        return PlacementGroupFactory([self.bundle])


@dataclass(frozen=True)
class NodeKind:
    """Nodes that are alike.

    Attributes:
        name: the node type, or `node` for those that are there.
        resources: of one of them.
        count: how many there are, or could be started.
    """

    name: str
    resources: Mapping[str, float]
    count: int

    def room(self, wanted: Mapping[str, float]) -> int:
        """Return how many workers fit on all of them."""
        each = min(self.resources.get(kind, 0.0) / amount for kind, amount in wanted.items())
        return int(each + 1e-9) * self.count

    def __str__(self) -> str:
        has = ", ".join(f"{self.resources.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
        return has if self.name == "node" else f"up to {self.count} {self.name} of {has}"


def place(config: Config) -> Placement:
    """Fit trials into the cluster that Ray is connected to, as it is and as it could grow.

    Raises:
        ConfigError: one trial asks for more than any node has, or for more workers than fit.
    """
    wanted = {"CPU": float(config.resources.cpus_per_worker)}
    if config.resources.gpus_per_worker:
        wanted["GPU"] = float(config.resources.gpus_per_worker)
    there, startable = nodes_there(), nodes_startable()
    now = sum(kind.room(wanted) for kind in there)
    # Nodes of a type that can be started are, as far as they run, among those that are there.
    fixed = sum(kind.room(wanted) for kind in there if not startable or _is_head(kind))
    fits = max(now, fixed + sum(kind.room(wanted) for kind in startable))
    have = "; ".join(map(str, [*there, *startable]))
    asked = ", ".join(f"{amount:g} {kind}" for kind, amount in wanted.items())
    if not fits:
        raise ConfigError(
            f"resources: a trial asks for {asked}; the nodes here have {have}; "
            "lower resources.cpus_per_worker or resources.gpus_per_worker"
        )
    least, most = config.resources.worker_range
    if fits < least:
        raise ConfigError(
            f"resources.workers: a trial asks for {least} workers of {asked} each; the nodes here have room for {fits} "
            f"({have}); lower resources.workers, or what each worker takes"
        )
    groups = max(1, fits // most)
    limit = config.resources.concurrency
    slots = min(groups if limit == "auto" else min(groups, limit), config.study.trials)
    growth = f", {max(1, now // most) if now >= least else 0} of them now" if fits > now else ""
    return Placement(wanted if most == 1 else BESIDE_A_GROUP, slots, f"{slots} of {groups} that fit{growth}")


def nodes_there() -> list[NodeKind]:
    """Return the nodes that are alive."""
    return [NodeKind("node", node["Resources"], 1) for node in ray.nodes() if node["Alive"]]


def nodes_startable() -> list[NodeKind]:
    """Return the node types that an autoscaler may start; none where there is no autoscaler.

    The head's type has no highest number above the one that runs, and is left out.
    """
    config = state.get_cluster_config()
    kinds = []
    for group in config.node_group_configs if config else ():
        count = group.max_count if group.max_count >= 0 else UNBOUNDED_NODES
        if count and "head" not in group.name:
            kinds.append(NodeKind(group.name, dict(group.resources), count))
    return kinds


def _is_head(kind: NodeKind) -> bool:
    return "node:__internal_head__" in kind.resources
