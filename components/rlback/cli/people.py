"""`rlback label` and `rlback gate`: what people do."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from rlback.cli.output import actor_of, next_command, say

if TYPE_CHECKING:
    from rlback.project import Project
    from rlback.registry.gates import Gate


def label(options: argparse.Namespace) -> int:
    """Shows comparisons blind and takes one key each."""
    from rlback.campaign import machine
    from rlback.labelling.terminal import label_batch
    from rlback.project import find_project

    project = find_project()
    names = [options.campaign] if options.campaign else machine.active_campaigns(project)
    waiting = [w for name in names if isinstance(w := machine.what_next(project, name), machine.Waiting)]
    batches = [w.subject for w in waiting if w.what == "labels"]
    if not batches:
        say("No campaign waits for labels." if not options.campaign else f"{options.campaign} waits for no labels.")
        next_command("rlback status")
        return 0
    done, left = label_batch(project.store, batches[0], actor_of(options))
    say(f"{done} label{'s' * (done != 1)} given, {left} left in {batches[0]}.")
    if left == 0:
        _carry_on(project, "")
    else:
        next_command("rlback label")
    return 0


def gate_show(options: argparse.Namespace) -> int:
    """Prints the evidence at a gate."""
    from rlback.campaign.evidence import evidence_rows, evidence_title, sample_sides
    from rlback.campaign.gate_samples import why_shown
    from rlback.labelling.display import in_line, visible
    from rlback.project import find_project
    from rlback.registry.gates import find_gate, only_open_gate
    from rlback.registry.quorum import standing

    store = find_project().store
    gate = find_gate(store, options.id) if options.id else only_open_gate(store)
    approvals = standing(store, gate.id, gate.campaign, gate.round, gate.digest)
    if options.json:
        body = {"gate": gate.id, "state": gate.state, "digest": gate.digest, "evidence": gate.evidence}
        print(json.dumps({**body, "decision": gate.decision, "quorum": approvals}, indent=2))
        return 0
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(f"[bold]Gate {gate.id}[/bold]  ({gate.state}, opened {gate.opened[:16].replace('T', ' ')} UTC)")
    console.print(Text(evidence_title(gate)))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for row in evidence_rows(gate):
        table.add_row(*(Text(cell) for cell in row))
    console.print(Padding(table, (1, 0)))
    for number, sample in enumerate(gate.evidence["samples"], 1):
        console.print(Text(f"Sample {number}: {visible(sample['prompt']).strip()}", style="bold"))
        if why := why_shown(sample):
            console.print(Padding(Text(f"({why})"), (0, 0, 0, 2)))
        for name, shown in sample_sides(sample):
            console.print(Padding(Text(f"{name:>9}: {shown.strip()}"), (0, 0, 0, 2)))
    console.print(f"\n{gate.evidence['labels']['count']} labels; evidence digest {gate.digest}", soft_wrap=True)
    if gate.decision:
        decision = gate.decision
        console.print(Text(f"Decided: {decision['verdict']} by {decision['approver']} at {decision['time']}"))
        if decision["reason"]:
            console.print(Text(f"Reason: {in_line(decision['reason'])}"))
    elif gate.state == "open":
        for vote in approvals["votes"] if approvals else ():
            worth = "" if vote["counts"] else " (does not count any more)"
            console.print(Text(f"{vote['approver']} approved, {vote['time']}{worth}"))
        if approvals:
            console.print(Text(f"Still needed: {', '.join(approvals['missing']) or 'nothing'}"))
        for verb, reason in (("approve", ""), ("decline", ' --reason "…"'), ("more-labels", ' --reason "…"')):
            next_command(f"rlback gate {verb} {gate.id} --digest {gate.digest[:12]}{reason}")
    return 0


def gate_decide(options: argparse.Namespace) -> int:
    """Records a decision."""
    from rlback.campaign.deciding import decide_as_person
    from rlback.project import find_project

    project, actor = find_project(), actor_of(options)
    gate = decide_as_person(project, options.id, options.verdict, actor, digest=options.digest, reason=options.reason)
    if options.json:
        from rlback.ledger.outbox import PREFECT
        from rlback.orchestration.delivering import deliver_due

        deliver_due(project, only=PREFECT)
        print(json.dumps({"gate": gate.id, "state": gate.state, "decision": gate.decision}))
        return 0
    say(f"{actor.name} recorded: {options.verdict} at gate {gate.id} on evidence {gate.digest[:12]}.")
    if gate.state == "open":
        return _votes(project, gate)
    _carry_on(project, gate.campaign)
    sys.stdout.flush()
    return 0


def _votes(project: Project, gate: Gate) -> int:
    """Says what is still needed at a gate that takes several approvals."""
    from rlback.registry.quorum import standing

    found = standing(project.store, gate.id, gate.campaign, gate.round, gate.digest)
    say(f"Not decided yet: {', '.join(found['missing'])}." if found else "Not decided yet.")
    return 0


def gate_break_glass(options: argparse.Namespace) -> int:
    """Approves alone."""
    from rlback.campaign.deciding import decide_as_person
    from rlback.project import find_project

    project, actor = find_project(), actor_of(options)
    gate = decide_as_person(
        project, options.id, "approve", actor, digest=options.digest, reason=options.reason,
        break_glass_confirmed=options.confirm,
    )  # fmt: skip
    if options.json:
        print(json.dumps({"gate": gate.id, "state": gate.state, "break_glass": True}))
        return 0
    say(f"{actor.name} broke the glass at gate {gate.id}: approved alone, on record where everybody sees it.")
    _carry_on(project, gate.campaign)
    return 0


def _carry_on(project: Project, campaign: str) -> None:
    """Starts the flow run that this makes possible where `rlback up` runs; else says the command that does it."""
    from rlback.ledger.outbox import PREFECT
    from rlback.orchestration.delivering import deliver_due

    if any(done["state"] == "delivered" for done in deliver_due(project, only=PREFECT)):
        say("A flow run that carries it on is started.")
    else:
        next_command(f"rlback advance {campaign}".strip())
