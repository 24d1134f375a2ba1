"""A report as a file, in each format that `rankray report` knows."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rankray.errors import UserError, nearest
from rankray.paths import temporary_directory
from rankray.report.browser import Browser
from rankray.report.markdown import markdown
from rankray.report.page import page

Row = Mapping[str, Any]
FORMATS = ("html", "md", "json", "csv", "png")
PICTURE_WIDTH = 1280


def format_of(given: str, output: Path | None) -> str:
    """Return the format to write: the one given, else the one the file's name ends with, else html.

    Raises:
        UserError: there is no such format.
    """
    wanted = given or (output.suffix.removeprefix(".").lower() if output is not None else "") or "html"
    wanted = {"htm": "html", "markdown": "md"}.get(wanted, wanted)
    if wanted not in FORMATS:
        where = "--format" if given else f"-o {output}"
        raise UserError(
            f"report: {where}: unknown format {wanted!r}{nearest(wanted, FORMATS)}; allowed: {', '.join(FORMATS)}; "
            "choose one with --format"
        )
    return wanted


def render(overview: Row, kind: str, refresh_seconds: int | None = None) -> bytes:
    """Return a report in one of `FORMATS`.

    Args:
        overview: the study, as `rankray.store.overview.overview` returns it.
        kind: one of `FORMATS`.
        refresh_seconds: how often an HTML page reloads itself; None never.

    Raises:
        UserError: a picture is asked for, and there is no browser.
    """
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    if kind == "json":
        return (json.dumps(overview, allow_nan=False) + "\n").encode()
    if kind == "csv":
        return _csv(overview)
    if kind == "md":
        return markdown(overview, written).encode()
    made = page(overview, written, refresh_seconds).encode()
    return _picture(made) if kind == "png" else made


def write(data: bytes, path: Path, option: str = "report: -o") -> None:
    """Write a file at once: whoever reads it sees the one before or the whole new one.

    What is no plain file, as `/dev/stdout` or a pipe, is written to; a link stays one, and its file is replaced.

    Args:
        data: its content.
        path: the file.
        option: what named it.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if path.is_relative_to("/dev") or (path.exists() and not path.is_file()):
            path.write_bytes(data)
            return
        _replace(path.resolve(), data)
    except OSError as error:
        raise UserError(
            f"{option} {path}: cannot be written ({error.strerror or error}); allowed: a file in a directory that you "
            f"may write; choose another with {option.rpartition(' ')[2]}"
        ) from None


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise


def _csv(overview: Row) -> bytes:
    """Return one row per trial: how it ended, then its settings and its last metrics."""
    kept = ("number", "state", "value", "step", "origin", "reason", "attempts", "started", "ended")
    rows = [
        {key: row[key] for key in kept}
        | {f"params.{path}": value for path, value in row["params"].items()}
        | {f"metrics.{name}": value for name, value in row["metrics"].items()}
        for row in overview["trials"]
    ]
    found = list(dict.fromkeys(key for row in rows for key in row)) or list(kept)
    columns = sorted(found, key=lambda key: (key.startswith("params."), 2 * key.startswith("metrics.")))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return out.getvalue().encode()


def _picture(html: bytes) -> bytes:
    with Browser() as browser, temporary_directory("rankray-picture-") as directory:
        file = directory / "report.html"
        file.write_bytes(html)
        browser.open(file, width=PICTURE_WIDTH)
        return browser.picture()
