"""kill -9 at random moments of a campaign, then `rlback advance`: the same digests as an undisturbed run.

    python -m tests.soak.kill_campaign --kills 40 --seed 1 --work /tmp/kills

makes two projects with `rlback init`. In one the campaign runs undisturbed; in the other its whole process group is killed
with SIGKILL again and again: at times drawn from the whole run, and at moments that are watched for (inside a DVC freeze, an
MLflow save, a ledger transaction, Prefect's start-up, the first second). `rlback verify` is asked after every kill, before
anything mends what was left. When a campaign comes to its end it is compared with the undisturbed one, and another one begins,
until all kills are done. Then the same for people's commands (`--people`; see `kill_people`).

Ends with status 0 if nothing was wrong, else 1. Takes minutes: about five seconds a kill, with Prefect twenty.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.soak import kill_people
from tests.soak.killing import (
    ANY_ENGINE,
    TOUCHED,
    Rlback,
    Tally,
    await_moment,
    campaign_state,
    differences,
    held,
    judge,
    kill,
    left_over,
    traceback_in,
)

#: Makes configs/demo.yaml a campaign of seconds.
SMALL = (
    "rounds=2", "base.shape.d_model=16", "base.shape.layers=1", "base.shape.heads=2", "base.shape.mlp=32",
    "base.training.steps=12", "base.training.batch=16", "base.training.warmup=2", "reward_model.training.epochs=1",
    "reward_model.training.batch=16", "reward_model.reference_samples=16", "optimise.steps=4", "optimise.prompts_per_step=4",
    "optimise.samples_per_prompt=2", "optimise.checkpoint_every=2", "optimise.max_new_tokens=24", "labels.initial=24",
    "labels.inside=4", "labels.cross=12", "evaluation.prompts=8",
)  # fmt: skip


def main() -> int:
    """Runs the variants that were asked for."""
    options = _options()
    work = Path(options.work or tempfile.mkdtemp(prefix="rlback-kills-")).resolve()
    tally, rng = Tally(), random.Random(options.seed)
    for engine in options.engine or ("inline", "prefect"):
        if options.kills:
            _campaigns(work / engine, engine, options, tally, rng)
    if options.people:
        kill_people.campaign(work / "people", _run(options, human=True), options.people, tally, rng)
    print(f"\n{sum(tally.kills.values())} kills: " + ", ".join(f"{n} {what}" for what, n in sorted(tally.kills.items())))
    print(f"{tally.late} commands had ended before their moment; after {tally.lagging} kills MLflow's aliases lagged.")
    for what, count in sorted(tally.doubled.items()):
        print(f"recorded once more by a command that was given again: {what}, {count} times")
    print(f"{len(tally.wrong)} things were wrong." if tally.wrong else "Nothing was wrong.")
    if not tally.wrong and not options.keep:
        for made in ("inline", "prefect", "people"):
            shutil.rmtree(work / made, ignore_errors=True)
    return 1 if tally.wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.kill_campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--config", default=str(root / "configs" / "demo.yaml"), help="of the campaign (configs/demo.yaml)")
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="instead of what makes configs/demo.yaml a campaign of seconds"
    )
    parser.add_argument("--kills", type=int, default=12, help="of campaigns, with each engine (12)")
    parser.add_argument("--people", type=int, default=12, metavar="KILLS", help="of people's commands (12)")
    parser.add_argument("--engine", action="append", choices=("inline", "prefect"), help="may be repeated (both)")
    parser.add_argument("--moment", action="append", choices=(*ANY_ENGINE[:2], *TOUCHED), help="may be repeated (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--work", metavar="DIR", help="where the projects are made (a new directory)")
    parser.add_argument("--keep", action="store_true", help="keep the projects even if nothing was wrong")
    return parser.parse_args()


def _run(options: argparse.Namespace, *, human: bool = False) -> list[str]:
    """The arguments of `rlback run`."""
    changes = list(options.set if options.set is not None else SMALL)
    changes += kill_people.CHANGES if human else ()
    return ["run", options.config, "--name", "killed", *(part for one in changes for part in ("--set", one))]


def _fresh(root: Path, engine: str) -> Rlback:
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    rlback = Rlback(root, engine)
    rlback.init()
    return rlback


def _campaigns(work: Path, engine: str, options: argparse.Namespace, tally: Tally, rng: random.Random) -> None:
    """Kills campaigns of one engine until all kills are done, and compares each that came to its end."""
    run = [*_run(options), "--engine", engine]
    undisturbed = _fresh(work / "undisturbed", engine)
    began = time.monotonic()
    done = undisturbed.run(*run)
    seconds = time.monotonic() - began
    if done.returncode:
        tally.note(f"{engine}: the undisturbed run ended with status {done.returncode}: {done.stderr[-600:]}")
        return
    judge(tally, undisturbed.verify(), f"after the undisturbed run ({engine})", just_killed=False)
    expected = held(undisturbed)
    print(f"{engine}: undisturbed in {seconds:.0f} s, {len(expected['events'])} events", flush=True)
    left, life = options.kills, 0
    while left > 0:
        life += 1
        killed = _fresh(work / f"killed-{life}", engine)
        did = _one_life(killed, run, left, seconds, options, tally, rng)
        left -= max(did, 1)
        before = len(tally.wrong)
        _compare(killed, expected, f"{engine} life {life}", tally)
        print(f"{engine}: life {life} ended after {did} kills, {len(tally.wrong) - before} differences", flush=True)
        if before == len(tally.wrong) and not options.keep:
            shutil.rmtree(killed.root)


def _one_life(
    rlback: Rlback, run: list[str], most: int, seconds: float, options: argparse.Namespace, tally: Tally, rng: random.Random
) -> int:
    """One campaign from its start to its end; returns how often it was killed."""
    moments = options.moment or [*ANY_ENGINE, *(m for m in TOUCHED if m.startswith("prefect") and rlback.engine == "prefect")]
    log, kills = rlback.root.with_suffix(".log"), 0
    while campaign_state(rlback.root) in (None, "active"):
        started = campaign_state(rlback.root) is not None
        command = ["advance", "--engine", rlback.engine] if started else run
        moment = rng.choice(moments) if kills < most else "never"
        twice = started and rng.random() < 0.25
        with log.open("ab") as output:
            both = [rlback.start(*command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) for _ in range(1 + twice)]
            if moment == "never":
                _see_through(both, rlback, tally)
                break
            await_moment(both[0], rlback.root, moment, seconds, rng)
            struck = sum(kill(one) for one in both)
        if not struck:
            tally.late += 1
            continue
        kills += 1
        tally.kills[f"{rlback.engine} {moment}" + (" of two at once" if twice else "")] += 1
        if campaign_state(rlback.root) is not None:
            judge(tally, rlback.verify(), f"after kill {kills} at {moment} ({rlback.engine})")
    if traceback_in(log.read_text(errors="replace")):
        tally.note(f"a traceback in {log}")
    return kills


def _see_through(both: list[subprocess.Popen[bytes]], rlback: Rlback, tally: Tally) -> None:
    """Waits for commands that are left to end; of two at once, one may be refused as the other holds the campaign."""
    ended = sorted(one.wait() for one in both)
    if ended[0] != 0 or any(status not in (0, 8) for status in ended):
        tally.note(f"`rlback advance` ended with status {ended} ({rlback.engine}); see {rlback.root.with_suffix('.log')}")


def _compare(rlback: Rlback, expected: dict[str, object], who: str, tally: Tally) -> None:
    if campaign_state(rlback.root) != "finished":
        tally.note(f"{who}: the campaign did not come to its end")
        return
    judge(tally, rlback.verify(), f"at the end of {who}", just_killed=False)
    for one in differences(held(rlback), expected):
        tally.note(f"{who}: {one}")
    for one in left_over(rlback.root):
        tally.note(f"{who}: left over: {one}")


if __name__ == "__main__":
    os.chdir(tempfile.gettempdir())  # a project is named, never found by where we happen to be
    sys.exit(main())
