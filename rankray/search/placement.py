"""What a trial occupies, and how many fit."""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray.tune import PlacementGroupFactory

from rankray.config import Config
from rankray.errors import ConfigError

BESIDE_A_GROUP = {"node:__internal_head__": 0.001}
"""What a process takes that trains nothing itself: a place on the head, which is not a spot node."""


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


def place(config: Config) -> Placement:
    """Fit trials into the cluster that Ray is connected to.

    Raises:
        ConfigError: one trial asks for more than any node has.
    """
    wanted = {"CPU": float(config.resources.cpus_per_worker)}
    if config.resources.gpus_per_worker:
        wanted["GPU"] = float(config.resources.gpus_per_worker)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = sum(int(min(node.get(kind, 0.0) / amount for kind, amount in wanted.items()) + 1e-9) for node in nodes)
    have = "; ".join(", ".join(f"{node.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU")) for node in nodes)
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
    slots = groups if limit == "auto" else min(groups, limit)
    bundle = wanted if most == 1 else BESIDE_A_GROUP
    return Placement(bundle, min(slots, config.study.trials), f"{slots} of {groups} that fit")
