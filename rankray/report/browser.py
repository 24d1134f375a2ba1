"""A headless Chromium behind a pipe (the DevTools protocol), for pictures of a report.

Nothing has to be installed beside the browser: no driver, no websocket, no port that others could reach.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rankray.errors import UserError
from rankray.paths import temporary_directory

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
FLAGS = ("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars", "--disable-extensions",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--enable-unsafe-swiftshader")  # fmt: skip


def find_browser() -> str | None:
    """Return the path of a Chromium on PATH, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class PageError(RuntimeError):
    """The page threw, or it went away while it was asked; the browser itself still answers."""


class Browser:
    """One page of a headless Chromium; close it, or use it as a context.

    Attributes:
        events: what the browser has reported so far, each `{"method": ..., "params": ...}`.

    Args:
        timeout_seconds: how long an answer may take.

    Raises:
        UserError: there is no Chromium on PATH.
    """

    def __init__(self, timeout_seconds: float = 120.0) -> None:
        path = find_browser()
        if path is None:
            raise UserError(
                f"report: a picture needs Chromium or Chrome, and none is on PATH; allowed: {', '.join(NAMES)}; "
                "install one, or choose another --format"
            )
        self.events: list[dict[str, Any]] = []
        self._timeout, self._last, self._rest = timeout_seconds, 0, b""
        self._places = ExitStack()
        profile = self._places.enter_context(temporary_directory("rankray-chromium-"))
        self._pid, self._write, self._read = _start(path, str(profile))
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = ""
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result.

        Raises:
            PageError: the browser answered with an error.
            RuntimeError: it ended, or did not answer in time.
        """
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if getattr(self, "_session", ""):
            message["sessionId"] = self._session
        _write_all(self._write, json.dumps(message).encode() + b"\0")
        limit = time.monotonic() + self._timeout
        while True:
            answer = self._next(limit)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            if "method" in answer:
                self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited.

        Raises:
            PageError: it threw.
        """
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise PageError(f"{expression[:80]}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, file: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a report from disk in a window of a size in CSS pixels, and wait until its charts are drawn."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=file.absolute().as_uri())
        self.wait_for("document.documentElement?.dataset.drawn === 'yes'")

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript condition is true; one that throws is not true yet.

        A page that is being loaded has no `document.body`, and what was asked of the page before it is lost.

        Raises:
            RuntimeError: it did not become true in time.
        """
        limit = time.monotonic() + self._timeout
        while True:
            thrown: PageError | None = None
            try:
                if self.evaluate(condition) is True:
                    return
            except PageError as error:
                thrown = error
            if time.monotonic() > limit:
                raise RuntimeError(f"not true within {self._timeout:.0f} s: {condition}") from thrown
            time.sleep(0.05)

    def picture(self, *, whole: bool = True) -> bytes:
        """Return the page, or what of it is in the window, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def close(self) -> None:
        """End the browser and remove its profile."""
        if self._pid:
            os.close(self._write)
            os.close(self._read)
            os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            self._places.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _next(self, limit: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, limit - time.monotonic()))
            more = os.read(self._read, 1 << 20) if ready else b""
            if not more:
                raise RuntimeError("the browser ended" if ready else f"no answer within {self._timeout:.0f} s")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))


def _start(path: str, profile: str) -> tuple[int, int, int]:
    """Start a browser in a session of its own; return its process id and our ends of its two pipes (it has 3 and 4)."""
    its_read, our_write = map(_high, os.pipe())
    our_read, its_write = map(_high, os.pipe())
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
    command = [path, *FLAGS, *root, f"--user-data-dir={profile}", "about:blank"]
    actions: list[Any] = [(os.POSIX_SPAWN_DUP2, its_read, 3), (os.POSIX_SPAWN_DUP2, its_write, 4)]
    actions += [(os.POSIX_SPAWN_OPEN, output, os.devnull, os.O_WRONLY, 0) for output in (1, 2)]
    pid = os.posix_spawn(path, command, os.environ, file_actions=actions, setsid=True)
    os.close(its_read)
    os.close(its_write)
    return pid, our_write, our_read


def _high(descriptor: int) -> int:
    """Return a copy of a file descriptor above the first ten, which the child uses, and close the original."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return copy


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
