"""`rlback demo`: a rollback campaign and vanilla RLHF side by side on the controlled world."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlback.cli.output import next_command, say
from rlback.disks import write_whole
from rlback.errors import StageError

if TYPE_CHECKING:
    from rlback.project import Project

POLL_S = 0.2
METHODS = {"rollback": "Rollback RLHF", "vanilla": "Vanilla RLHF"}


def demo(options: argparse.Namespace) -> int:
    """Runs both campaigns, shows what came of them, and writes the summary and the report."""
    from rlback.campaign import machine
    from rlback.campaign.context import load_recorded
    from rlback.cli.watching import watched
    from rlback.config import read_config
    from rlback.project import find_project
    from rlback.records import Actor

    began = time.monotonic()
    project = find_project()
    configs = _configs(project)
    overrides = {} if options.seed is None else {"seed": options.seed}
    actor = Actor("demo", "system")
    started = {
        method: machine.start(project, read_config(configs[method], overrides), actor) for method in METHODS
    }
    seed = machine.config_of(machine.load_campaign(project, started["rollback"])).seed
    if not options.json:
        say(f"Rollback RLHF beside vanilla RLHF on the world of visit reviews, seed {seed}.")
        say(f"Two campaigns at once: {started['rollback']} rolls back, {started['vanilla']} is vanilla RLHF.")
    with _prefect(project, options.engine) as until_it_answers, watched(project, list(started.values()), quiet=options.json):
        processes = {"rollback": _spawn(project, started["rollback"], options.engine)}
        try:
            until_it_answers()  # the campaign's process loads what it needs meanwhile
            # Both start from the same base policy: the second campaign waits until the first has trained it.
            while processes["rollback"].poll() is None and (0, "base", 1) not in load_recorded(
                project, started["rollback"]
            ):
                time.sleep(POLL_S)
            processes["vanilla"] = _spawn(project, started["vanilla"], options.engine)
            _wait(processes, started)
        finally:
            for process in processes.values():
                _end(process)
    summary = _conclude(project, started, seed, time.monotonic() - began, options)
    if options.json:
        print(json.dumps(summary))
    return 0


def _configs(project: Project) -> dict[str, Path]:
    """The two configurations: the project's own where it has them, otherwise the checkout's."""
    found = {}
    for method, name in (("rollback", "demo.yaml"), ("vanilla", "demo-vanilla.yaml")):
        own = project.root / "configs" / name
        found[method] = own if own.exists() else Path(__file__).resolve().parents[3] / "configs" / name
    return found


@contextlib.contextmanager
def _prefect(project: Project, engine: str) -> Iterator[Callable[[], None]]:
    """One Prefect server for both campaigns, which find it through PREFECT_API_URL; yields what waits until it answers."""
    if engine == "inline":
        yield lambda: None
        return
    from rlback.orchestration.engine import server

    with server(project) as until_it_answers:
        yield until_it_answers


def _spawn(project: Project, campaign: str, engine: str) -> subprocess.Popen[str]:
    from rlback.orchestration.engine import ending_with

    command = [sys.executable, "-m", "rlback", "--project", str(project.root), "advance", campaign, "--engine", engine]
    return subprocess.Popen(
        [*command, "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=ending_with(os.getpid()),
    )  # fmt: skip


def _wait(processes: dict[str, subprocess.Popen[str]], started: dict[str, str]) -> None:
    for method, process in processes.items():
        _, errors = process.communicate()
        if process.returncode:
            last = errors.strip().splitlines()[-1:] or [f"it ended with status {process.returncode}"]
            with contextlib.suppress(ValueError, KeyError, TypeError):
                last = [json.loads(last[0])["error"]["message"]]
            name = started[method]
            raise StageError(f"{name}: {last[0]}", remedy=f"rlback advance {name} carries on where it stopped")


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _conclude(
    project: Project, started: dict[str, str], seed: int, seconds: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Verifies, writes summary.json and the report, and prints what a person wants to know."""
    from rlback.campaign.reports import write_campaign_report
    from rlback.campaign.summary import demo_summary
    from rlback.registry.mlflow_store import MlflowStore
    from rlback.registry.verification import verify

    began = time.monotonic()
    directory = project.reports / "demo"
    checked = verify(project, MlflowStore(project.root))
    command = "rlback demo" + (f" --seed {seed}" if options.seed is not None else "")
    methods = {key: (METHODS[key], campaign) for key, campaign in started.items()}
    report = write_campaign_report(
        project, methods, directory, title="Rollback RLHF beside vanilla RLHF", command=command, seconds=seconds,
        verified=checked.holds,
    )
    summary = demo_summary(
        project, started, seed=seed, seconds=seconds + time.monotonic() - began, report=project.relative(report),
        events=checked.events, verified=checked.holds,
    )  # fmt: skip
    write_whole(directory / "summary.json", json.dumps(summary, indent=2) + "\n", writer=os.getpid())
    if not options.json:
        _print(project, summary, report)
    if not checked.holds:
        finding = checked.findings[0]
        raise StageError(f"the ledger does not verify: {finding.where}: {finding.what}", remedy="rlback verify")
    return summary


