"""A part is named by the sources that determine its numbers, and by no other file of the repository."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rlback.studies import revision, units
from rlback.studies.protocol import LEARNERS
from rlback.studies.table import commits_of, read_table, write_table
from tests.studies.test_machine import study_of


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's sources that may be changed."""
    copy = tmp_path / "rlback"
    shutil.copytree(revision.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def named(package: Path, world: str) -> str:
    # Not the cached function: the sources change under it.
    return revision.code_revision.__wrapped__(world, package)


@pytest.mark.parametrize("world", LEARNERS)
@pytest.mark.parametrize(
    "reader", ["studies/tables.py", "studies/pictures.py", "studies/publishing.py", "studies/claims/page.py", "cli/studies.py",
               "studies/units.py", "studies/arms.py", "errors.py", "web/app.py", "campaign/machine.py", "worlds/__init__.py"],
)  # fmt: skip
def test_what_only_reads_results_may_change(package, world, reader):
    before = named(package, world)
    path = package / reader
    path.write_text(path.read_text() + "\n_X = 1\n")
    assert named(package, world) == before


@pytest.mark.parametrize(
    ("world", "source", "of"),
    [
        ("bandit", "studies/machine.py", "both"),
        ("bandit", "studies/gates.py", "both"),
        ("bandit", "maths/sequential.py", "both"),
        ("bandit", "records.py", "both"),
        ("bandit", "studies/bandit_steps.py", "bandit"),
        ("bandit", "worlds/bandit/policies.py", "bandit"),
        ("visits", "studies/text_steps.py", "visits"),
        ("visits", "worlds/visits_gold.py", "visits"),
        ("visits", "training/reward.py", "visits"),
        ("visits", "models/policy.py", "visits"),
        ("visits", "maths/advantages.py", "visits"),
    ],
)
def test_what_computes_may_not(package, world, source, of):
    """And the other world's parts stay valid where its own sources did not change."""
    other = next(name for name in LEARNERS if name != world)
    before = named(package, world), named(package, other)
    path = package / source
    path.write_text(path.read_text() + "\n_X = 1\n")
    after = named(package, world), named(package, other)
    assert after[0] != before[0]
    assert (after[1] != before[1]) == (of == "both")


def test_parts_are_reused_after_a_commit_that_computes_nothing(tmp_path, monkeypatch):
    study = study_of("gold")
    monkeypatch.setattr(units, "commit", lambda world: "aaaa")
    for unit in units.units_of(study, tmp_path):
        units.run_unit(study, unit, tmp_path)
    monkeypatch.setattr(units, "commit", lambda world: "bbbb")
    everything = units.units_of(study, tmp_path)
    assert units.missing(everything) == []
    # The commit at which the rows were computed stays beside them, through a file and back.
    write_table(units.collected(everything, tmp_path), tmp_path / "results.parquet")
    assert commits_of(read_table(tmp_path / "results.parquet")) == ["aaaa"]


def test_a_gate_s_own_module_counts_for_the_arms_that_name_it_alone(package):
    """Its sources are in their configuration's digest, so that a change of it leaves all other parts valid."""
    world, gate = named(package, "bandit"), revision.gate_revision.__wrapped__("statistics", package)
    path = package / "studies/gate_statistics.py"
    path.write_text(path.read_text() + "\n_X = 1\n")
    assert named(package, "bandit") == world
    assert revision.gate_revision.__wrapped__("statistics", package) != gate
    assert revision.gate_revision.__wrapped__("person", package) is None
    plain, judged = study_of("gold"), study_of({"x": {"like": "gold", "gate": {"by": "statistics", "ask": {}}}})
    assert plain.digest("plain", "gold") != judged.digest("plain", "x")
