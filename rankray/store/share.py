"""A store shared over the network: Optuna's gRPC proxy in front of a database that others cannot reach.

Who connects with `grpc://host:port` needs no database driver and no password, and so the channel is neither encrypted
nor guarded: everybody who reaches the port can read and write every study. So it listens on loopback unless `host` says
otherwise. Other machines come through a tunnel: `ssh -N -L 13000:localhost:13000 HOST`, then `grpc://localhost:13000`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from rankray.errors import StoreError
from rankray.store.backend import connect
from rankray.store.optuna_private import add_proxy_service
from rankray.store.urls import masked, parse_url

PORT = 13000
LOOPBACK = "127.0.0.1"
THREADS = 16
"""Requests served at a time."""


@contextmanager
def serve(url: str, host: str = LOOPBACK, port: int = PORT) -> Iterator[str]:
    """Serve a store while the context lasts, and give the URL to connect with; port 0 takes a free one.

    What fails between the proxy and the database is retried, and reported to clients without the password.

    Raises:
        StoreError: the URL is wrong, cannot be served, or the port is taken; or grpcio is not installed.
        StoreUnavailable: the store does not answer.
    """
    scheme = parse_url(url).scheme
    if scheme in ("journal", "grpc"):
        raise StoreError(
            f"share: {masked(url)}: optuna's proxy cannot serve {scheme} stores; allowed: sqlite, postgresql, mysql; "
            "copy the studies to one of these first (rankray store copy)"
        )
    if importlib.util.find_spec("grpc") is None:
        raise StoreError("share: grpcio is not installed; pip install 'rankray[grpc]'")
    import grpc

    server = grpc.server(ThreadPoolExecutor(THREADS, "rankray-share"), options=[("grpc.so_reuseport", 0)])
    add_proxy_service(server, connect(url))
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        raise StoreError(f"share: {host}:{port} cannot be listened on; choose another --host or --port") from None
    server.start()
    try:
        yield f"grpc://{host}:{bound}"
    finally:
        server.stop(grace=1).wait()
