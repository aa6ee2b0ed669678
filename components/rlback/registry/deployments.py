"""What serves: an approved checkpoint is deployed, and taken out of service.

Whether a version may serve is read from the hash-chained events, not from rows.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from rlback.errors import RegistryError
from rlback.ledger.store import Store, Transaction
from rlback.ledger.tables import aliases, versions
from rlback.project import Project
from rlback.records import Actor, words_of
from rlback.registry.mirroring import require_mirrored
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import (
    Version,
    address_of,
    approved_addresses,
    check_files,
    get_version,
    list_aliases,
    move_alias,
    reconcile,
    repeated,
)


def require_deployable(project: Project, target: Version) -> int | None:
    """Refuses what `deploy` would refuse; its files are read. Returns the version that is approved now.

    Raises:
        RegistryError, CheckpointError: see `deploy`.
    """
    require_may_serve(project.store, target)
    approved = _require_not_rolled_back(project.store, target)
    check_files(project, target)
    return approved


def deploy(
    project: Project, mirror: MlflowStore, target: Version, actor: Actor, reason: str,
    permit: Callable[[Transaction], None] | None = None,
) -> int | None:
    """Moves `deployed` to an approved version; returns the version deployed before.

    `permit` may refuse it inside the transaction, by an error of its own.

    Raises:
        RegistryError: it is not approved, a simulated approver passed it, people went back behind it, or MLflow has
            lost it.
        CheckpointError: its files do not match its digest.
    """
    approved = require_deployable(project, target)
    require_mirrored(project, mirror, target.policy)
    with project.store.transaction() as transaction:
        if permit is not None:
            permit(transaction)
        this = (versions.c.policy == target.policy, versions.c.version == target.version)
        status = transaction.execute(select(versions.c.status).where(*this)).scalar_one()
        if status != "approved":
            raise RegistryError(f"{target.address} is {status}; only an approved checkpoint can be deployed")
        where = (aliases.c.policy == target.policy) & (aliases.c.alias == "approved")
        if transaction.execute(select(aliases.c.version).where(where)).scalar() != approved:
            raise RegistryError(f"what is approved of {target.policy} has moved meanwhile", remedy="look, and deploy again")
        said = {"policy": target.policy, "version": target.version, "digest": target.digest, "reason": reason}
        if not repeated(transaction, "checkpoint.deployed", target.campaign, actor, said):
            transaction.event("checkpoint.deployed", target.campaign, actor, said)
        was = move_alias(transaction, target.policy, "deployed", target.version, actor, reason)
    reconcile(project, mirror, target.policy)
    return was


def withdraw(
    project: Project, mirror: MlflowStore, target: Version, actor: Actor, reason: str,
    permit: Callable[[Transaction], None] | None = None,
) -> None:
    """Takes the deployed version out of service: afterwards nothing is deployed. What is approved stays.

    Files are not read: a checkpoint that is damaged must be stoppable, too. `permit` may refuse it inside the
    transaction, by an error of its own.

    Raises:
        RegistryError: no reason, or this version is not the deployed one.
    """
    reason = words_of(reason)
    if not reason:
        raise RegistryError("taking a checkpoint out of service needs a reason", remedy='add --reason "…"')
    require_mirrored(project, mirror, target.policy)
    said = {"policy": target.policy, "version": target.version, "digest": target.digest, "reason": reason}
    with project.store.transaction() as transaction:
        if permit is not None:
            permit(transaction)
        where = (aliases.c.policy == target.policy) & (aliases.c.alias == "deployed")
        serving = transaction.execute(select(aliases.c.version).where(where)).scalar()
        again = serving is None and repeated(transaction, "checkpoint.withdrawn", target.campaign, actor, said)
        if serving != target.version and not again:
            remedy = f"rlback withdraw {target.policy}@{serving}" if serving else "`rlback registry list` shows what serves"
            raise RegistryError(
                f"{target.address} is not deployed; {address_of(target.policy, serving)} is", remedy=remedy
            )
        if not again:
            transaction.event("checkpoint.withdrawn", target.campaign, actor, said)
        move_alias(transaction, target.policy, "deployed", None, actor, reason)
    reconcile(project, mirror, target.policy)


def _require_not_rolled_back(store: Store, target: Version) -> int | None:
    """Refuses a version that is neither the approved one nor among its parents: people went back behind it.

    Returns the approved version.
    """
    held = list_aliases(store, target.policy).get("approved")
    at = held
    while at is not None and at != target.version:
        at = get_version(store, target.policy, at).parent
    if held is not None and at is None:
        raise RegistryError(
            f"{target.address} was rolled back: {address_of(target.policy, held)} is approved now, and does not come from it",
            remedy=f'if it shall serve after all, approve it again: rlback rollback {target.address} --reason "…"',
        )
    return held


def require_may_serve(store: Store, target: Version) -> None:
    """Refuses a version that no person approved, by its status and by the ledger's events.

    Raises:
        RegistryError: what stands against it.
    """
    if target.status != "approved":
        raise RegistryError(
            f"{target.address} is {target.status}; only an approved checkpoint can be deployed",
            remedy=f"approved: {', '.join(approved_addresses(store, target.policy)) or 'none'}",
        )
    # Rows are for reading; who passed which weights is taken from the events, which the hash chain covers.
    own = store.events(target.campaign)
    these = {"policy": target.policy, "version": target.version, "digest": target.digest}
    passed = next((e for e in own if e.kind == "checkpoint.approved" and these.items() <= e.payload.items()), None)
    said = next(
        (e for e in own if passed and e.kind == "gate.decided" and e.payload["gate"] == passed.payload["gate"]), None
    )
    if said is None or said.actor_kind != "human" or said.payload["verdict"] != "approve":
        by = f"{said.actor}, a {said.actor_kind} approver" if said else "nobody on record"
        raise RegistryError(
            f"{target.address} was passed by {by}: it can never be deployed",
            remedy="run a campaign with gate.approver: human and let a person decide",
        )
