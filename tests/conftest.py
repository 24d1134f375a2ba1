"""What holds for all tests: their tiers, the order in which two processes take them, one token, one cache, one seed.

Nobody marks a test `unit`, `ray` or `db`: the tier follows from the fixtures it asks for, or from the file's own
`pytestmark`. Only `slow` is written by hand, for a longer version of what a test of `make test` covers as well.
"""

import atexit
import os
import random
import re
import secrets
import sys
import tempfile
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["fixtures.training", "fixtures.searches", "fixtures.clusters"]

TIERS = ("ray", "db", "unit")
"""Most costly first: a test that needs Ray and a server is in the first tier."""
RAY_FIXTURE = "modules"
"""What every fixture asks for that starts searches, or Ray itself (`fixtures/`)."""
DB_FIXTURES = ("postgres", "mysql", "grpc", "server")
"""Parts of the names of fixtures, and of their parameters, that start a database server or a proxy in front of one."""

# Searches start a Ray of their own, whatever other Ray runs on this machine.
os.environ.setdefault("RAY_ADDRESS", "local")

# The tests are the same on a machine with a GPU: neither torch nor Ray sees the card.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# Every Ray of the tests has one token, and not the user's. Left to itself Ray starts a cluster without one, unless this
# process started a local Ray before or a token lies in the home directory: what passes would hang on what ran first.
_handle, _token = tempfile.mkstemp(prefix="rankray-test-token-")
os.write(_handle, secrets.token_hex(32).encode())
os.close(_handle)
atexit.register(Path(_token).unlink)
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN_PATH"] = _token
os.environ.pop("RAY_AUTH_TOKEN", None)


def tier_of(item: pytest.Item) -> str:
    """Return a test's tier: as marked in its file, or as its fixtures say."""
    for tier in TIERS:
        if item.get_closest_marker(tier):
            return tier
    names = set(getattr(item, "fixturenames", ()))
    if RAY_FIXTURE in names:
        return "ray"
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    asked = names | {value for value in parameters.values() if isinstance(value, str) and value.isidentifier()}
    return "db" if any(part in name for name in asked for part in DB_FIXTURES) else "unit"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its tier; take the longest first: the shared cluster, other tests with Ray, servers, the rest."""
    for item in items:
        item.add_marker(tier_of(item))
    items.sort(key=lambda item: (group_of(item.path) != "cluster", TIERS.index(tier_of(item))))


@lru_cache
def group_of(file: Path) -> str:
    """Return which tests a file's tests share a process with: those of its xdist group, else only each other."""
    named = re.search(r"""xdist_group\(["'](\w+)["']\)""", file.read_text(encoding="utf-8"))
    return named[1] if named else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep groups together for `--dist loadgroup`.

    pytest-xdist 3.8 writes groups into a private attribute of items that pytest 9.2 no longer reads, and then spreads
    every test over all processes, without a word.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(config.rootpath / nodeid.partition("::")[0])

    return ByGroup(config, log)


FUZZED = re.compile(r"^([a-z ]+): (\d+) inputs tried", re.MULTILINE)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many mutated inputs were tried, by kind: what a test prints is shown only where it fails."""
    tried: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for kind, count in FUZZED.findall(report.capstdout):
            tried[kind] += int(count)
    failed = [each for each in terminalreporter.stats.get("failed", []) if re.search(r"fuzz|mutat", each.nodeid)]
    if tried:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(tried.items()))
        terminalreporter.write_line(f"{tried.total()} mutated inputs tried ({kinds}), failures: {len(failed)}")


@pytest.fixture(autouse=True)
def no_ray_in_units(request: pytest.FixtureRequest):
    """A test that starts Ray in this process belongs to the tier `ray`."""
    before = _runs_ray()
    yield
    if tier_of(request.node) != "ray":
        assert before or not _runs_ray(), "this test starts Ray: mark its file with pytestmark = pytest.mark.ray"


def _runs_ray() -> bool:
    ray = sys.modules.get("ray")
    return hasattr(ray, "is_initialized") and bool(ray.is_initialized())


@pytest.fixture
def seed() -> int:
    """The seed of a test's random moments; printed where it fails, and taken from RANKRAY_TEST_SEED to try it again."""
    drawn = int(os.environ.get("RANKRAY_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"RANKRAY_TEST_SEED={drawn}")
    return drawn


@pytest.fixture(autouse=True)
def no_stores_of_other_tests(monkeypatch):
    """A process remembers the stores that it named, to hide their passwords in all that it prints."""
    monkeypatch.setattr("rankray.config.secrets._STORES", {})


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Keep tokenised data of tests, and of the commands they start, out of the user's cache."""
    before = os.environ.get("RANKRAY_CACHE")
    os.environ["RANKRAY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["RANKRAY_CACHE"]
    else:
        os.environ["RANKRAY_CACHE"] = before
