"""Nodes that go, with notice and without: real searches on a cluster of several raylets.

A gate holds the trial at its evaluations, so that every death comes between two checkpoints, however busy the machine.
"""

import pytest
from fixtures.waiting import ended, until

from rankray.search.scheduler import MAX_DEATHS

pytestmark = pytest.mark.xdist_group("cluster")

EVERY = 20
ONE = ("study.trials=1", f"train.max_steps={5 * EVERY}", f"evaluate.every_steps={EVERY}")
ONE = tuple(word for change in ONE for word in ("--set", change))
TWO = (*ONE, "--set", "resources.workers=2")
NOTICE_SECONDS = 3600
"""How long before a node goes it is said; it is gone when its processes are, or when the test ends."""


@pytest.fixture
def place(nodes, make_place, monkeypatch):
    """A place whose searches run on the cluster."""
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    return make_place()


def reports(place):
    """Return what was reported with metrics: checkpoints in between carry none."""
    return {key: metrics for key, metrics in place.recorded().items() if metrics}


def test_a_drained_nodes_trial_leaves_with_a_checkpoint_and_loses_nothing(nodes, place, gate):
    process = place.begin(*ONE, *gate.words)
    drained = until(lambda: gate.node(1), process, log=place.log)
    nodes.add()
    nodes.drain(drained, NOTICE_SECONDS)
    gate.let_pass(1, drained)
    gate.open()
    assert ended(process) == 0, place.log.read_text()
    [between] = [step for _, step in place.recorded() if step % EVERY]
    assert EVERY < between < 2 * EVERY, "the checkpoint lies between two evaluations"
    assert f"it continues elsewhere from step {between}" in place.log.read_text()
    trial = place.trials()[0]
    assert trial["state"] == "complete"
    assert trial["failures"] == []
    assert [lost["steps"] for lost in trial["work_lost"]] == [0]
    assert reports(place) == place.undisturbed()


def test_a_node_lost_without_notice_blames_no_trial(nodes, place, gate):
    """As many nodes as processes may die under a trial before it is blamed."""
    process = place.begin(*ONE, *gate.words)
    until(lambda: gate.node(1), process, log=place.log)
    for death in range(1, MAX_DEATHS + 1):
        gate.let_pass(2 * death - 1)
        lost = until(lambda death=death: gate.node(2 * death), process, log=place.log)
        assert len(place.recorded()) == death, "the death comes between two checkpoints"
        nodes.kill(lost)
        nodes.add()
        until(lambda death=death: gate.node(2 * death + 1), process, log=place.log)
    gate.open()
    assert ended(process) == 0, place.log.read_text()
    trial = place.trials()[0]
    assert trial["state"] == "complete"
    assert trial["failures"] == []
    assert len(trial["work_lost"]) == MAX_DEATHS
    assert all(lost["wall_seconds"] > 0 for lost in trial["work_lost"])
    assert reports(place) == place.undisturbed()


@pytest.fixture(scope="module")
def undisturbed_group(joined, make_place, modules):
    """What a search of one trial of two workers records that loses nothing."""
    joined.reset(2)
    place = make_place()
    (modules / "held.py").write_text('def held(model, tokenizer, rows):\n    return {"held": 1.0}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", joined.address)
        place.search(*TWO, "--set", "evaluate.functions=[held:held]")
    return place.recorded()


def both_at(gate, number):
    return lambda: gate.node(number, rank=0) and gate.node(number, rank=1)


@pytest.mark.slow  # of one process: above
def test_a_drained_node_of_a_group_takes_the_group_along_with_a_checkpoint(undisturbed_group, nodes, place, gate):
    process = place.begin(*TWO, *gate.words)
    drained = until(both_at(gate, 1), process, log=place.log)
    nodes.add()
    nodes.drain(drained, NOTICE_SECONDS)
    gate.let_pass(1, drained)
    gate.open()
    assert ended(process) == 0, place.log.read_text()
    trial = place.trials()[0]
    assert trial["state"] == "complete"
    assert trial["failures"] == []
    assert [lost["steps"] for lost in trial["work_lost"]] == [0]
    found = reports(place)
    assert found.keys() == undisturbed_group.keys()
    for key, metrics in undisturbed_group.items():  # the sums behind train/... were added up over the workers twice
        assert found[key] == pytest.approx(metrics, rel=1e-9)
        assert found[key]["eval/nll"] == metrics["eval/nll"]


@pytest.mark.slow  # one that grows: search/test_workers.py
def test_a_group_that_may_shrink_continues_on_the_nodes_that_are_left(undisturbed_group, nodes, place, gate):
    """One worker is enough for it: none of the nodes that go comes back."""
    process = place.begin(*TWO, "--set", "resources.workers=[1,2]", *gate.words)
    until(both_at(gate, 1), process, log=place.log)
    gate.let_pass(1)
    lost = until(both_at(gate, 2), process, log=place.log)
    assert list(place.recorded()) == [(0, EVERY)], "the death comes between two checkpoints"
    nodes.kill(lost)
    gate.open()
    assert ended(process) == 0, place.log.read_text()
    trial = place.trials()[0]
    assert trial["state"] == "complete"
    assert trial["failures"] == []
    assert len(trial["work_lost"]) == 1
    found = reports(place)
    assert found.keys() == undisturbed_group.keys()
    assert found[0, EVERY] == undisturbed_group[0, EVERY]


@pytest.mark.parametrize("error", [None, ValueError("no"), RuntimeError("died")])
def test_other_errors_are_nobodys_node(error):
    from rankray.cluster.deaths import node_went

    assert not node_went(error)
