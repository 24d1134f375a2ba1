"""What is said of nodes that cannot write to the storage; test_jobs has one that can."""

from __future__ import annotations

import pytest

from rankray.checkpoints import places
from rankray.cluster import nodes
from rankray.errors import StorageError

HERE = nodes.Node("aa" * 28, "10.0.0.1 (aaaaaaaa)", {"CPU": 1.0}, here=True)
THERE = nodes.Node("bb" * 28, "10.0.0.2 (bbbbbbbb)", {"CPU": 8.0, "GPU": 1.0}, here=False)


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes; the question put to the other one is asked here, or answered by what the test says."""

    def answers(answer=None):
        def ask(question, *args, among):
            return {node.id: question(*args) if answer is None else answer for node in among}

        monkeypatch.setattr(nodes, "nodes", lambda: [HERE, THERE])
        monkeypatch.setattr(nodes, "ask_all", ask)

    return answers


def test_a_directory_that_all_nodes_share_passes_and_nothing_is_left(cluster, tmp_path):
    cluster()
    nodes.check_storage(str(tmp_path / "runs"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_directory_of_each_nodes_own_is_noticed(cluster, tmp_path, monkeypatch):
    cluster()
    monkeypatch.setattr(nodes.os.path, "exists", lambda path: False)
    with pytest.raises(StorageError, match=r"node 10\.0\.0\.2 \(bbbbbbbb\): .* is not the same directory here .*s3://"):
        nodes.check_storage(str(tmp_path / "runs"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_node_that_may_not_write_is_named_with_what_to_do(cluster, tmp_path, monkeypatch):
    cluster()
    probe, asked = places.probe, []

    def once(place):
        asked.append(place)
        if len(asked) > 1:
            raise StorageError(f"storage: {place} cannot be written or read here: access denied; check credentials")
        probe(place)

    monkeypatch.setattr(places, "probe", once)
    with pytest.raises(StorageError, match=r"node 10\.0\.0\.2 .*access denied; check credentials"):
        nodes.check_storage(str(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError("no answer in 120 s"), "did not answer: no answer in 120 s"),
        (RuntimeError("No module named 'rankray'"), "install rankray there, at the driver's version"),
        (ValueError(), "did not answer: ValueError"),
    ],
)
def test_a_node_that_does_not_answer_is_named(cluster, tmp_path, error, said):
    cluster(error)
    with pytest.raises(StorageError) as refused:
        nodes.check_storage(str(tmp_path))
    assert f"node {THERE.name}: " in str(refused.value)
    assert said in str(refused.value)


def test_names_are_for_people_and_stay_the_same_at_the_next_launch(monkeypatch):
    there = [
        {"NodeID": "abcdef0123", "NodeManagerAddress": "10.0.0.1", "NodeManagerHostname": "gpu-1"},
        {"NodeID": "fedcba9876", "NodeManagerAddress": "127.0.0.1", "NodeManagerHostname": "laptop"},
    ]
    monkeypatch.setattr("rankray.cluster.nodes.ray.nodes", lambda: there)
    assert nodes.names_of(["abcdef0123"]) == "10.0.0.1 (abcdef01)"
    assert nodes.names_of(["fedcba9876"]) == "laptop"
    assert nodes.names_of(["abcdef0123", "00112233445566"]) == "10.0.0.1 (abcdef01), 00112233"
