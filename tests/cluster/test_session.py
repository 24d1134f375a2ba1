"""Which Ray a search joins or starts, and with what in its environment."""

import gc
import socket

import pytest

from rankray.cluster import environment, scratch, session
from rankray.errors import ClusterError, SearchFailed
from rankray.store.urls import validate_url


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
    with session.ray_session(verbose=False):
        assert asked["address"] == "local"
        assert asked["include_dashboard"] is False
        assert asked["_temp_dir"] == str(scratch.own_directory() / "r")


def test_trap_nothing_of_ray_is_collected_in_another_thread_while_it_is_shut_down(asked, monkeypatch):
    """It would end the process with exit code 1: Ray's worker is gone, and not yet forgotten."""
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    seen = []
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append(gc.isenabled()))
    with session.ray_session(verbose=False):
        assert gc.isenabled()
    assert (seen, gc.isenabled()) == ([False], True)


def test_a_ray_of_its_own_listens_on_loopback_with_a_token_of_its_own(asked, monkeypatch):
    import ray

    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", environment.LOOPBACK):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    seen = {}
    monkeypatch.setattr(ray, "init", lambda **options: seen.update(environment.os.environ))
    with session.ray_session(verbose=False):
        pass
    assert seen[environment.LOOPBACK] == "0"
    assert seen["RAY_AUTH_MODE"] == "token"
    assert seen["RAY_AUTH_TOKEN_PATH"] == str(scratch.own_token())
    assert environment.LOOPBACK not in environment.os.environ


def test_ray_is_started_without_the_variables_that_hold_the_store(asked, monkeypatch):
    """`--store env:TEAM_STORE` is how a password is to be given; what Ray starts would inherit it."""
    import ray

    url = "postgresql://u:word@h/d"
    validate_url(url)
    for name, value in (
        ("TEAM_STORE", url),
        ("RANKRAY_STORE", "x"),
        ("PGPASSWORD", "x"),
        ("OTHER", "postgresql://h/e"),
    ):
        monkeypatch.setenv(name, value)
    seen = {}
    monkeypatch.setattr(ray, "init", lambda **options: seen.update(environment.os.environ))
    with session.ray_session(verbose=False):
        pass
    assert {"TEAM_STORE", "RANKRAY_STORE", "PGPASSWORD", "OTHER"} & seen.keys() == {"OTHER"}
    assert environment.os.environ["TEAM_STORE"] == url


def test_a_ray_of_its_own_that_does_not_start_is_no_traceback(asked, monkeypatch):
    """A busy machine: Ray raises a plain `Exception` when its raylet does not answer within half a minute."""
    import ray

    def late(**options):
        raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", late)
    says = r"Ray did not start on this machine: The current node timed out during startup\.; needed: .* run the same"
    with pytest.raises(SearchFailed, match=says), session.ray_session(verbose=False):
        pass


def test_an_address_is_left_to_ray(asked, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as answering:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{answering.getsockname()[1]}")
        with session.ray_session(verbose=False):
            assert {"address", "include_dashboard"}.isdisjoint(asked)


def test_an_address_where_nothing_answers_is_said_at_once(asked, monkeypatch):
    """Ray alone waits for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    for given in (address, "127.0.0.1", "head:port"):
        monkeypatch.setenv("RAY_ADDRESS", given)
        with (
            pytest.raises(ClusterError, match=f"RAY_ADDRESS={given}: nothing answers at {given}; allowed is HOST:PORT"),
            session.ray_session(verbose=False),
        ):
            pass
    assert not asked


def test_auto_without_a_ray_here_is_said_at_once(asked, monkeypatch):
    from ray._private import services

    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda temp_dir: None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ClusterError, match=r"no Ray runs on this machine"), session.ray_session(verbose=False):
        pass


def test_a_cluster_that_cannot_be_joined_is_no_traceback(asked, monkeypatch):
    import ray

    def refuse(**options):
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as answering:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{answering.getsockname()[1]}")
        with pytest.raises(ClusterError, match=r"cannot be joined: Failed to"), session.ray_session(verbose=False):
            pass


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
    monkeypatch.setattr(environment.os, "environ", {k: v for k, v in given.items() if v} | {"HOME": str(tmp_path)})
    monkeypatch.setattr(environment.Path, "home", lambda: tmp_path)
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("x")
    environment.prepare_environment()
    assert environment.os.environ.get("RAY_AUTH_MODE") == then
