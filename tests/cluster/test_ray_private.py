"""Every private name of Ray that rankray uses, called for real: an upgrade that renames one fails here."""

import importlib.metadata
import re
import time

import pytest
from fixtures.waiting import until

from rankray.cluster import ray_private
from rankray.cluster.drain import DrainWatcher


def test_the_names_were_read_in_the_installed_version():
    installed = ".".join(importlib.metadata.version("ray").split(".")[:2])
    assert installed == ray_private.READ_FROM, (
        f"ray {installed} is installed, and the private names in rankray/cluster/ray_private.py were read from "
        f"{ray_private.READ_FROM}: read ray/_private/{{services,state,utils}}.py, "
        "ray/experimental/internal_kv.py, "
        "ray/_private/authentication/authentication_utils.py, ray/_common/utils.py, and ActorDiedErrorContext in "
        "ray/core/generated/common_pb2.py again, run this file, and set READ_FROM"
    )


@pytest.fixture(scope="module")
def node():
    """A small Ray of its own; yields the id of its one node. The last test takes the node away."""
    from rankray.cluster.environment import prepare_environment

    prepare_environment()
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield ray.get_runtime_context().get_node_id()
    ray.shutdown()


@pytest.fixture(scope="module")
def killed(node):
    """The error of a call to an actor that is dead."""
    import ray
    from ray.exceptions import RayActorError

    class Idle:
        def wait(self):
            pass

    actor = ray.remote(num_cpus=0)(Idle).remote()
    ray.get(actor.wait.remote())
    ray.kill(actor)

    def error():
        try:
            ray.get(actor.wait.remote())
        except RayActorError as dead:
            return dead

    return until(error)  # a call may still be answered while the actor is being killed


def gcs():
    import ray
    from ray._raylet import GcsClient

    return GcsClient(address=ray.get_runtime_context().gcs_address)


def test_the_ray_on_this_machine_is_found(node, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    host, _, port = ray_private.running_here().rpartition(":")
    assert host
    assert port.isdecimal()


def test_authentication(node):
    assert ray_private.token_authentication_enabled() is True, "tests/conftest.py sets RAY_AUTH_MODE=token"


def test_an_actors_node_and_why_it_died(node, killed):
    assert ray_private.actor_node(killed.actor_id) == node
    assert ray_private.actor_died_with_its_node(killed.actor_id) is False


def test_memory():
    used, total = ray_private.memory_bytes()
    assert 2**20 < used < total


def test_the_limits_that_an_autoscaler_publishes(node):
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    assert ray_private.cluster_config() is None
    group = NodeGroupConfig(name="gpu", resources={"GPU": 8}, max_count=3)
    gcs().report_cluster_config(ClusterConfig(node_group_configs=[group]).SerializeToString())
    (published,) = ray_private.cluster_config().node_group_configs
    assert (published.name, dict(published.resources), published.max_count) == ("gpu", {"GPU": 8}, 3)


def test_a_flag_is_seen_until_it_is_lowered(node):
    import ray

    def sees():
        return ray_private.flag_is_up("launch-1"), ray_private.flag_is_up("launch-2")

    elsewhere = ray.remote(num_cpus=0)(sees)
    assert sees() == (False, False)
    ray_private.raise_flag("launch-1")
    ray_private.raise_flag("launch-1")
    assert sees() == (True, False)
    assert ray.get(elsewhere.remote()) == (True, False), "another process sees it too"
    ray_private.lower_flag("launch-1")
    assert sees() == (False, False)


def test_a_drained_node_is_seen(node):
    """Last in this file: no actor starts on the node after it. An idle node would go at once, so this one is busy."""
    import ray
    from ray.core.generated import autoscaler_pb2

    class Busy:
        def wait(self):
            pass

    actor = ray.remote(num_cpus=1)(Busy).remote()
    ray.get(actor.wait.remote())
    assert ray_private.draining_nodes() == {}
    watcher = DrainWatcher()
    assert watcher() == ""
    deadline_ms = int((time.time() + 3600) * 1000)
    preempted = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = gcs().drain_node(node, preempted, "spot", deadline_ms)
    assert accepted, why
    until(watcher)
    assert re.fullmatch(r"its node is being taken away in \d+ s", watcher())
    assert ray_private.draining_nodes() == {node: deadline_ms}
    watcher.close()
