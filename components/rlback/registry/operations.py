"""A policy's versions and their aliases: register, look up, promote, decline, mirror.

The ledger decides, MLflow mirrors. Each operation is one transaction that checks its conditions inside
itself, moves our alias row and appends the events; `reconcile` then moves MLflow's aliases to match and
records that it did. A crash between the two leaves a mirror that lags, which the next `reconcile` mends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select, update

from rlback.errors import RegistryError
from rlback.ledger.store import Store, Transaction, now
from rlback.ledger.tables import aliases, checkpoints, events, versions
from rlback.models.manifest import verify_checkpoint
from rlback.project import Project
from rlback.records import SYSTEM, Actor, CheckpointRef, canonical_json, digest_of
from rlback.registry.mlflow_store import MlflowStore

_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9_-]*)@([A-Za-z0-9_-]+)$")
ALIASES = ("candidate", "approved", "deployed")


@dataclass(frozen=True)
class Version:
    """One registered version of a policy, as the ledger knows it."""

    policy: str
    version: int
    digest: str
    model_id: str
    location: str
    campaign: str
    round: int
    parent: int | None
    status: str
    lineage: dict[str, Any]
    created: str

    @property
    def address(self) -> str:
        """`policy@12`."""
        return f"{self.policy}@{self.version}"


def _query() -> Any:
    columns = (versions, checkpoints.c.model_id, checkpoints.c.location)
    return select(*columns).join(checkpoints, versions.c.digest == checkpoints.c.digest)


def _version(row: Any) -> Version:
    return Version(
        row.policy, row.version, row.digest, row.model_id, row.location, row.campaign, row.round, row.parent,
        row.status, json.loads(row.lineage), row.created,
    )  # fmt: skip


def list_versions(store: Store, policy: str | None = None) -> list[Version]:
    """All versions of one policy, or of all, in order."""
    query = _query().order_by(versions.c.policy, versions.c.version)
    if policy is not None:
        query = query.where(versions.c.policy == policy)
    return [_version(row) for row in store.rows(query)]


def get_version(store: Store, policy: str, version: int) -> Version:
    """One version.

    Raises:
        RegistryError: there is none.
    """
    row = store.first(_query().where(versions.c.policy == policy, versions.c.version == version))
    if row is None:
        raise RegistryError(f"there is no {policy}@{version}", remedy="`rlback registry list` shows what there is", missing=True)
    return _version(row)


def list_aliases(store: Store, policy: str) -> dict[str, int]:
    """The ledger's aliases of a policy: alias -> version."""
    return {row.alias: row.version for row in store.rows(select(aliases).where(aliases.c.policy == policy))}


def resolve(store: Store, address: str) -> Version:
    """`policy@12`, `policy@approved`, or a bare alias where only one policy has it.

    Raises:
        RegistryError: the address has no such form, or names nothing.
    """
    match = _ADDRESS.match(address)
    if match is None:
        if address in ALIASES:
            rows = store.rows(select(aliases).where(aliases.c.alias == address))
            if len(rows) == 1:
                return get_version(store, rows[0].policy, rows[0].version)
            have = ", ".join(f"{r.policy}@{address}" for r in rows)
            remedy = f"name one: {have}" if have else "`rlback registry list` shows what there is"
            raise RegistryError(f"{len(rows)} policies have the alias {address}", remedy=remedy)
        raise RegistryError(f"{address!r} names no checkpoint", remedy="write POLICY@N or POLICY@approved")
    policy, which = match.groups()
    if which.isdigit():
        if len(which) > 9:
            raise RegistryError(f"{address[:60]}: there is no such version", remedy="`rlback registry list` shows what there is")
        return get_version(store, policy, int(which))
    held = list_aliases(store, policy)
    if which not in held:
        known = ", ".join(f"{a} = {policy}@{n}" for a, n in sorted(held.items())) or "none"
        raise RegistryError(f"{policy} has no alias {which!r}", remedy=f"its aliases: {known}")
    return get_version(store, policy, held[which])


def add_checkpoint(transaction: Transaction, project: Project, ref: CheckpointRef) -> None:
    """Notes where a checkpoint's files lie; the same digest is noted once."""
    from pathlib import Path

    held = transaction.execute(select(checkpoints.c.digest).where(checkpoints.c.digest == ref.digest)).first()
    if held is None:
        location = project.relative(Path(ref.location))
        transaction.execute(
            insert(checkpoints).values(
                digest=ref.digest, kind=ref.kind, model_id=ref.model_id, location=location, created=now()
            )
        )
        transaction.event(
            "checkpoint.saved", ref.digest, SYSTEM, {"kind": ref.kind, "model": ref.model_id, "location": location}
        )


def add_version(
    transaction: Transaction,
    *,
    policy: str,
    version: int,
    digest: str,
    campaign: str,
    round_: int,
    parent: int | None,
    status: str,
    lineage: dict[str, Any],
) -> None:
    """Enters a version that MLflow numbered, and moves the alias `candidate` to it where it is one."""
    transaction.execute(
        insert(versions).values(
            policy=policy, version=version, digest=digest, campaign=campaign, round=round_, parent=parent,
            status=status, lineage=canonical_json(lineage), created=now(),
        )
    )  # fmt: skip
    transaction.event(
        f"version.{status}", campaign, SYSTEM,
        {"policy": policy, "version": version, "digest": digest, "round": round_, "parent": parent,
         "lineage": digest_of(lineage)},
    )  # fmt: skip
    if status == "candidate":
        move_alias(transaction, policy, "candidate", version, SYSTEM, f"round {round_} of {campaign}")


