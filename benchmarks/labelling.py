"""Many annotators at once against a real `rlback console`: how long the next comparison takes, and that no label is lost.

    python -m benchmarks.labelling [--annotators 200] [--seconds 60] [--pause 6] [--comparisons 18000] [--database URL]

Starts the console of a made-up project on loopback and lets every annotator ask for a comparison, look at it for an
exponentially distributed pause, and submit. Each acknowledged submission is then looked for in the database: it must be
there exactly once, and nothing may be there that nobody sent. Exit status 1 where the bar is missed.

Without `--database` the project has a SQLite file. An empty PostgreSQL database is named as in docs/database.md; what is
made in it stays there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from rlback.ledger.address import VARIABLE

BAR_MS = 200.0


@dataclass
class Seen:
    """What the annotators saw: seconds of each answer by what was asked, keys sent and acknowledged, refusals."""

    times: dict[str, list[float]] = field(default_factory=lambda: {"next": [], "submit": []})
    sent: set[str] = field(default_factory=set)
    acknowledged: dict[str, tuple[str, str]] = field(default_factory=dict)  # key -> (comparison, annotator)
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Outcome:
    """Figures of one run; milliseconds."""

    annotators: int
    seconds: float
    labels: int
    next_p50: float
    next_p95: float
    submit_p95: float
    lost: int
    doubled: int
    unknown: int
    refused: dict[str, int]
    server_cpu_s: float  # what the console used in all, its start included

    @property
    def whole(self) -> bool:
        """Whether every acknowledged submission is there exactly once, and nothing else is."""
        return not (self.lost or self.doubled or self.unknown)


class Connection:
    """One connection of HTTP/1.1 that stays open; as small as it can be, so that the client costs little."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n"
        self.streams: Any = None

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Sends JSON and reads JSON; a connection that the server closed while it was idle is opened anew."""
        for attempt in (0, 1):
            try:
                if self.streams is None:
                    self.streams = await asyncio.open_connection("127.0.0.1", self.port)
                return await self._post(path, body)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.streams = None
                if attempt:
                    raise
        raise AssertionError

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        reader, writer = self.streams
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\n{self.head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
        answer = json.loads(await reader.readexactly(length))
        return int(lines[0].split(" ")[1]), answer


async def annotate(name: str, connection: Connection, batch: str, until: float, pause: float, seen: Seen) -> None:
    """One annotator until the time is over."""
    draw = random.Random(name)
    await asyncio.sleep(draw.random() * pause)
    number = 0
    while time.monotonic() < until:
        began = time.monotonic()
        status, body = await connection.post(f"/label/{batch}/next", {})
        seen.times["next"].append(time.monotonic() - began)
        if status != 200 or body["item"] is None:
            seen.refused[f"next {status}"] += 1
            await asyncio.sleep(1)
            continue
        await asyncio.sleep(draw.expovariate(1 / pause) if pause else 0)
        number += 1
        key, comparison = f"{name}-{number:06d}", body["item"]["comparison"]
        seen.sent.add(key)
        fields = {"comparison": comparison, "choice": draw.choice(("left1", "right1", "equal")), "key": key, "seconds": pause}
        began = time.monotonic()
        status, body = await connection.post(f"/label/{batch}/submit", fields)
        seen.times["submit"].append(time.monotonic() - began)
        if status == 200:
            seen.acknowledged[key] = (comparison, name)
        else:
            seen.refused[f"submit {status}"] += 1


def make_project_for(root: Path, annotators: int, comparisons: int) -> tuple[Any, str, dict[str, str]]:
    """A project with a batch that is open, and a token for each annotator."""
    from rlback.accounts import users
    from rlback.accounts.sessions import make_token
    from rlback.project import make_project
    from rlback.records import Actor
    from tests.labelling.made import made_batch, made_campaign

    project = make_project(root)
    made_campaign(project)
    batch = made_batch(project, comparisons)
    root_actor = Actor("root", "human")
    users.add_user(project.store, "root", "correct horse battery", ["admin"], root_actor)
    real, hashed = users.hash_password, users.hash_password("correct horse battery")
    users.hash_password = lambda password: hashed  # one hash for all: a password is not what is measured
    try:
        tokens = {}
        for number in range(annotators):
            user = users.add_user(project.store, f"ann{number:03d}", "correct horse battery", ["annotator"], root_actor)
            tokens[user.name] = make_token(project.store, user, "load", ["label"], 1)[0]
    finally:
        users.hash_password = real
    return project, batch, tokens


def serve(root: Path, port: int) -> subprocess.Popen[str]:
    """`rlback console` as a process of its own, answering."""
    command = [sys.executable, "-m", "rlback", "--project", str(root), "console", "--port", str(port), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    raise RuntimeError("the console did not answer within a minute")


def run(root: Path, annotators: int, seconds: float, pause: float, comparisons: int) -> Outcome:
    """Makes the project, serves it, lets everybody label, and counts."""
    from rlback.ledger.console_tables import label_details
    from rlback.ledger.tables import labels

    project, batch, tokens = make_project_for(root, annotators, comparisons)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process, seen = serve(root, port), Seen()

    async def everybody() -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(
            *(annotate(name, Connection(port, token), batch, until, pause, seen) for name, token in tokens.items())
        )

    try:
        asyncio.run(everybody())
    finally:
        process.terminate()
        process.wait(60)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    stored = project.store.rows(
        select(label_details.c.key, labels.c.comparison, labels.c.annotator).join(labels, label_details.c.label == labels.c.id)
    )
    times = Counter(row.key for row in stored)
    held = {row.key: (row.comparison, row.annotator) for row in stored}
    waits = sorted(seen.times["next"])
    return Outcome(
        annotators, seconds, len(stored), 1000 * statistics.median(waits), 1000 * _quantile(waits, 0.95),
        1000 * _quantile(sorted(seen.times["submit"]), 0.95),
        lost=sum(held.get(key) != said for key, said in seen.acknowledged.items()),
        doubled=sum(n > 1 for n in times.values()), unknown=len(held.keys() - seen.sent), refused=dict(seen.refused),
        server_cpu_s=used.ru_utime + used.ru_stime,
    )  # fmt: skip


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def main() -> int:
    """Runs it and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=6.0, help="mean seconds between being shown a comparison and submitting")
    parser.add_argument("--comparisons", type=int, default=18_000)
    parser.add_argument("--database", metavar="URL", help="an empty PostgreSQL database (default: a SQLite file)")
    options = parser.parse_args()
    if options.database:
        os.environ[VARIABLE] = options.database  # for the console too
    with tempfile.TemporaryDirectory() as directory:
        found = run(Path(directory) / "p", options.annotators, options.seconds, options.pause, options.comparisons)
    kind = "postgresql" if options.database else "sqlite"
    print(json.dumps({**vars(found), "database": kind, "load": os.getloadavg()[0], "cores": os.cpu_count()}, indent=2))
    met = found.whole and found.next_p95 < BAR_MS and not found.refused
    print(f"next comparison: p50 {found.next_p50:.0f} ms, p95 {found.next_p95:.0f} ms (bar {BAR_MS:.0f}); "
          f"{found.labels} labels, {found.lost} lost, {found.doubled} doubled: {'met' if met else 'MISSED'}")  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
