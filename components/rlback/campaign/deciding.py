"""Deciding at a gate as a person does it, from the terminal or the console; and what a decline will do."""

from __future__ import annotations

from collections.abc import Callable

from rlback.campaign import machine
from rlback.errors import GateRefused
from rlback.ledger.store import Transaction
from rlback.project import Project
from rlback.records import Actor
from rlback.registry.gates import Gate, GateVerdict, decide, find_gate
from rlback.registry.operations import get_version, list_aliases


def decide_as_person(
    project: Project, id_: str, verdict: GateVerdict, actor: Actor, *, digest: str, reason: str,
    permit: Callable[[Transaction], None] | None = None, break_glass_confirmed: str | None = None,
) -> Gate:
    """Records a person's decision (or vote, see `registry.quorum`); `permit` may refuse it inside the transaction.

    Raises:
        GateRefused: people do not decide here, or as `registry.gates.decide` says.
    """
    gate = find_gate(project.store, id_)
    config = machine.config_of(machine.load_campaign(project, gate.campaign))
    if config.gate.approver != "human" and gate.state == "open":
        raise GateRefused(f"gate {gate.id} is decided by the campaign's {config.gate.approver} approver, not by people")
    return decide(
        project.store, gate.id, verdict, actor, digest=digest, reason=reason, permit=permit,
        break_glass_confirmed=break_glass_confirmed,
    )  # fmt: skip


def decline_plan(project: Project, gate: Gate) -> list[str]:
    """What a decline at this gate comes to, a line each, read off the campaign's configuration."""
    row = machine.load_campaign(project, gate.campaign)
    config, evidence = machine.config_of(row), gate.evidence
    candidate, start = evidence["candidate"], evidence["start"]
    held = list_aliases(project.store, row.policy)
    lines = [
        f"{candidate['address']} ({candidate['digest'][:12]}) becomes declined; its files stay",
        f"the alias candidate is taken off {candidate['address']}",
    ]
    if config.start == "candidate":
        lines.append(f"this campaign never goes back: the next round starts from {candidate['address']} all the same")
    else:
        kept = row.kept_version or int(start["address"].rpartition("@")[2])
        back = get_version(project.store, row.policy, kept)
        lines.append(f"the policy goes back to {back.address} ({back.digest[:12]}): the next round starts there")
    for alias in ("approved", "deployed"):
        where = f"{row.policy}@{held[alias]}" if alias in held else "nothing"
        lines.append(f"{alias} stays at {where}")
    if gate.round >= config.rounds:
        lines.append("this was the last round: the campaign ends")
    elif config.fits_reward_models and config.refresh:
        lines.append(f"the reward model is fitted again, to all labels including these {evidence['labels']['count']}")
    lines.append("nothing is deleted; every label stays")
    return lines