def move_alias(
    transaction: Transaction, policy: str, alias: str, version: int | None, actor: Actor, reason: str
) -> int | None:
    """Moves an alias (None removes it) with its event; returns where it was."""
    where = (aliases.c.policy == policy) & (aliases.c.alias == alias)
    was = transaction.execute(select(aliases.c.version).where(where)).scalar()
    if was == version:
        return was
    if version is None:
        transaction.execute(delete(aliases).where(where))
    elif was is None:
        transaction.execute(insert(aliases).values(policy=policy, alias=alias, version=version))
    else:
        transaction.execute(update(aliases).where(where).values(version=version))
    transaction.event(
        "alias.moved", policy, actor, {"alias": alias, "from": was, "to": version, "reason": reason}
    )
    return was


#: What a deployment, a withdrawal or a rollback brings with it.
_CONSEQUENCES = ("alias.moved", "alias.mirrored", "gate.expired")


def repeated(transaction: Transaction, kind: str, subject: str, actor: Actor, said: dict[str, Any]) -> bool:
    """Whether the newest act on record is exactly this one: a command that is given again, after a kill perhaps."""
    query = select(events).where(events.c.kind.not_in(_CONSEQUENCES)).order_by(events.c.seq.desc()).limit(1)
    row = transaction.execute(query).first()
    if row is None or (row.kind, row.subject, row.actor, row.actor_kind) != (kind, subject, actor.name, actor.kind):
        return False
    return said.items() <= json.loads(row.payload).items()


def _set_status(transaction: Transaction, policy: str, version: int, status: str) -> None:
    transaction.execute(
        update(versions).where(versions.c.policy == policy, versions.c.version == version).values(status=status)
    )


def promote(transaction: Transaction, candidate: Version, actor: Actor, evidence: dict[str, Any]) -> None:
    """Makes a candidate approved, and the alias `approved` point to it."""
    _set_status(transaction, candidate.policy, candidate.version, "approved")
    transaction.event(
        "checkpoint.approved", candidate.campaign, actor,
        {"policy": candidate.policy, "version": candidate.version, "digest": candidate.digest, **evidence},
    )  # fmt: skip
    move_alias(transaction, candidate.policy, "approved", candidate.version, actor, evidence.get("reason", ""))
    move_alias(transaction, candidate.policy, "candidate", None, actor, "approved")


def decline(
    transaction: Transaction, candidate: Version, start: Version, actor: Actor, evidence: dict[str, Any]
) -> None:
    """Marks a candidate declined and records the rollback to its start checkpoint. Deletes nothing."""
    _set_status(transaction, candidate.policy, candidate.version, "declined")
    transaction.event(
        "checkpoint.declined", candidate.campaign, actor,
        {"policy": candidate.policy, "version": candidate.version, "digest": candidate.digest, **evidence},
    )  # fmt: skip
    move_alias(transaction, candidate.policy, "candidate", None, actor, "declined")
    transaction.event(
        "rolled-back", candidate.campaign, actor,
        {"policy": start.policy, "from": candidate.version, "to": start.version, "digest": start.digest},
    )  # fmt: skip


def rolled_back_since(rows: Callable[[Any], Sequence[Any]], policy: str, campaign: str, gate: str) -> bool:
    """Whether somebody rolled the policy back after this gate was decided; `rows` reads, of a store or in a transaction."""
    kinds = events.c.kind.in_(("gate.decided", "rolled-back")) & events.c.subject.in_((campaign, policy))
    decided = False
    for row in rows(select(events.c.kind, events.c.subject, events.c.payload).where(kinds).order_by(events.c.seq)):
        said = json.loads(row.payload)
        if row.kind == "gate.decided":
            decided = decided or said["gate"] == gate
        elif decided and row.subject == policy and "reason" in said:  # what a decline takes back has none
            return True
    return False


def check_files(project: Project, version: Version) -> None:
    """Verifies a version's files against its digest.

    Raises:
        CheckpointError: a file is missing, altered or does not belong there.
    """
    verify_checkpoint(project.absolute(version.location), version.digest)


def reconcile(project: Project, mirror: MlflowStore, policy: str) -> list[str]:
    """Makes MLflow's aliases of a policy equal the ledger's, recording each repair; returns what it moved."""
    ours, theirs = list_aliases(project.store, policy), mirror.aliases(policy)
    moved = []
    for alias in sorted({*ours, *theirs}):
        if ours.get(alias) == theirs.get(alias):
            continue
        if alias in ours:
            mirror.set_alias(policy, alias, ours[alias])
        else:
            mirror.delete_alias(policy, alias)
        moved.append(f"{policy}: alias {alias} {theirs.get(alias)} -> {ours.get(alias)}")
        with project.store.transaction() as transaction:
            repair = {"alias": alias, "from": theirs.get(alias), "to": ours.get(alias)}
            transaction.event("alias.mirrored", policy, SYSTEM, repair)
    return moved


def approved_addresses(store: Store, policy: str) -> list[str]:
    """The addresses of a policy's approved versions."""
    return [v.address for v in list_versions(store, policy) if v.status == "approved"]


def address_of(policy: str, version: int | None) -> str:
    """`policy@12`, or `nothing` for no version."""
    return f"{policy}@{version}" if version is not None else "nothing"
