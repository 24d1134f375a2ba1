"""What each node of the cluster can reach: asked before the first trial, and by `rankray doctor`.

If one node cannot write to the storage, a trial's training is lost before anybody notices. So the driver, and a task on
every running node, write a small file there, read it back and delete it. Where the storage is a directory, every node
must also see what the driver wrote, or its checkpoints would stay on its own disk. Nodes that an autoscaler starts
later are not asked; there, the first checkpoint of a trial shows it.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rankray.checkpoints import places
from rankray.errors import StorageError

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
ASK_SECONDS = 120.0
"""How long a node may take to answer; a process has to start there first."""


@dataclass(frozen=True)
class Node:
    """A running node.

    Attributes:
        id: Ray's node id.
        name: for people: its address and the first letters of its id, as several nodes may share an address.
        resources: what it has, as Ray names them.
        here: whether the driver runs on it.
    """

    id: str
    name: str
    resources: dict[str, float]
    here: bool


def nodes() -> list[Node]:
    """Return the running nodes, the driver's first."""
    mine = ray.get_runtime_context().get_node_id()
    found = [
        Node(
            each["NodeID"],
            _name(each),
            each["Resources"],
            each["NodeID"] == mine,
        )
        for each in ray.nodes()  # type: ignore[no-untyped-call]
        if each["Alive"]
    ]
    return sorted(found, key=lambda node: not node.here)


def names_of(ids: Sequence[str]) -> str:
    """Return the names of some nodes, as `Node.name` has them, with commas between them.

    A Ray of the search's own is one node, which has another id at every launch: it is named by its host.
    """
    names = {
        each["NodeID"]: each["NodeManagerHostname"] if each["NodeManagerAddress"] == LOOPBACK else _name(each)
        for each in ray.nodes()  # type: ignore[no-untyped-call]
    }
    return ", ".join(names.get(node, node[:8]) for node in ids)


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def typed_nodes() -> dict[str, tuple[str, bool]]:
    """Return the running nodes by id: (type, whether it is a spot node), as their labels say.

    The type is what the autoscaler calls it (label `ray.io/node-group`), else its accelerator, else empty.
    """
    found = {}
    for each in ray.nodes():  # type: ignore[no-untyped-call]
        labels = each.get("Labels") or {}
        if each["Alive"]:
            kind = labels.get("ray.io/node-group") or labels.get("ray.io/accelerator-type") or ""
            found[each["NodeID"]] = (kind, labels.get("ray.io/market-type") == "spot")
    return found


def ask_all(question: Callable[..., Any], *args: Any, among: list[Node]) -> dict[str, Any]:
    """Call a function on several nodes at once; return node id to what it returned there, or to the exception."""
    asked = {}
    for node in among:
        there: Any = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(question)
        asked[node.id] = task.remote(*args)
    answers: dict[str, Any] = {}
    end = time.monotonic() + ASK_SECONDS
    for node_id, reference in asked.items():
        try:
            answers[node_id] = ray.get(reference, timeout=max(0.1, end - time.monotonic()))
        except Exception as error:
            logger.debug("node %s gave no answer", node_id, exc_info=True)
            answers[node_id] = error
    return answers


def check_storage(place: str) -> None:
    """Check that the driver and every node can write, read and delete at the storage.

    Raises:
        StorageError: names those that cannot, and what to do.
    """
    places.probe(place)
    others = [node for node in nodes() if not node.here]
    problems = storage_problems(places.absolute(place), others)
    if problems:
        raise StorageError("\n".join(problems.values()))


def storage_problems(place: str, among: list[Node]) -> dict[str, str]:
    """Return node id to what is wrong with the storage there; nodes where it works are left out."""
    if not among:
        return {}
    marker = None
    if not places.is_remote(place):
        marker = Path(place, f".rankray-seen-{uuid.uuid4().hex[:8]}")
        marker.touch()
    try:
        answers = ask_all(_try_storage, place, str(marker or ""), among=among)
    finally:
        if marker:
            marker.unlink(missing_ok=True)
    problems = {node.id: _problem(node, answers[node.id]) for node in among}
    return {node_id: text for node_id, text in problems.items() if text}


def _try_storage(place: str, marker: str) -> str:
    """Return what is wrong with the storage on this node, or an empty string."""
    try:
        places.probe(place)
    except StorageError as error:
        return str(error)
    if marker and not os.path.exists(marker):
        return (
            f"storage: {place} is not the same directory here as on the driver's node; allowed is one that all nodes "
            "share, or an object store; mount it here, or set storage to s3:// or gs://"
        )
    return ""


def _problem(node: Node, answer: Any) -> str:
    if isinstance(answer, Exception):
        first = (str(answer).strip().splitlines() or [type(answer).__name__])[0]
        lacks = "; install rankray there, at the driver's version" if "rankray" in str(answer) else ""
        return f"node {node.name}: did not answer: {first}{lacks}"
    return f"node {node.name}: {answer}" if answer else ""
