"""`rlback verify`: does the ledger hold, and do registry, files and data agree with it?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select

from rlback.data import snapshot
from rlback.errors import CheckpointError, DataError, RegistryError
from rlback.ledger.chain import check_heads, first_break
from rlback.ledger.store import Store
from rlback.ledger.tables import batches, campaigns, checkpoints, comparisons, decisions, events, gates, labels, stages
from rlback.models.manifest import verify_checkpoint
from rlback.project import Project
from rlback.records import digest_of
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_aliases, list_versions


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold: where, what, and what to do."""

    where: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what was found."""

    events: int
    checkpoints: int
    data_versions: int
    sources: int
    findings: list[Finding]

    @property
    def holds(self) -> bool:
        return not self.findings


def verify(
    project: Project, mirror: MlflowStore | None, report: Callable[[int, int, dict[str, float]], None] | None = None
) -> Verification:
    """Checks everything; without a mirror only what the database itself can show.

    Files are read block by block. A half-finished operation of a running or killed process is no finding:
    `advance` finishes it.
    """
    store = project.store
    findings = [*_chain(store), *_rows(store)]
    if mirror is None:
        return Verification(store.event_count(), 0, 0, 0, findings)
    held, snapshots, sources = store.rows(select(checkpoints)), _snapshots(store), _sources(project)
    checks: list[tuple[str, Callable[[], object]]] = [
        (f"checkpoint {row.digest[:12]}", partial(verify_checkpoint, project.absolute(row.location), row.digest))
        for row in held
    ]
    checks += [
        (where, partial(snapshot.verify, project.root, project.root / path, version)) for where, path, version in snapshots
    ]
    checks += sources
    for done, (where, check) in enumerate(checks, 1):
        try:
            check()
        except (CheckpointError, DataError) as error:
            findings.append(Finding(where, error.message, error.remedy or ""))
        if report:
            report(done, len(checks), {})
    findings += _registry(store, mirror)
    return Verification(store.event_count(), len(held), len(snapshots), len(sources), findings)


def _chain(store: Store) -> Iterator[Finding]:
    rows = [tuple(row) for row in store.rows(select(events).order_by(events.c.seq))]
    remedy = "find out who wrote to the database; restore it from a backup made before event {}"
    broken = first_break(rows)
    if broken:
        yield Finding(f"event {broken.seq}", broken.why, remedy.format(broken.seq))
    cut = check_heads(store.heads.lines(), {row[0]: row[8] for row in rows}, store.heads.verify)
    if cut:
        yield Finding(f"event {cut.seq}", cut.why, remedy.format(cut.seq))


def _rows(store: Store) -> Iterator[Finding]:
    """The rows that decide something, against the digests and events recorded with them."""
    remedy = "restore the database from a backup"
    recorded = store.events()
    done = {
        (e.subject, e.payload["round"], e.payload["stage"], e.payload["attempt"]): e.payload["output"]
        for e in recorded
        if e.kind == "stage.done"
    }
    for row in store.rows(select(stages)):
        key = (row.campaign, row.round, row.stage, row.attempt)
        if done.get(key) != digest_of(json.loads(row.output)):
            yield Finding(f"{row.campaign} round {row.round} {row.stage}", "its output is not the one recorded", remedy)
    opened = {e.payload["gate"]: e.payload["evidence"] for e in recorded if e.kind == "gate.opened"}
    for row in store.rows(select(gates)):
        if opened.get(row.id) != digest_of(json.loads(row.evidence)):
            yield Finding(f"gate {row.id}", "its evidence is not the one that was decided on", remedy)
    decided = {e.payload["gate"]: (e.payload["verdict"], e.actor) for e in recorded if e.kind == "gate.decided"}
    for row in store.rows(select(decisions)):
        if decided.pop(row.gate, None) != (row.verdict, row.approver):
            yield Finding(f"gate {row.gate}", "its decision is not the one in the ledger", remedy)
    for gate in decided:
        yield Finding(f"gate {gate}", "the ledger has a decision that the table has lost", remedy)
    yield from _labels(store, recorded, remedy)
    yield from _aliases(store, recorded, remedy)


def _labels(store: Store, recorded: list, remedy: str) -> Iterator[Finding]:  # type: ignore[type-arg]
    created = {e.payload["batch"]: e.payload["digest"] for e in recorded if e.kind == "batch.created"}
    for row in store.rows(select(batches)):
        items = store.rows(
            select(comparisons).where(comparisons.c.batch == row.id).order_by(comparisons.c.position)
        )
        if created.get(row.id) != digest_of([dict(item._mapping) for item in items]):
            yield Finding(f"batch {row.id}", "its comparisons are not those that were made", remedy)
    given = {
        (e.payload["comparison"], e.actor, e.payload["revision"]): e.payload["verdict"]
        for e in recorded
        if e.kind == "label.given"
    }
    simulated: dict[str, list[list[str]]] = {}
    for row in store.rows(select(labels).order_by(labels.c.id)):
        if row.annotator_kind == "simulated":
            batch = row.comparison.rpartition(".")[0]
            simulated.setdefault(batch, []).append([row.comparison, row.verdict, row.left_side])
        elif given.pop((row.comparison, row.annotator, row.revision), None) != row.verdict:
            yield Finding(f"label {row.id}", "it is not the one in the ledger", remedy)
    for comparison, annotator, _ in given:
        yield Finding(f"label of {annotator} on {comparison}", "the table has lost it", remedy)
    for event in recorded:
        if event.kind == "labels.simulated" and event.payload["digest"] != digest_of(
            simulated.get(event.payload["batch"], [])
        ):
            yield Finding(f"labels of {event.payload['batch']}", "they are not those in the ledger", remedy)


def _aliases(store: Store, recorded: list, remedy: str) -> Iterator[Finding]:  # type: ignore[type-arg]
    replayed: dict[tuple[str, str], int] = {}
    for event in recorded:
        if event.kind == "alias.moved":
            key = (event.subject, event.payload["alias"])
            if event.payload["to"] is None:
                replayed.pop(key, None)
            else:
                replayed[key] = event.payload["to"]
    for policy in sorted({v.policy for v in list_versions(store)} | {p for p, _ in replayed}):
        expected = {alias: version for (p, alias), version in replayed.items() if p == policy}
        if list_aliases(store, policy) != expected:
            yield Finding(f"aliases of {policy}", "they are not where the ledger's events put them", remedy)


def _registry(store: Store, mirror: MlflowStore) -> Iterator[Finding]:
    for policy in sorted({v.policy for v in list_versions(store)}):
        try:
            theirs = {info.version: info.digest for info in mirror.versions(policy)}
            aliases = mirror.aliases(policy)
        except RegistryError as error:
            yield Finding(f"registry of {policy}", error.message, error.remedy or "")
            continue
        for version in list_versions(store, policy):
            if theirs.get(version.version) != version.digest:
                found = theirs.get(version.version)
                yield Finding(
                    version.address,
                    f"MLflow has {'no such version' if found is None else f'digest {found[:12]}'} for it",
                    "restore mlruns/ from a backup",
                )
        if aliases != list_aliases(store, policy):
            yield Finding(f"aliases of {policy}", "MLflow's differ from the ledger's", "rlback advance mends them")


def _snapshots(store: Store) -> list[tuple[str, str, snapshot.DataVersion]]:
    found = []
    for row in store.rows(select(stages).where(stages.c.stage == "snapshot")):
        output = json.loads(row.output)
        version = snapshot.DataVersion(output["md5"], output["sha256"], output["files"], output["size"])
        found.append((f"labels of {row.campaign} up to round {row.round}", output["path"], version))
    return found


def _sources(project: Project) -> list[tuple[str, Callable[[], object]]]:
    """What campaigns learnt from, as (where, check): data/ against its pointer, and each campaign's frozen copy.

    A world's data lie in data/. What a campaign used of it and what has been replaced there since is looked for
    in DVC's cache.
    """
    root, found = project.root, []
    world: dict[str, snapshot.DataVersion] = {}
    for row in project.store.rows(select(stages).where(stages.c.stage == "data").order_by(stages.c.finished)):
        output = json.loads(row.output)
        version = snapshot.DataVersion(output["data_version"], output["sha256"], output["files"], 0)
        if "pairs" in output:
            frozen = project.state / "snapshots" / f"{row.campaign}-source"
            found.append((f"source data of {row.campaign}", partial(snapshot.verify, root, frozen, version)))
        else:
            world[version.md5] = version
    pointed = None
    if project.data.is_dir() and not _data_is_due(project.store):
        with suppress(DataError):  # the check says so
            pointed = snapshot.pointer(root, project.data)
        if world or project.data.with_name("data.dvc").exists():
            found.append(("source data", partial(_verify_data, project)))
    replaced = [version for md5, version in world.items() if pointed is None or pointed.md5 != md5]
    return found + [(f"source data {v.md5}", partial(snapshot.verify_kept, root, v)) for v in replaced]


def _data_is_due(store: Store) -> bool:
    """Whether an active campaign of a world has yet to make data/ and freeze it."""
    made = {row.campaign for row in store.rows(select(stages.c.campaign).where(stages.c.stage == "data"))}
    active = store.rows(select(campaigns.c.name, campaigns.c.config).where(campaigns.c.state == "active"))
    return any(row.name not in made and json.loads(row.config)["source"]["world"] is not None for row in active)


def _verify_data(project: Project) -> None:
    version = snapshot.pointer(project.root, project.data)
    if version is None:
        raise DataError(
            f"data.dvc is missing, so nothing says what {project.data} should hold", remedy="restore it from git or a backup"
        )
    snapshot.verify(project.root, project.data, version)
