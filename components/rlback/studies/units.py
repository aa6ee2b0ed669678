"""What a study is computed in: units of one setting, one arm and one chunk of seeds, each an atomic Parquet part.

A part is named by what determines it (configuration, code, seeds), so a study that was ended at any moment goes on with
what is missing, and one whose file or code changed does not take up what no longer belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlback.errors import DataError
from rlback.records import digest_of
from rlback.studies.config import Study, check_study
from rlback.studies.machine import run_arm
from rlback.studies.protocol import Learner
from rlback.studies.recorder import Names, Recorder
from rlback.studies.revision import code_revision, commit
from rlback.studies.table import check, commits_of, joined, share_kept, stamped, write_table


@dataclass(frozen=True)
class Unit:
    """One arm in one setting with some seeds. part: where its rows go. after: arms whose parts it reads."""

    setting: str
    arm: str
    seeds: tuple[int, ...]
    digest: str
    part: Path
    after: str | None


def units_of(study: Study, out: Path) -> list[Unit]:
    """All units in the order of settings, chunks and arms, those that read others' parts last."""
    size, seeds, code = study.keys.chunk, study.seeds, code_revision(study.keys.world)
    found = []
    for setting in study.settings:
        for i in range(0, len(seeds), size):
            chunk = seeds[i : i + size]
            for arm in study.arms_in(setting):
                digest = study.digest(setting, arm.name)
                of = digest_of([study.name, setting, arm.name, digest, code])[:20]
                part = out / "parts" / f"{of}-{chunk[0]}-{len(chunk)}.parquet"
                found.append(Unit(setting, arm.name, chunk, digest, part, arm.gate.rate_from))
    return sorted(found, key=lambda unit: unit.after is not None)


def missing(units: list[Unit]) -> list[Unit]:
    """Those without a part that can be read; a part is whole or not there, but a disk may have lost its end."""
    return [unit for unit in units if not _whole(unit.part)]


def _whole(part: Path) -> bool:
    try:
        return pq.ParquetFile(part).metadata.num_rows > 0
    except (OSError, pa.ArrowException):
        return False


def run_unit(study: Study, unit: Unit, out: Path) -> None:
    """Computes one unit and writes its part."""
    learner = _learner(_Key(study, unit.setting, unit.seeds, out / "shared"))
    names = Names(study.name, study.keys.world, unit.setting, unit.arm, unit.digest, code_revision(study.keys.world))
    recorder = Recorder(names, np.array(unit.seeds))
    rate = None
    if unit.after:
        rate = share_kept([u.part for u in units_of(study, out) if (u.setting, u.arm) == (unit.setting, unit.after)])
    run_arm(learner, study.arms[unit.arm], study.settings[unit.setting].plan, recorder, unit.seeds, rate)
    write_table(stamped(recorder.table(), [commit(study.keys.world)]), unit.part)


def run_units(tree: dict, place: str, seeds: int, names: list[tuple[str, str, int]], out: Path) -> int:  # type: ignore[type-arg]
    """Computes units named (setting, arm, first seed); for another process, which is sent plain values only."""
    study = check_study(tree, place).with_seeds(seeds)
    wanted = set(names)
    todo = [u for u in units_of(study, out) if (u.setting, u.arm, u.seeds[0]) in wanted]
    for unit in missing(todo):
        run_unit(study, unit, out)
    return len(todo)


@dataclass(frozen=True, eq=False)
class _Key:
    study: Study
    setting: str
    seeds: tuple[int, ...]
    shared: Path

    def __hash__(self) -> int:
        return hash((self.setting, self.seeds, self.shared))

    def __eq__(self, other: object) -> bool:
        mine = (self.setting, self.seeds, self.shared, self.study.settings[self.setting])
        return isinstance(other, _Key) and mine == (
            other.setting, other.seeds, other.shared, other.study.settings[other.setting]
        )  # fmt: skip


@lru_cache(maxsize=2)
def _learner(key: _Key) -> Learner:
    # All arms of a setting that this process computes begin with the same problems and base policies.
    return key.study.learner(key.setting, key.seeds, key.shared)


def collected(units: list[Unit], place: Path) -> pa.Table:
    """The rows of all units in order. DataError names how many are missing."""
    lacking = missing(units)
    if lacking:
        raise DataError(f"{len(lacking)} of {len(units)} parts of the study are missing", remedy="give the command again")
    table = check(joined([pq.read_table(unit.part) for unit in units]), str(place))
    return stamped(table, [name for unit in units for name in commits_of(unit.part)])


def batches(units: list[Unit], size: int) -> Iterator[list[Unit]]:
    """Units grouped for one task each: same setting, same seeds, at most `size` arms."""
    group: list[Unit] = []
    for unit in units:
        if group and (len(group) >= size or (group[0].setting, group[0].seeds) != (unit.setting, unit.seeds)):
            yield group
            group = []
        group.append(unit)
    if group:
        yield group
