"""Nodes that go, with notice and without: a cluster of several raylets on this machine, a real search on it."""

import time

import pytest
from fixtures.searches import until

from rankray.search.scheduler import MAX_DEATHS

LONG = ("--set", "study.trials=1", "--set", "train.max_steps=2000", "--set", "evaluate.every_steps=400")

TWO = ("--set", "study.trials=1", "--set", "train.max_steps=600", "--set", "evaluate.every_steps=150")
TWO += ("--set", "resources.workers=2")


@pytest.fixture(scope="module")
def undisturbed(make_place):
    """What a search records that loses nothing."""
    place = make_place()
    place.search(*LONG)
    return place.recorded()


@pytest.fixture(scope="module")
def cluster():
    """A head that trains nothing and two nodes of one CPU each."""
    from rankray.cluster.environment import prepare_environment

    prepare_environment()
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def place(undisturbed, cluster, make_place, monkeypatch):
    """A place whose searches run on the cluster."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return make_place()


def busy_nodes(cluster):
    """Return the nodes whose one CPU is taken."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        node for node in cluster.list_all_nodes() if not node.head and not free.get(node.node_id, {"CPU": 1}).get("CPU")
    ]


def drain(cluster, node, seconds):
    """Tell Ray what a spot machine is told before it is taken away."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    preempted = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + seconds) * 1000)
    accepted, why = GcsClient(address=cluster.gcs_address).drain_node(node.node_id, preempted, "spot", deadline)
    assert accepted, why


def reports(place):
    """Return what was reported with metrics: checkpoints in between carry none."""
    return {key: metrics for key, metrics in place.recorded().items() if metrics}


def test_a_drained_nodes_trial_leaves_with_a_checkpoint_and_loses_nothing(cluster, place, undisturbed):
    process = place.begin(*LONG)
    until(lambda: (0, 400) in place.recorded(), process)
    time.sleep(0.3)
    cluster.add_node(num_cpus=1)
    drain(cluster, busy_nodes(cluster)[0], seconds=30)
    assert process.wait(timeout=120) == 0, (place.file.parent / "log.txt").read_text()
    between = [step for _, step in place.recorded() if step % 400]
    assert len(between) == 1, "the checkpoint lies between two evaluations"
    said = (place.file.parent / "log.txt").read_text()
    assert f"it continues elsewhere from step {between[0]}" in said
    trial = place.trials()[0]
    assert trial["state"] == "complete"
    assert trial["failures"] == []
    assert [lost["steps"] for lost in trial["work_lost"]] == [0]
    assert trial["work_lost"][0]["wall_seconds"] < 5
    assert reports(place) == undisturbed


def test_a_node_lost_without_notice_blames_no_trial(cluster, place, undisturbed):
    """As many nodes as processes may die under a trial before it is blamed."""
    process = place.begin(*LONG)
    for step in (400, 800, 1200):
        until(lambda step=step: (0, step) in place.recorded() and busy_nodes(cluster), process)
        cluster.remove_node(busy_nodes(cluster)[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)
    assert process.wait(timeout=180) == 0, (place.file.parent / "log.txt").read_text()
    trial = place.trials()[0]
    assert trial["state"] == "complete"
    assert trial["failures"] == []
    assert len(trial["work_lost"]) == MAX_DEATHS
    assert all(lost["wall_seconds"] > 0 for lost in trial["work_lost"])
    assert reports(place) == undisturbed


@pytest.fixture(scope="module")
def undisturbed_group(make_place):
    """What a search of one trial of two workers records that loses nothing."""
    place = make_place()
    place.search(*TWO)
    return place.recorded()


def test_a_drained_node_of_a_group_takes_the_group_along_with_a_checkpoint(cluster, place, undisturbed_group):
    process = place.begin(*TWO)
    until(lambda: (0, 150) in place.recorded(), process)
    cluster.add_node(num_cpus=1)
    drain(cluster, busy_nodes(cluster)[-1], seconds=60)
    assert process.wait(timeout=240) == 0, (place.file.parent / "log.txt").read_text()
    trial = place.trials()[0]
    assert trial["state"] == "complete"
    assert trial["failures"] == []
    assert [lost["steps"] for lost in trial["work_lost"]] == [0]
    found = reports(place)
    assert found.keys() == undisturbed_group.keys()
    for key, metrics in undisturbed_group.items():  # the sums behind train/... were added up over the workers twice
        assert found[key] == pytest.approx(metrics, rel=1e-9)
        assert found[key]["eval/nll"] == metrics["eval/nll"]


def test_a_group_that_may_shrink_goes_on_with_the_nodes_that_are_left(cluster, place, undisturbed_group):
    """One worker is enough for it: none of the nodes that go comes back."""
    process = place.begin(*TWO, "--set", "resources.workers=[1,2]")
    until(lambda: (0, 150) in place.recorded(), process)
    cluster.remove_node(busy_nodes(cluster)[-1], allow_graceful=False)
    assert process.wait(timeout=240) == 0, (place.file.parent / "log.txt").read_text()
    cluster.add_node(num_cpus=1)
    trial = place.trials()[0]
    assert trial["state"] == "complete"
    assert trial["failures"] == []
    assert len(trial["work_lost"]) == 1
    found = reports(place)
    assert found.keys() == undisturbed_group.keys()
    assert found[0, 150] == undisturbed_group[0, 150]


@pytest.mark.parametrize("error", [None, ValueError("no"), RuntimeError("died")])
def test_other_errors_are_nobodys_node(error):
    from rankray.cluster.deaths import node_went

    assert not node_went(error)
