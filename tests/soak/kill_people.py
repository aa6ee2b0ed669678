"""kill -9 while people's commands run: label, gate, deploy, rollback. Then the same command again: nothing lost or doubled."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.soak.killing import Rlback, Tally, await_moment, judge, kill, rows_of, traceback_in

#: People label and decide; three rounds, so that one candidate is declined and two are approved.
CHANGES = (
    "labels.annotators=human",
    "gate.approver=human",
    "rounds=3",
    "labels.initial=16",
    "labels.inside=0",
    "labels.cross=10",
)
MOMENTS = ("ledger", "heads", "uniform", "mlflow-database")
#: How long a command of a person takes, about; kills at "uniform" are drawn from it.
SECONDS = 2.5


def campaign(root: Path, run: list[str], kills: int, tally: Tally, rng: random.Random) -> None:
    """Carries a campaign with people through to its end, its people's commands killed; then deploys and goes back."""
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    rlback = Rlback(root)
    rlback.init()
    _see(rlback.run(*run, "--engine", "inline", "--as", "starter"), "run", tally)
    share, decided = max(1, kills // 4), 0
    for _ in range(12):
        waits = json.loads(rlback.run("status", "--json").stdout)["campaigns"]
        if not waits:
            break
        if waits[0].get("waits_for") == "labels":
            _label(rlback, waits[0]["subject"], share if not decided else 1, tally, rng)
        elif waits[0].get("waits_for") == "approval":
            decided += 1
            _decide(
                rlback, waits[0]["subject"], "decline" if decided == 1 else "approve", share if decided == 1 else 1, tally, rng
            )
        went_on = rlback.run("advance", "--engine", "inline")
        _see(went_on, "advance", tally)
        judge(tally, rlback.verify(), "after advance (people)", just_killed=False)
        if went_on.returncode:
            break
    approved = [v["checkpoint"] for v in json.loads(rlback.run("registry", "list", "--json").stdout) if v["status"] == "approved"]
    if len(approved) < 2:
        tally.note(f"people: two candidates should be approved, {approved} are")
        return
    newest, older = approved[-1], approved[-2]
    for number in range(share):
        _repeat(rlback, ["deploy", newest, "--reason", f"deploy {number}", "--as", "opal"], "checkpoint.deployed", tally, rng)
        _aliases(rlback, {"deployed": newest}, tally)
        _repeat(rlback, ["rollback", older, "--reason", f"back {number}", "--as", "opal"], "rolled-back", tally, rng)
        _aliases(rlback, {"deployed": older, "approved": older}, tally)
    print(f"people: done, {len(tally.wrong)} things wrong so far", flush=True)


def _see(done: subprocess.CompletedProcess[str], what: str, tally: Tally, *, allowed: tuple[int, ...] = (0,)) -> None:
    if done.returncode not in allowed:
        tally.note(f"people: {what} ended with status {done.returncode}: {done.stderr[-300:]}")
    if traceback_in(done.stderr):
        tally.note(f"people: {what} printed a traceback: {done.stderr[-600:]}")


def _label(rlback: Rlback, batch: str, kills: int, tally: Tally, rng: random.Random) -> None:
    """Labels a batch by keys from a pipe, one after the other; killed after some of them, then given the rest."""
    log = rlback.root.with_suffix(".log")
    for number in range(kills):
        before = _given(rlback, batch)
        with log.open("wb") as output:
            process = rlback.start("label", "--as", "anna", stdin=subprocess.PIPE, stdout=output, stderr=output)
            assert process.stdin is not None
            _type(process, rng, log)
            struck = kill(process)
        said = log.read_text(errors="replace").count("saved ")
        after = _given(rlback, batch)
        if struck:
            tally.kills["people label"] += 1
        else:
            tally.late += 1
        # What was said to be saved is; one more may be, whose line was not printed yet.
        if not set(before) <= set(after) or not said <= len(after) - len(before) <= said + 1:
            tally.note(f"people: {said} labels were said to be saved, {len(after) - len(before)} are, in kill {number}")
        judge(tally, rlback.verify(), f"after a kill of label ({batch})")
    _see(rlback.run("label", "--as", "anna", keys="1 2 " * 40), "label", tally)
    given = _given(rlback, batch)
    wanted = rows_of(rlback.root, f"SELECT size FROM batches WHERE id = '{batch}'")[0][0]
    if len(given) != wanted or len({comparison for comparison, *_ in given}) != wanted:
        tally.note(f"people: {len(given)} labels of {wanted} comparisons in {batch}")


def _type(process: subprocess.Popen[Any], rng: random.Random, log: Path) -> None:
    """Types keys while it lives, a few milliseconds apart, for as long as chance has it."""
    assert process.stdin is not None
    until = time.monotonic() + 30
    while process.poll() is None and "Which completion" not in log.read_text(errors="replace") and time.monotonic() < until:
        time.sleep(0.01)
    # Little is typed: the rest of the batch is for the next kill.
    for _ in range(rng.choice((1, 1, 2))):
        try:
            process.stdin.write(rng.choice((b"1\n", b"2\n")))
            process.stdin.flush()
        except BrokenPipeError:
            return
        time.sleep(rng.uniform(0.0, 0.05))


def _given(rlback: Rlback, batch: str) -> list[tuple[Any, ...]]:
    return rows_of(
        rlback.root,
        "SELECT comparison, annotator, revision FROM labels JOIN comparisons ON comparisons.id = comparison "
        f"WHERE batch = '{batch}' ORDER BY labels.id",
    )


def _decide(rlback: Rlback, gate: str, verdict: str, kills: int, tally: Tally, rng: random.Random) -> None:
    """Decides at a gate; killed and given again until a decision stands, and then once more."""
    digest = json.loads(rlback.run("gate", "show", gate, "--json").stdout)["digest"]
    command = ["gate", verdict, gate, "--digest", digest, "--reason", "said so", "--as", "paula"]
    for _ in range(kills):
        _killed(rlback, command, tally, rng)
    _see(rlback.run(*command), f"gate {verdict}", tally, allowed=(0, 6))
    _see(rlback.run(*command), f"gate {verdict} once more", tally, allowed=(0, 6))
    decided = rows_of(rlback.root, f"SELECT verdict, approver, reason FROM decisions WHERE gate = '{gate}'")
    if decided != [(verdict, "paula", "said so")]:
        tally.note(f"people: the decisions at {gate} are {decided}")
    events = [
        1 for (payload,) in rows_of(rlback.root, "SELECT payload FROM events WHERE kind = 'gate.decided'") if gate in payload
    ]
    if len(events) != 1:
        tally.note(f"people: {len(events)} decisions at {gate} are in the ledger")


def _repeat(rlback: Rlback, command: list[str], kind: str, tally: Tally, rng: random.Random) -> None:
    """Gives a command, kills it, gives it again; counts what the ledger then has of it."""

    def recorded() -> int:
        return int(rows_of(rlback.root, f"SELECT count(*) FROM events WHERE kind = '{kind}'")[0][0])

    before = recorded()
    _killed(rlback, command, tally, rng)
    once = recorded()
    _see(rlback.run(*command), " ".join(command[:2]), tally)
    again = recorded()
    if again - before not in (1, 2) or once - before > 1:
        tally.note(f"people: {command[0]} is recorded {again - before} times")
    tally.doubled[command[0]] += again - before == 2
    judge(tally, rlback.verify(), f"after {command[0]} was given again", just_killed=False)


def _killed(rlback: Rlback, command: list[str], tally: Tally, rng: random.Random) -> None:
    log, moment = rlback.root.with_suffix(".log"), rng.choice(MOMENTS)
    with log.open("wb") as output:
        process = rlback.start(*command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        await_moment(process, rlback.root, moment, SECONDS, rng)
        struck = kill(process)
    if struck:
        tally.kills[f"people {' '.join(part for part in command[:2] if re.fullmatch('[a-z-]+', part))} {moment}"] += 1
        judge(tally, rlback.verify(), f"after a kill of {command[0]} at {moment}")
    else:
        tally.late += 1


def _aliases(rlback: Rlback, wanted: dict[str, str], tally: Tally) -> None:
    held = {a: v["checkpoint"] for v in json.loads(rlback.run("registry", "list", "--json").stdout) for a in v["aliases"]}
    for alias, checkpoint in wanted.items():
        if held.get(alias) != checkpoint:
            tally.note(f"people: {alias} is at {held.get(alias)}, not at {checkpoint}")
