import os

import pytest

# Searches start a Ray of their own, whatever other Ray runs on this machine.
os.environ.setdefault("RAY_ADDRESS", "local")


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
