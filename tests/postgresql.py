"""A PostgreSQL server of a test's own, on loopback, which can be stopped in the middle of things."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "updp"


class Server:
    """Its files are in `folder`, and belong to whom it runs as: PostgreSQL refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.programs = _find_programs()
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        self._run("initdb", "--username", USER, "--auth", "trust", "--no-sync", "--pgdata", f"{folder}/data")

    @property
    def address(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._control("start", "--log", f"{self.folder}/log", "--options", options)

    def stop(self) -> None:
        """At once, as where its machine dies."""
        self._control("stop", "--mode", "immediate")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "--pgdata", f"{self.folder}/data", "--wait", "--silent", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        with tempfile.TemporaryFile("w+") as said:  # not a pipe, which the server would keep open
            done = subprocess.run(command, cwd=self.folder, stdout=said, stderr=said, check=False)
            said.seek(0)
            assert done.returncode == 0, said.read()


@contextmanager
def serve() -> Iterator[Server]:
    """A server that runs, in a folder that others may enter."""
    folder = Path(tempfile.mkdtemp(prefix="updp-postgresql-"))
    try:
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _find_programs() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.fail(
            "PostgreSQL is not installed: install it (Debian: the package postgresql); make test-deploy does, as root"
        )
    return folders[-1]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
