"""What works and what does not on this machine and the cluster it is connected to: one line each, with the fix."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rankray import __version__
from rankray.checkpoints import places
from rankray.cluster import nodes as cluster_nodes
from rankray.cluster import ray_private
from rankray.cluster.autoscaler import nodes_startable
from rankray.cluster.environment import CREDENTIALS
from rankray.cluster.nodes import Node
from rankray.config.secrets import store_variables
from rankray.errors import RankrayError

logger = logging.getLogger(__name__)

SKEW_SECONDS = 5.0
"""Clocks further apart than this mislead people who compare times; leases last longer, and are not affected."""
COMPARED = ("ray", "torch", "transformers", "trl", "optuna", "pyarrow")


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        what: what was examined.
        text: what was found.
        fix: what to do about it; empty if nothing is wrong.
    """

    what: str
    text: str
    fix: str = ""


def examine(store: str, place: str | None) -> Iterator[Finding]:
    """Examine everything; Ray must be connected.

    Args:
        store: the store's URL.
        place: the storage, or None if no file was given.
    """
    nodes = cluster_nodes.nodes()
    answers = cluster_nodes.ask_all(_describe, [*CREDENTIALS, *store_variables()], among=nodes)
    yield from _versions(nodes, answers)
    yield from _gpus(nodes, answers)
    yield _cluster(nodes)
    yield _auth(len(nodes))
    yield from _store(store, nodes, answers)
    yield from _storage(place, nodes)
    yield _clocks(nodes)


def _describe(names: list[str]) -> dict[str, Any]:
    """Return versions of the node this runs on, and which of these variables it has."""
    return {
        "versions": _versions_here(),
        "credentials": [name for name in dict.fromkeys(names) if name in os.environ],
    }


def _versions_here() -> dict[str, str]:
    found = {"python": platform.python_version(), "rankray": __version__}
    return found | {name: importlib.metadata.version(name) for name in COMPARED}


def _versions(nodes: list[Node], answers: dict[str, Any]) -> Iterator[Finding]:
    here = _versions_here()
    shown = ", ".join(f"{name} {version}" for name, version in here.items())
    wrong = []
    for node in nodes:
        answer = answers[node.id]
        if isinstance(answer, Exception):
            first = (str(answer).strip().splitlines() or [type(answer).__name__])[-1]
            wrong.append(f"{node.name} did not answer ({first})")
            continue
        theirs = answer["versions"]
        differing = [f"{name} {theirs.get(name)}" for name, version in here.items() if theirs.get(name) != version]
        if differing:
            wrong.append(f"{node.name} has {', '.join(differing)}")
    fix = "install the same there, with constraints.txt" if wrong else ""
    yield Finding("versions", "; ".join([shown, *wrong]), fix)


def _gpus(nodes: list[Node], answers: dict[str, Any]) -> Iterator[Finding]:
    total = sum(node.resources.get("GPU", 0) for node in nodes)
    sound = [node for node in nodes if not isinstance(answers[node.id], Exception)]
    blind = [node.name for node in sound if node.resources.get("GPU", 0) and _for_cpus(answers[node.id])]
    fix = f"torch is a build for CPUs on {', '.join(blind)}: install the one for its GPUs" if blind else ""
    yield Finding("gpus", f"{total:g} in the cluster", fix)


def _for_cpus(answer: dict[str, Any]) -> bool:
    return str(answer["versions"]["torch"]).endswith("+cpu")


def _cluster(nodes: list[Node]) -> Finding:
    has = "; ".join(
        f"{node.name} " + ", ".join(f"{node.resources.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
        for node in nodes
    )
    kinds = nodes_startable()
    more = f"; an autoscaler may start {'; '.join(map(str, kinds))}" if kinds else "; no autoscaler"
    works = kinds or any(node.resources.get("CPU", 0) for node in nodes)
    return Finding(
        "cluster", f"{len(nodes)} nodes: {has}{more}", "" if works else "no node has a CPU to train on: add one"
    )


def _auth(count: int) -> Finding:
    if ray_private.token_authentication_enabled():
        return Finding("auth", "token")
    alone = "RAY_ADDRESS" not in os.environ and count == 1
    fix = "" if alone else "start every node with RAY_AUTH_MODE=token and the head's token (`ray get-auth-token`)"
    return Finding("auth", "off" + (", on a cluster of this process alone" if alone else ""), fix)


def _store(store: str, nodes: list[Node], answers: dict[str, Any]) -> Iterator[Finding]:
    from rankray.paths import FILE_STORES
    from rankray.store import list_studies
    from rankray.store.urls import masked, parse_url

    begun, parts = time.monotonic(), None
    try:
        parts = parse_url(store)
    except RankrayError as error:
        logger.debug("the store's URL is wrong: %s", error)
    try:
        held = len(list_studies(store))
    except RankrayError as error:
        logger.debug("the store cannot be read", exc_info=True)
        if parts is not None and parts.scheme in FILE_STORES and not parts.path.exists():
            yield Finding("store", f"{masked(store)} is not there yet; the first search makes it")
        else:
            yield Finding(
                "store", str(error).splitlines()[0], "start it, or give another with --store or RANKRAY_STORE"
            )
    else:
        took = (time.monotonic() - begun) * 1000
        yield Finding("store", f"{masked(store)} answers the driver in {took:.0f} ms and holds {held} studies")
    trains = [node for node in nodes if node.resources.get("CPU", 0) and not isinstance(answers[node.id], Exception)]
    leaks = [f"{node.name} has {', '.join(names)}" for node in trains if (names := answers[node.id]["credentials"])]
    text = "workers need no access to the store, their reports go through the driver; "
    fix = "start Ray on nodes that train without these variables" if leaks else ""
    yield Finding("secrets", text + ("; ".join(leaks) or "none of them holds its credentials"), fix)


def _storage(place: str | None, nodes: list[Node]) -> Iterator[Finding]:
    if place is None:
        yield Finding("storage", "not examined: give a configuration file, and every node will try to write there")
        return
    fix = "see above"
    try:
        places.probe(place)
        problems = cluster_nodes.storage_problems(places.absolute(place), [node for node in nodes if not node.here])
    except RankrayError as error:
        logger.debug("the storage cannot be written here", exc_info=True)
        yield Finding("storage", f"the driver: {error}", fix)
        return
    for text in problems.values():
        yield Finding("storage", text, fix)
    if not problems:
        yield Finding("storage", f"{place} was written, read and deleted from {len(nodes)} nodes")


def _now() -> float:
    return time.time()


def _clocks(nodes: list[Node]) -> Finding:
    apart, shown = 0.0, []
    for node in nodes:
        before = time.time()
        answer = cluster_nodes.ask_all(_now, among=[node])[node.id]
        after = time.time()
        if isinstance(answer, float):
            off, doubt = answer - (before + after) / 2, (after - before) / 2
            apart = max(apart, abs(off) - doubt)
            shown.append(f"{node.name} {off:+.2f} ± {doubt:.2f} s")
    fix = "run an NTP client (chrony) on every node" if apart > SKEW_SECONDS else ""
    return Finding("clocks", f"against the driver's: {'; '.join(shown)}", fix)
