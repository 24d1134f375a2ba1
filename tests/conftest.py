import atexit
import os
import secrets
import tempfile
from pathlib import Path

import pytest

pytest_plugins = ["fixtures.training", "fixtures.searches"]

# Searches start a Ray of their own, whatever other Ray runs on this machine.
os.environ.setdefault("RAY_ADDRESS", "local")

# Every Ray of the tests has one token, and not the user's. Left to itself Ray starts a cluster without one, unless this
# process started a local Ray before or a token lies in the home directory: what passes would hang on what ran first.
_handle, _token = tempfile.mkstemp(prefix="rankray-test-token-")
os.write(_handle, secrets.token_hex(32).encode())
os.close(_handle)
atexit.register(Path(_token).unlink)
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN_PATH"] = _token
os.environ.pop("RAY_AUTH_TOKEN", None)


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
