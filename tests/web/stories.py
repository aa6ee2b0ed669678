"""A project with something to see on every page: people who label, a gate that waits, rounds that went back.

Used by the tests of the console, and by the command that takes the pictures in docs/screens.
"""

from __future__ import annotations

from pathlib import Path

from rlback.campaign import machine
from rlback.config import check_config
from rlback.labelling.batches import record_label, unlabelled
from rlback.project import Project, make_project
from rlback.records import Actor
from rlback.registry.gates import decide, open_gates
from tests.conftest import changed

ADA = Actor("ada", "human")


def two_campaigns(root: Path) -> Project:
    """`writer` waits at a gate of its third round (one round approved, one declined); `helper` waits for labels."""
    project = make_project(root)
    people = {"annotators": "human", "initial": 6, "inside": 4, "cross": 12}
    simulated = {"annotators": "simulated", "initial": 24, "inside": 4, "cross": 12}
    config = check_config(
        changed(name="writer", policy="writer", rounds=3, labels=simulated, gate={"approver": "human"}), "writer"
    )
    writer = machine.start(project, config, ADA)
    machine.advance(project, writer)
    for verdict, reason in (("approve", "answers read better"), ("decline", "flatters, and says less")):
        gate = open_gates(project.store)[0]
        decide(project.store, gate.id, verdict, Actor("ann", "human"), digest=gate.digest, reason=reason)  # type: ignore[arg-type]
        machine.advance(project, writer)
    config = check_config(changed(name="helper", policy="helper", rounds=2, labels=people, gate={"approver": "human"}), "h")
    helper = machine.start(project, config, ADA)
    machine.advance(project, helper)
    for _ in range(1):
        due = machine.what_next(project, helper)
        assert isinstance(due, machine.Waiting)
        for number, item in enumerate(unlabelled(project.store, due.subject)):
            left = "ab"[number % 2]
            record_label(project.store, item.id, Actor("bea", "human"), "ab"[number % 3 % 2], left, 4.0 + number)
            if number % 2:
                record_label(project.store, item.id, Actor("cy", "human"), "ab"[number % 5 % 2], left, 6.0)
        machine.advance(project, helper)
    project.store.close()
    return project


if __name__ == "__main__":
    import sys

    two_campaigns(Path(sys.argv[1]))
