"""`verify` finds what was changed behind the ledger's back, and names it."""

from __future__ import annotations

import sqlite3

import pytest

from rlback.project import Project
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_versions
from rlback.registry.verification import verify


def findings(project: Project) -> list[str]:
    return [f"{x.where}: {x.what}" for x in verify(project, MlflowStore(project.root)).findings]


def test_a_finished_campaign_verifies(finished: Project):
    """Chain, rows, checkpoints, label snapshots and registry agree, and there was something to look at."""
    result = verify(finished, MlflowStore(finished.root))
    assert result.findings == []
    assert result.events > 30
    assert result.checkpoints >= 5
    assert result.data_versions == 3


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE stages SET output = '{}' WHERE stage = 'evaluate' AND round = 1", "tiny round 1 evaluate"),
        ("UPDATE gates SET evidence = '{}' WHERE round = 1", "gate tiny.r1"),
        ("UPDATE comparisons SET prompt = 'other' WHERE position = 0 AND batch = 'tiny.r1'", "batch tiny.r1"),
        ("UPDATE labels SET verdict = 'tie' WHERE id = 30", "labels of tiny.r1"),
        ("UPDATE decisions SET verdict = 'approve', approver = 'ada'", "its decision is not the one"),
        ("DELETE FROM decisions", "has lost"),
        ("UPDATE aliases SET version = 77", "aliases of policy"),
        ("UPDATE events SET actor = 'eve' WHERE seq = 9", "event 9"),
        ("DELETE FROM events WHERE seq > 20", "tail was cut"),
    ],
)
def test_each_kind_of_tampering_is_named(finished: Project, statement: str, named: str):
    """With the triggers dropped, whatever is rewritten in the database is found."""
    connection = sqlite3.connect(finished.state / "ledger.db")
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()
    assert any(named in finding for finding in findings(finished))


def test_a_flipped_byte_an_extra_file_and_a_changed_snapshot_are_named(finished: Project):
    """Files are checked too: weights, what lies beside them, and frozen labels."""
    weights = finished.absolute(list_versions(finished.store)[-1].location) / "model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    beside = finished.absolute(list_versions(finished.store)[0].location)
    beside.chmod(0o755)
    (beside / "more.bin").write_bytes(b"x")
    snapshot = finished.state / "snapshots" / "tiny-r1" / "labels.jsonl"
    snapshot.chmod(0o644)
    snapshot.write_text(snapshot.read_text().replace('"verdict": "a"', '"verdict": "b"', 1))
    found = "\n".join(findings(finished))
    assert "model.safetensors" in found
    assert "more.bin" in found
    assert "labels of tiny up to round 1" in found
