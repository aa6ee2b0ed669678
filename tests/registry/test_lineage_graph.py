"""What led to a checkpoint and what came of it, and which of that holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlback.project import Project
from rlback.records import Actor
from rlback.registry.deployments import deploy, withdraw
from rlback.registry.lineage_graph import graph
from rlback.registry.lineage_marks import mark
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import resolve
from tests.registry.test_verification import rewrite
from tests.web.stories import two_campaigns

MARA = Actor("mara", "human")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: `writer` with one round approved, one declined and one at its gate."""
    root = tmp_path_factory.mktemp("graph") / "p"
    two_campaigns(root)
    return root


@pytest.fixture
def told(template: Path, copied: Callable[[Path], Project]) -> Project:
    """A copy of that project."""
    return copied(template)


def of(project: Project, address: str, forward: bool = False) -> dict[str, Any]:
    return graph(project.store, resolve(project.store, address), forward)


def ids(found: dict[str, Any], side: str = "") -> set[str]:
    """Without the data version's digest."""
    return {n["id"] if n["kind"] != "data" else "data" for n in found["nodes"] if not side or n["side"] in (side, "both")}


def findings(project: Project, address: str = "writer@2", files: bool = False) -> dict[str, str]:
    nodes = mark(project, of(project, address, True), files)["nodes"]
    return {n["id"]: n["mark"]["why"] for n in nodes if n["mark"]["state"] == "finding"}


def test_backward_has_what_made_it_and_what_it_was_decided_on(told: Project):
    """The data, the base, the labels its reward model learnt from, and its own gate with the gate's labels; nothing later."""
    found = of(told, "writer@2")
    assert ids(found) == {
        "data", "batch:writer.r0", "batch:writer.r1", "reward-model:writer.r0", "policy:writer@1", "policy:writer@2",
        "gate:writer.r1",
    }  # fmt: skip
    data = next(n["id"] for n in found["nodes"] if n["kind"] == "data")
    assert sorted(map(tuple, found["edges"])) == sorted([
        (data, "policy:writer@1"), ("policy:writer@1", "batch:writer.r0"), ("batch:writer.r0", "reward-model:writer.r0"),
        ("policy:writer@1", "reward-model:writer.r0"), ("reward-model:writer.r0", "policy:writer@2"),
        ("policy:writer@1", "policy:writer@2"), ("policy:writer@1", "batch:writer.r1"), ("policy:writer@2", "batch:writer.r1"),
        ("policy:writer@2", "gate:writer.r1"), ("batch:writer.r1", "gate:writer.r1"),
    ])  # fmt: skip
    assert ids(of(told, "writer@1")) == {"data", "policy:writer@1"}


def test_forward_has_what_came_of_it_its_deployment_among_it(told: Project):
    """Both policies that start from it, what they were judged by, and its way into service and out of it."""
    ahead = ids(of(told, "writer@2", True), "ahead")
    assert {"policy:writer@3", "policy:writer@4", "gate:writer.r3", "reward-model:writer.r2"} <= ahead
    assert not any(id_.startswith("deployment") for id_ in ahead)
    assert not ahead & {"policy:writer@1", "reward-model:writer.r0", "batch:writer.r0", "data"}
    mirror, target = MlflowStore(told.root), resolve(told.store, "writer@2")
    deploy(told, mirror, target, MARA, "best so far")
    withdraw(told, mirror, target, MARA, "complaints")
    found = of(told, "writer@2", True)
    there, out = [n for n in found["nodes"] if n["kind"] == "deployment"]
    assert (there["title"], out["title"]) == ("writer@2 deployed", "writer@2 taken out of service")
    assert ["policy:writer@2", there["id"]] in found["edges"]
    assert ["gate:writer.r1", there["id"]] in found["edges"]
    assert [there["id"], out["id"]] in found["edges"]
    assert there["side"] == "ahead"
    # What was declined led to the next reward model all the same: its labels are among what that one learnt from.
    assert "policy:writer@4" in ids(of(told, "writer@3", True), "ahead")
    assert "policy:writer@3" not in ids(of(told, "writer@4", True), "ahead")


def test_another_policy_shares_nothing_but_the_data(told: Project):
    """Even where its base has the same digest."""
    assert not any("writer" in id_ for id_ in ids(of(told, "helper@2", True)))
    assert "batch:helper.r0" in ids(of(told, "helper@2"))


