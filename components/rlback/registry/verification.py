"""`rlback verify`: does the ledger hold, and do registry, files and data agree with it?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select

from rlback.data import snapshot
from rlback.data.dvc_access import cached_object
from rlback.errors import CheckpointError, DataError, LedgerError, RegistryError
from rlback.ledger.chain import check_heads, check_newest, first_break
from rlback.ledger.store import Store
from rlback.ledger.tables import campaigns, checkpoints, events, stages, versions
from rlback.models.manifest import verify_checkpoint
from rlback.project import Project
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_aliases, list_versions
from rlback.registry.recorded import ROW_CHECKS, Finding
from rlback.registry.recorded_access import ACCESS_CHECKS
from rlback.registry.recorded_labels import LABEL_CHECKS
from rlback.registry.recorded_people import PEOPLE_CHECKS
from rlback.registry.recorded_times import TIME_CHECKS

#: How often rows and events are read anew where a running campaign writes in between.
ATTEMPTS = 3
CHECKS = {**ROW_CHECKS, **LABEL_CHECKS, **PEOPLE_CHECKS, **ACCESS_CHECKS, **TIME_CHECKS}


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
    `advance` finishes it. Damage that keeps one check from being made is a finding too; the others are made.

    Raises:
        LedgerError: the database cannot be opened at all.
    """
    store, findings = project.store, list[Finding]()

    def gather(where: str, look: Callable[[], Iterable[Any]]) -> list[Any]:
        # What was written by hand into a column need not have the form that we write.
        found = []
        try:
            for one in look():
                found.append(one)
        except LedgerError as error:
            findings.append(Finding(where, error.message, error.remedy or ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            why = f"what is recorded has not the form that was written ({type(error).__name__}: {str(error)[:80]})"
            findings.append(Finding(where, why, "restore the database from a backup"))
        return found

    findings += gather("ledger", lambda: _chain(store))
    findings += gather("signed heads", lambda: _heads(store))
    before = len(findings)
    for _ in range(ATTEMPTS):
        del findings[before:]
        recorded = gather("events", store.events)
        for where, rows_agree in CHECKS.items() if recorded else ():
            findings += gather(where, partial(rows_agree, store, recorded))
        count = len(gather("ledger", lambda: store.rows(select(events.c.seq))))
        if count == len(recorded):  # else a process wrote meanwhile, and rows were compared with older events
            break
    if mirror is None:
        return Verification(count, 0, 0, 0, _once(findings))
    held = gather("checkpoints", lambda: store.rows(select(checkpoints)))
    named = _names(gather("versions", lambda: store.rows(select(versions))))
    snapshots, sources = gather("stages", lambda: label_snapshots(store)), gather("stages", lambda: source_checks(project))
    checks: list[tuple[str, Callable[[], object]]] = [
        (
            f"checkpoint {row.digest[:12]}{named.get(row.digest, '')}",
            partial(verify_checkpoint, project.absolute(row.location), row.digest),
        )
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
    findings += gather("registry", lambda: _registry(store, mirror))
    return Verification(count, len(held), len(snapshots), len(sources), _once(findings))


def _names(rows: Iterable[Any]) -> dict[str, str]:
    """Digest -> the versions of policies whose weights it is, in brackets."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.digest, []).append(f"{row.policy}@{row.version}")
    return {digest: f" ({', '.join(names)})" for digest, names in found.items()}


def _once(findings: list[Finding]) -> list[Finding]:
    """The same damage met by several checks is said once."""
    return list(dict.fromkeys(findings))


_RESTORE = "find out who wrote to the database; restore it from a backup made before event {}"


def _chain(store: Store) -> Iterator[Finding]:
    broken = first_break(tuple(row) for row in store.rows(select(events).order_by(events.c.seq)))
    if broken:
        yield Finding(f"event {broken.seq}", broken.why, _RESTORE.format(broken.seq))


def _heads(store: Store) -> Iterator[Finding]:
    # A process may be writing meanwhile: heads read before the events lie on the chain, those read after reach its end.
    before = store.heads.lines()
    hashes = {row.seq: row.hash for row in store.rows(select(events.c.seq, events.c.hash))}
    after = store.heads.lines_if_any()
    for found in (check_heads(before, hashes, store.heads.verify), check_newest(after, max(hashes, default=0))):
        if found:
            remedy = _RESTORE.format(found.seq) if found.seq else f"restore {store.heads.file} from a backup"
            yield Finding(f"event {found.seq}" if found.seq else "signed heads", found.why, remedy)


def _registry(store: Store, mirror: MlflowStore) -> Iterator[Finding]:
    for policy in sorted({v.policy for v in list_versions(store)}):
        try:
            mirror.require_made()  # asked for anything, it would make an empty one
            theirs = {info.version: info.digest for info in mirror.versions(policy)}
            aliases = mirror.aliases(policy)
        except RegistryError as error:
            yield Finding(f"registry of {policy}", error.message, error.remedy or "")
            continue
        whole = True
        for version in list_versions(store, policy):
            if theirs.get(version.version) != version.digest:
                whole, found = False, theirs.get(version.version)
                yield Finding(
                    version.address,
                    f"MLflow has {'no such version' if found is None else f'digest {found[:12]}'} for it",
                    "restore mlruns/ from a backup",
                )
        if aliases != list_aliases(store, policy):
            remedy = "rlback advance mends them" if whole else "restore mlruns/ from a backup"
            yield Finding(f"aliases of {policy}", "MLflow's differ from the ledger's", remedy)


def label_snapshots(store: Store) -> list[tuple[str, str, snapshot.DataVersion]]:
    """The frozen labels of every campaign, as (where, path, version)."""
    found = []
    for row in store.rows(select(stages).where(stages.c.stage == "snapshot")):
        output = json.loads(row.output)
        version = snapshot.DataVersion(output["md5"], output["sha256"], output["files"], output["size"])
        found.append((f"labels of {row.campaign} up to round {row.round}", output["path"], version))
    return found


def source_checks(project: Project) -> list[tuple[str, Callable[[], object]]]:
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
    return found + [(f"source data {v.md5}", partial(_verify_replaced, root, v)) for v in replaced]


def _verify_replaced(root: Path, version: snapshot.DataVersion) -> None:
    snapshot.verify_kept(root, version)
    if cached_object(root, version.md5).is_file():
        return
    configured = [file.read_text() for file in (root / ".dvc").glob("config*") if file.is_file()]
    if not any("remote" in text for text in configured):
        raise DataError(
            f"it is neither in {root / 'data'} nor in DVC's cache, and there is no remote that it could be fetched from",
            remedy="bring data/ or .dvc/cache back from a backup",
        )


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
