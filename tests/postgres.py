"""A PostgreSQL server for the tests: made, used and thrown away, on a socket of its own and loopback."""

from __future__ import annotations

import ctypes
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROLE = "rlback"
_numbers = itertools.count(1)
#: What a test needs no disk for.
FAST = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "autovacuum=off", "max_connections=200")


def binaries() -> Path | None:
    """Where the server's programs lie, or None: on the path, or where Debian puts them."""
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def why_not() -> str | None:
    """Why no server can be had here, or None."""
    if binaries() is None:
        return "no PostgreSQL here (initdb and postgres)"
    if os.getuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "no driver for PostgreSQL (psycopg)"
    return None


@dataclass(frozen=True)
class Server:
    """A running server; its role `rlback` may do everything."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    def url(self, database: str, role: str = ROLE) -> str:
        """The address of one of its databases."""
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str, database: str = "postgres", role: str = ROLE) -> list[tuple]:
        """Runs statements as another program would, in autocommit; returns the rows of the first."""
        import psycopg

        with psycopg.connect(self.url(database, role), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def schema(self) -> str:
        """Makes an empty schema in a database that tests share, in a tenth of the time that a database takes."""
        name = f"s{next(_numbers)}"
        self.run(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def make(self) -> str:
        """Makes an empty database; returns its address."""
        database = f"p{next(_numbers)}"
        self.run(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING UTF8")
        return self.url(database)


@contextmanager
def server(*settings: str) -> Iterator[Server]:
    """A server with an empty cluster; `settings` are name=value, FAST ones where none are given."""
    where = binaries()
    assert where is not None
    # Not below pytest's own directories, which only their owner may enter: the server has another user.
    directory = Path(tempfile.mkdtemp(prefix="rlback-pg-"))
    user = _user() if os.getuid() == 0 else None
    process = None
    try:
        if user is not None:
            os.chown(directory, user.pw_uid, user.pw_gid)
        as_ = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user is not None else {}
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(directory)}
        data = directory / "data"
        with (directory / "log").open("wb") as log:
            made = [where / "initdb", "-D", data, "-U", ROLE, "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"]
            subprocess.run(made, check=True, stdout=log, stderr=log, env=environment, cwd=directory, **as_)
            port = _free_port()
            options = [f"-c{setting}" for setting in settings or FAST]
            process = subprocess.Popen(
                [where / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", directory, *options],
                stdout=log, stderr=log, env=environment, cwd=directory, preexec_fn=_ending_with(os.getpid()), **as_,
            )  # fmt: skip
            running = Server(port, directory, process)
            _wait(running)
            yield running
    finally:
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT)  # at once; nothing of it is kept
            process.wait(30)
        shutil.rmtree(directory, ignore_errors=True)


def _wait(running: Server) -> None:
    import psycopg

    for _ in range(600):
        if running.process.poll() is not None:
            break
        try:
            running.run("SELECT 1")
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start:\n{(running.directory / 'log').read_text()[-2000:]}")


def _user() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _ending_with(parent: int):
    """The server ends, at once and in order, where the process of the tests is killed."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def tie() -> None:
        libc.prctl(1, signal.SIGQUIT)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