def test_without_files_what_has_files_is_not_said_to_hold(told: Project):
    """Records hold at once; weights, snapshots and source data only when they were read."""
    found = mark(told, of(told, "writer@2", True))
    states = {n["kind"]: n["mark"]["state"] for n in found["nodes"]}
    assert states == {
        "data": "not checked", "batch": "holds", "reward-model": "not checked", "policy": "not checked", "gate": "holds",
    }  # fmt: skip
    whole = mark(told, of(told, "writer@2", True), files=True)
    assert {n["mark"]["state"] for n in whole["nodes"]} == {"holds"}
    assert whole["elsewhere"] == 0


@pytest.mark.parametrize(
    ("address", "statement", "marked"),
    [
        ("writer@2", "UPDATE labels SET verdict = 'tie' WHERE comparison = 'writer.r1.3'", {"batch:writer.r1"}),
        ("helper@2", "UPDATE labels SET verdict = 'tie' WHERE comparison = 'helper.r0.2' AND annotator = 'bea'",
         {"batch:helper.r0"}),
        ("helper@2", "DELETE FROM labels WHERE comparison = 'helper.r0.2' AND annotator = 'bea'", {"batch:helper.r0"}),
        ("helper@2", "UPDATE labels SET time = '2001-01-01T00:00:00.000Z' WHERE comparison = 'helper.r0.2' AND annotator = 'bea'",
         {"batch:helper.r0"}),
        ("writer@2", "UPDATE decisions SET approver = 'eve' WHERE gate = 'writer.r1'", {"gate:writer.r1"}),
        ("writer@2", "UPDATE versions SET created = '2001-01-01T00:00:00.000Z' WHERE policy = 'writer' AND version = 3",
         {"policy:writer@3"}),
        ("writer@2", "UPDATE stages SET output = '{' WHERE campaign = 'writer' AND round = 2 AND stage = 'label'",
         {"batch:writer.r2"}),
        ("writer@2", "UPDATE checkpoints SET model_id = 'm-0' WHERE digest IN (SELECT digest FROM versions WHERE version = 4)",
         {"policy:writer@4"}),
    ],
)  # fmt: skip
def test_what_was_altered_marks_its_own_node_and_no_other(told: Project, address: str, statement: str, marked: set[str]):
    """The mark says what is wrong in the words of `rlback verify`."""
    assert findings(told, address) == {}
    assert rewrite(told, statement) > 0
    assert set(findings(told, address)) == marked


def test_what_was_altered_elsewhere_is_counted(told: Project):
    """A label of another policy is no mark here, but it is not kept quiet either."""
    rewrite(told, "UPDATE labels SET verdict = 'tie' WHERE comparison = 'helper.r0.2' AND annotator = 'bea'")
    found = mark(told, of(told, "writer@2", True))
    assert found["elsewhere"] == 1
    assert not [n for n in found["nodes"] if n["mark"]["state"] == "finding"]


def test_a_broken_chain_marks_everything(told: Project):
    """Nothing can be told from events that were rewritten."""
    rewrite(told, "UPDATE events SET actor = 'eve' WHERE seq = 5")
    assert findings(told).keys() == {n["id"] for n in of(told, "writer@2", True)["nodes"]}


def test_altered_weights_and_labels_on_disk_mark_their_nodes_when_files_are_read(told: Project):
    """One flipped byte of a policy, one of the labels that a reward model was fitted to, one of the source data."""
    weights = told.absolute(resolve(told.store, "writer@3").location) / "model.safetensors"
    frozen = told.state / "snapshots" / "writer-r1" / "labels.jsonl"
    source = next(f for f in sorted(told.data.rglob("*")) if f.is_file())
    for file in (weights, frozen, source):
        content = bytearray(file.read_bytes())
        content[-2] ^= 1
        file.chmod(0o644)
        file.write_bytes(content)
    assert findings(told) == {}
    found = findings(told, files=True)
    data = next(n["id"] for n in of(told, "writer@2")["nodes"] if n["kind"] == "data")
    assert found.keys() == {"policy:writer@3", "reward-model:writer.r1", data}
    assert "model.safetensors" in found["policy:writer@3"]