def _print(project: Project, summary: dict[str, Any], report: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("method")
    for column in ("labels", "gold reward", "proxy reward", "KL (nats)", "misreward kept"):
        table.add_column(column, justify="right")
    for method, label in METHODS.items():
        m = summary["methods"][method]
        table.add_row(label, f"{m['labels']}", f"{m['gold']:.2f}", f"{m['proxy']:.2f}", f"{m['kl']:.1f}",
                      f"{m['misreward_kept']:.0%}")  # fmt: skip
    base = summary["base"]["gold"]
    table.add_row("(base policy)", "", f"{base:.2f}", "0.00", "0.0", "")
    console.print(table)
    console.print(f"\n{headline(summary)}\n", soft_wrap=True)
    for entry in summary["methods"]["rollback"]["rounds"]:
        mark = "approved" if entry["decision"] == "approved" else "declined, rolled back"
        rate = entry["win_rate"]
        figure = f"win rate {rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]" if rate else ""
        console.print(f"  round {entry['round']}: {entry['start']} -> {entry['candidate']}  {mark:<21} {figure}", soft_wrap=True)
    approved = summary["approved"]
    if approved:
        from rlback.cli.checkpoints import audit_lines
        from rlback.registry.lineage import audit
        from rlback.registry.operations import resolve

        console.print("\nAudit trail")
        for line in audit_lines(audit(project, resolve(project.store, approved))):
            console.print(line, soft_wrap=True, markup=False)
    console.print(f"\nReport   {report}", soft_wrap=True)
    console.print(f"Figures  {project.reports / 'demo' / 'summary.json'}", soft_wrap=True)
    console.print(f"Took {summary['seconds']:.0f} s.")
    next_command(f"rlback audit {approved}" if approved else "rlback registry list")


def headline(summary: dict[str, Any]) -> str:
    """Who ended where, in one sentence, whoever won."""
    ours, theirs = summary["methods"]["rollback"], summary["methods"]["vanilla"]
    if abs(ours["gold"] - theirs["gold"]) < 0.05:
        verdict = "Both end at the same gold reward"
    elif ours["gold"] > theirs["gold"]:
        verdict = "Rollback ends ahead"
    else:
        verdict = "Vanilla ends ahead"
    peak = f"; vanilla peaked at {theirs['gold_peak']:.2f} on the way" if theirs.get("gold_peak") is not None else ""
    were = "was" if summary["rollbacks"] == 1 else "were"
    return (
        f"{verdict}: gold {ours['gold']:.2f} against {theirs['gold']:.2f} with {ours['labels']} labels each{peak}. "
        f"{summary['rollbacks']} of {len(ours['rounds'])} candidates {were} declined and rolled back."
    )
