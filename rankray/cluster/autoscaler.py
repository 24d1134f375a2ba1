"""The nodes of a cluster: those that run, and those its autoscaler may start.

An autoscaler can publish its limits in Ray, but the one of open-source Ray never does (docs/traps.md). On the head,
where drivers run, its process can be found, and the command line names its configuration file. Where neither works (on
Kubernetes the autoscaler is in a container of its own), it is known only whether there is an autoscaler.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray.autoscaler.v2.sdk import get_cluster_status

from rankray.cluster import ray_private

logger = logging.getLogger(__name__)

UNBOUNDED_NODES = 1000
"""How many nodes an autoscaler without a limit counts as able to start."""
HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class NodeKind:
    """Nodes with the same resources.

    Attributes:
        name: the node type; empty for a node that runs.
        resources: of one such node, as Ray names them.
        count: how many there are, or could be.
    """

    name: str
    resources: Mapping[str, float]
    count: int = 1

    @property
    def is_head(self) -> bool:
        """Whether this is the head of the cluster."""
        return HEAD in self.resources

    def room(self, wanted: Mapping[str, float]) -> int:
        """Return how many workers that need `wanted` each fit on all of these nodes."""
        each = min(self.resources.get(kind, 0.0) / amount for kind, amount in wanted.items())
        return int(each + 1e-9) * self.count

    def __str__(self) -> str:
        has = ", ".join(f"{self.resources.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
        return f"up to {self.count} {self.name} of {has}" if self.name else has


def nodes_there() -> list[NodeKind]:
    """Return the nodes that are alive."""
    return [NodeKind("", node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def nodes_startable() -> list[NodeKind]:
    """Return the node types that an autoscaler may start, as far as they can be known."""
    published = ray_private.cluster_config()
    if published and published.node_group_configs:
        groups = [(group.name, dict(group.resources), group.max_count) for group in published.node_group_configs]
        return _kinds(groups, UNBOUNDED_NODES)
    for config in _autoscaling_configs():
        types = config.get("available_node_types") or {}
        head, limit = config.get("head_node_type"), int(config.get("max_workers", 2))
        groups = [
            (name, dict(kind.get("resources") or {}), int(kind.get("max_workers", 0 if name == head else limit)))
            for name, kind in types.items()
        ]
        return _kinds(groups, limit)
    return []


def autoscaler_reports() -> bool:
    """Return whether an autoscaler (v2) has reported to the cluster."""
    try:
        return int(get_cluster_status(ray.get_runtime_context().gcs_address).stats.autoscaler_version or 0) > 0
    except Exception:
        logger.debug("Ray does not say whether there is an autoscaler; none is assumed", exc_info=True)
        return False


def _kinds(groups: list[tuple[str, dict[str, float], int]], limit: int) -> list[NodeKind]:
    """Return the types of nodes that can be started, `limit` nodes in all; the largest types come first."""
    kinds = []
    for name, resources, most in sorted(
        groups, key=lambda group: -group[1].get("GPU", 0) * 1e6 - group[1].get("CPU", 0)
    ):
        count = min(limit, UNBOUNDED_NODES if most < 0 else most)
        if count > 0:
            kinds.append(NodeKind(name, resources, count))
            limit -= count
    return kinds


def _autoscaling_configs() -> Iterator[dict[str, Any]]:
    """Return the configuration of this cluster's autoscaler, if it runs on this machine."""
    address = ray.get_runtime_context().gcs_address
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        options = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if options.get("gcs-address") == address and "autoscaling-config" in options:
            try:
                file = Path(process.cwd()) / options["autoscaling-config"]
                found = yaml.safe_load(file.read_text(encoding="utf-8"))
            except (OSError, yaml.YAMLError, psutil.Error):
                logger.debug("the autoscaler's configuration cannot be read", exc_info=True)
                continue
            if isinstance(found, dict):
                yield found
