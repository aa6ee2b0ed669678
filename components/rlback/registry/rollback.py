"""Going back: `approved` moves to a checkpoint that people approved before, and `deployed` with it.

One transaction moves what there is to move, sends active campaigns back to the target and expires gates on
candidates that started elsewhere. Nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select, update

from rlback.errors import RegistryError
from rlback.ledger.store import Store, Transaction
from rlback.ledger.tables import campaigns
from rlback.project import Project
from rlback.records import Actor, words_of
from rlback.registry import gates as gate_room
from rlback.registry.deployments import require_may_serve
from rlback.registry.mirroring import require_mirrored
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import (
    Version,
    address_of,
    approved_addresses,
    check_files,
    list_aliases,
    move_alias,
    reconcile,
    repeated,
)


def roll_back(
    project: Project, mirror: MlflowStore, target: Version, actor: Actor, reason: str, *, dry_run: bool = False,
    permit: Callable[[Transaction], None] | None = None,
) -> list[str]:
    """Moves `approved` (and `deployed`, where something is deployed) back to an approved version or the base.

    Active campaigns of the policy start their next round from the target; gates open on candidates that
    started elsewhere expire. Returns what was (or would be) done, a line each. `permit` may refuse it inside the
    transaction, by an error of its own.

    Raises:
        RegistryError: no reason; the target was never approved; it may not be deployed but something is; or MLflow has
            lost a version.
        CheckpointError: the target's files do not match its digest.
    """
    store, policy, reason = project.store, target.policy, words_of(reason)
    if not dry_run and not reason:
        raise RegistryError("a rollback needs a reason", remedy='add --reason "…"')
    if target.status not in ("approved", "base"):
        raise RegistryError(
            f"{target.address} is {target.status}, it was never approved: a rollback goes to an approved checkpoint",
            remedy=f"approved: {', '.join(approved_addresses(store, policy)) or 'none'}",
        )
    require_mirrored(project, mirror, policy)
    check_files(project, target)
    if dry_run:
        return _plan_of(store, target).lines
    with store.transaction() as transaction:
        if permit is not None:
            permit(transaction)
        # In here nobody else writes: what is moved is what there is.
        plan = _plan_of(store, target)
        said = {"policy": policy, "to": target.version, "digest": target.digest, "reason": reason}
        if not repeated(transaction, "rolled-back", policy, actor, said):
            transaction.event("rolled-back", policy, actor, {**said, "from": plan.held.get("approved")})
        move_alias(transaction, policy, "approved", target.version, actor, reason)
        if plan.redeploy:
            move_alias(transaction, policy, "deployed", target.version, actor, reason)
        for name in plan.active:
            transaction.execute(update(campaigns).where(campaigns.c.name == name).values(kept_version=target.version))
        for gate in plan.stale:
            gate_room.expire(transaction, gate.id, gate.campaign, actor, f"rolled back to {target.address}")
    reconcile(project, mirror, policy)
    return plan.lines


@dataclass(frozen=True)
class _Plan:
    """What a rollback does: campaigns that start elsewhere, gates that expire, whether `deployed` moves; in words too."""

    held: dict[str, int]
    redeploy: bool
    active: list[str]
    stale: list[gate_room.Gate]
    lines: list[str]


def _plan_of(store: Store, target: Version) -> _Plan:
    policy, held = target.policy, list_aliases(store, target.policy)
    if "approved" not in held:
        lines = [f"approved becomes {target.address}; nothing was approved before"]
    elif held["approved"] == target.version:
        lines = [f"approved stays at {target.address}"]
    else:
        lines = [f"approved moves from {address_of(policy, held['approved'])} to {target.address}"]
    redeploy = "deployed" in held and held["deployed"] != target.version
    if redeploy:
        if target.status == "base":
            raise RegistryError(
                f"{address_of(policy, held['deployed'])} is deployed and would have to move too, but {target.address} "
                "is the base, which nobody approved: it can never be deployed",
                remedy=_instead(store, policy, held["deployed"]),
            )
        require_may_serve(store, target)
        lines.append(f"deployed moves from {address_of(policy, held['deployed'])} to {target.address}")
    rows = store.rows(select(campaigns.c.name).where(campaigns.c.policy == policy, campaigns.c.state == "active"))
    active = [row.name for row in rows]
    lines += [f"the next round of {name} starts from {target.address}" for name in active]
    stale = [gate for gate in gate_room.open_gates(store) if gate.campaign in active]
    lines += [f"gate {gate.id} expires undecided" for gate in stale]
    return _Plan(held, redeploy, active, stale, lines)


def _instead(store: Store, policy: str, deployed: int) -> str:
    """What can be done about a deployed checkpoint where `deployed` cannot follow to the target."""
    deployed_address = address_of(policy, deployed)
    others = [address for address in approved_addresses(store, policy) if address != deployed_address]
    withdraw = f"take it out of service first: rlback withdraw {deployed_address} --reason \"…\""
    return f"go back to an approved checkpoint ({', '.join(others)}), or {withdraw}" if others else withdraw
