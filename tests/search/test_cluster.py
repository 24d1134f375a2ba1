"""Which Ray a search joins or starts, and with what in its environment."""

import pytest

from rankray.search import cluster


@pytest.fixture
def asked(monkeypatch):
    """What `ray.init` was asked for."""
    import ray

    given = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return given


def test_without_an_address_a_cluster_of_its_own_is_started(asked, monkeypatch):
    """Left without an address, Ray joins the last cluster that `ray start` made here, or waits for it if it is gone."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with cluster.ray_session(verbose=False):
        assert asked["address"] == "local"
        assert asked["include_dashboard"] is False


def test_an_address_is_left_to_ray(asked, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with cluster.ray_session(verbose=False):
        assert {"address", "include_dashboard"}.isdisjoint(asked)


@pytest.mark.parametrize(
    ("address", "token", "mode", "then"),
    [
        ("10.0.0.1:6379", True, None, "token"),
        ("10.0.0.1:6379", True, "disabled", "disabled"),
        ("10.0.0.1:6379", False, None, None),
        (None, True, None, None),
    ],
)
def test_a_token_is_used_where_a_cluster_is_joined(monkeypatch, tmp_path, address, token, mode, then):
    given = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": None}
    monkeypatch.setattr(cluster.os, "environ", {k: v for k, v in given.items() if v} | {"HOME": str(tmp_path)})
    monkeypatch.setattr(cluster.Path, "home", lambda: tmp_path)
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("x")
    cluster.prepare_environment()
    assert cluster.os.environ.get("RAY_AUTH_MODE") == then
