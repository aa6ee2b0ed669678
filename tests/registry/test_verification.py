"""`verify` finds what was changed behind the ledger's back, and names it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from rlback.accounts.sessions import make_token, open_session, revoke_token
from rlback.accounts.users import add_user, find_user
from rlback.campaign import machine
from rlback.config import check_config
from rlback.data import snapshot
from rlback.errors import LedgerError, RegistryError
from rlback.labelling.batches import record_label
from rlback.labelling.guidelines import add_guideline
from rlback.project import Project
from rlback.records import Actor
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import get_version, list_versions
from rlback.registry.rollback import roll_back
from rlback.registry.verification import verify
from tests.conftest import TINY, changed
from tests.labelling.made import made_batch, made_campaign


def findings(project: Project) -> list[str]:
    return [f"{x.where}: {x.what}" for x in verify(project, MlflowStore(project.root)).findings]


def test_a_finished_campaign_verifies(finished: Project):
    """Chain, rows, checkpoints, label snapshots and registry agree, and there was something to look at."""
    result = verify(finished, MlflowStore(finished.root))
    assert result.findings == []
    assert result.events > 30
    assert result.checkpoints >= 5
    assert (result.data_versions, result.sources) == (3, 1)


def test_an_open_gate_and_one_that_a_rollback_let_expire_verify(at_gate: Project):
    """What was done in order is no finding: a gate that waits, and the same gate expired by a rollback."""
    mirror = MlflowStore(at_gate.root)
    assert findings(at_gate) == []
    roll_back(at_gate, mirror, get_version(at_gate.store, "policy", 1), Actor("ada", "human"), "not this one")
    assert findings(at_gate) == []
    rewrite(at_gate, "UPDATE gates SET state = 'approved'")
    (found,) = findings(at_gate)
    assert found.endswith("its state is not as in the ledger")


def test_where_the_next_round_starts_is_replayed_past_a_rollback(at_gate: Project):
    """A rollback moves it for active campaigns; set to anything else, before or after, it is named."""
    rewrite(at_gate, "UPDATE campaigns SET kept_version = 2")
    (found,) = findings(at_gate)
    assert found == "campaign person: its next round would start from version 2, in the ledger it is the base"
    rewrite(at_gate, "UPDATE campaigns SET kept_version = NULL")
    roll_back(at_gate, MlflowStore(at_gate.root), get_version(at_gate.store, "policy", 1), Actor("ada", "human"), "not this one")
    assert findings(at_gate) == []
    rewrite(at_gate, "UPDATE campaigns SET kept_version = 2")
    (found,) = findings(at_gate)
    assert found.endswith("would start from version 2, in the ledger it is version 1")


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE stages SET output = '{}' WHERE stage = 'evaluate' AND round = 1", "tiny round 1 evaluate"),
        ("UPDATE gates SET evidence = '{}' WHERE round = 1", "gate tiny.r1"),
        ("UPDATE comparisons SET prompt = 'other' WHERE position = 0 AND batch = 'tiny.r1'", "batch tiny.r1"),
        ("UPDATE labels SET verdict = 'tie' WHERE id = 30", "labels of tiny.r1"),
        ("UPDATE decisions SET verdict = 'approve', approver = 'ada'", "its decision is not the one"),
        ("DELETE FROM decisions", "has lost"),
        ("UPDATE decisions SET approver_kind = 'human'", "approver_kind"),
        ("UPDATE decisions SET reason = 'because'", "reason"),
        ("UPDATE decisions SET evidence_digest = 'f'", "evidence_digest"),
        ("UPDATE gates SET state = 'expired' WHERE round = 1", "gate tiny.r1: its state"),
        ("UPDATE campaigns SET config = replace(config, 'simulated', 'human')", "campaign tiny: its configuration"),
        ("UPDATE campaigns SET config_digest = 'f'", "campaign tiny: its config_digest"),
        ("UPDATE campaigns SET inputs = '{\"pairs\":{}}'", "campaign tiny: its inputs"),
        ("UPDATE campaigns SET started_by = 'eve'", "campaign tiny: its started_by"),
        ("UPDATE campaigns SET state = 'active'", "campaign tiny: its state"),
        ("UPDATE versions SET status = 'base' WHERE round = 1", "policy@2: its status"),
        ("UPDATE versions SET parent = 7 WHERE round = 1", "policy@2: its parent"),
        ("UPDATE versions SET lineage = replace(lineage, 'torch', 'touch') WHERE round = 1", "policy@2: its lineage"),
        ("UPDATE versions SET lineage = '{}' WHERE status = 'base'", "policy@1: its lineage"),
        ("UPDATE campaigns SET kept_version = 77", "campaign tiny: its next round would start from version 77"),
        ("UPDATE campaigns SET kept_version = NULL", "campaign tiny: its next round would start from nothing"),
        ("DELETE FROM versions WHERE round = 1", "version policy@2: it is in the ledger, but the table has lost it"),
        ("DELETE FROM stages WHERE stage = 'evaluate' AND round = 1", "tiny round 1 evaluate: the ledger has it"),
        ("UPDATE aliases SET version = 77", "aliases of policy"),
        ("UPDATE batches SET campaign = 'other' WHERE id = 'tiny.r1'", "batch tiny.r1: its campaign"),
        ("UPDATE batches SET round = 7 WHERE id = 'tiny.r1'", "batch tiny.r1: its round"),
        ("DELETE FROM batches WHERE id = 'tiny.r1'", "batch tiny.r1: it is in the ledger, but the table has lost it"),
        ("UPDATE checkpoints SET model_id = 'm-1' WHERE kind = 'reward_model'", "its model_id"),
        ("DELETE FROM checkpoints WHERE kind = 'reward_model'", "the table has lost it"),
        ("UPDATE events SET actor = 'eve' WHERE seq = 9", "event 9"),
        ("DELETE FROM events WHERE seq > 20", "tail was cut"),
    ],
)
def test_each_kind_of_tampering_is_named(finished: Project, statement: str, named: str):
    """With the triggers dropped, whatever is rewritten in the database is found."""
    assert rewrite(finished, statement) > 0
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
    newest = list_versions(finished.store)[-1]
    assert f"checkpoint {newest.digest[:12]} (policy@{newest.version})" in found
    assert "more.bin" in found
    assert "labels of tiny up to round 1" in found


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file, whose size and times stay as they were."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda source: flip(source / "one.jsonl"), "one.jsonl has other bytes"),
    (lambda source: (source / "one.jsonl").unlink(), "one.jsonl is missing"),
    (lambda source: (source / "more.jsonl").write_text("{}"), "more.jsonl does not belong"),
    (lambda source: (source / "link").symlink_to("one.jsonl"), "link is a symbolic link"),
]


def rewrite(project: Project, *statements: str) -> int:
    """Runs statements on the ledger's file as another program would, the triggers dropped; returns the rows changed."""
    connection = sqlite3.connect(project.state / "ledger.db")
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    rows = sum(connection.execute(statement).rowcount for statement in statements)
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return rows


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE stages SET output = '{' WHERE stage = 'evaluate' AND round = 1", "tiny round 1 evaluate: its output"),
        ("UPDATE stages SET output = '{' WHERE stage = 'snapshot'", "snapshot: its output"),
        ("UPDATE events SET payload = '{' WHERE seq = 9", "event 9"),
        ("UPDATE events SET payload = '[]' WHERE seq = 9", "its payload is no JSON object"),
        ("UPDATE events SET time = x'00' WHERE seq = 9", "event 9 was altered"),
        ("UPDATE gates SET evidence = '{' WHERE round = 1", "gate tiny.r1: its evidence"),
        ("UPDATE campaigns SET config = '{'", "campaign tiny: its configuration"),
        ("UPDATE versions SET lineage = '{' WHERE round = 1", "has not the form that was written"),
        ("DROP TABLE labels", "no such table: labels"),
        ("DROP TABLE events", "no such table: events"),
    ],
)
def test_damage_is_named_and_does_not_end_the_verification(finished: Project, statement: str, named: str):
    """Text that is no JSON, a wrong type and a dropped table are findings like any other."""
    rewrite(finished, "PRAGMA foreign_keys=OFF", statement)
    assert any(named in finding for finding in findings(finished))


def test_an_overwritten_page_is_named_with_the_database(finished: Project):
    """Pages of the database full of other bytes give findings that name its file, not an error of SQLite."""
    store = finished.store
    assert store.event_count() > 0
    store.close()
    rewrite(finished)
    path = finished.state / "ledger.db"
    content = bytearray(path.read_bytes())
    connection = sqlite3.connect(path)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()
    connection.close()
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)
    found = verify(finished, None).findings
    assert any("ledger.db cannot be read" in finding.what for finding in found)
    assert all(finding.remedy for finding in found)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda heads: heads.unlink(), "the file of signed heads is gone"),
        (lambda heads: heads.write_bytes(heads.read_bytes() + b"\xff\n"), "was altered"),
        (lambda heads: heads.write_bytes(heads.read_bytes() + b'{"seq":1e400}\n'), "was altered"),
        (lambda heads: heads.write_bytes(heads.read_bytes() + b"[" * 100_000 + b"\n"), "was altered"),
        (lambda heads: heads.write_bytes(b"".join(heads.read_bytes().splitlines(True)[:8])), "the newest signed head is"),
        (lambda heads: heads.write_bytes(b""), "the newest signed head is that of event 0"),
        (lambda heads: (heads.unlink(), heads.mkdir()), "ledger-heads.jsonl cannot be read"),
    ],
)
def test_a_spoilt_file_of_signed_heads_is_named(finished: Project, spoil: Callable[[Path], object], named: str):
    """Gone, cut, emptied or filled with what is no head, the file is a finding, and the only one."""
    spoil(finished.store.heads.file)
    (found,) = verify(finished, None).findings
    assert found.where.startswith(("signed heads", "event"))
    assert named in found.what


def test_a_signing_key_that_is_a_directory_is_named(finished: Project):
    """What lies in the key's place and cannot be read is named with its path."""
    finished.store.heads.key_file.unlink()
    finished.store.heads.key_file.mkdir()
    (found,) = verify(finished, None).findings
    assert "signing.key cannot be read" in found.what
    assert "backup" in found.remedy


def test_a_campaign_does_not_go_on_from_a_ledger_whose_tail_was_cut(finished: Project):
    """`advance` refuses where an event that was signed is gone, and writes nothing."""
    last = finished.store.event_count()
    machine.prepare(finished, "tiny")
    rewrite(finished, f"DELETE FROM events WHERE seq = {last}")
    with pytest.raises(LedgerError, match=f"event {last} was signed"):
        machine.advance(finished, "tiny")
    assert finished.store.event_count() == last - 1


@pytest.mark.parametrize(("damage", "named"), DAMAGE)
def test_source_data_are_compared_with_their_pointer(finished: Project, damage: Callable[[Path], object], named: str):
    """One byte, a missing, an extra and a linked file in data/ are found and named."""
    source = finished.data / "visits"
    (source / "corpus.jsonl").rename(source / "one.jsonl")
    snapshot.freeze(finished.root, finished.data)
    assert findings(finished) == []
    damage(source)
    (found,) = findings(finished)
    assert found.startswith("source data: ")
    assert named in found


@pytest.mark.parametrize(("damage", "named"), DAMAGE)
def test_a_campaigns_frozen_copy_of_the_preferences_is_compared_with_the_ledger(
    finished: Project, damage: Callable[[Path], object], named: str
):
    """The same for the copy of a preference file, whose digests stand in the campaign's own record."""
    with_pairs(finished)
    assert findings(finished) == []
    damage(finished.state / "snapshots" / "people-source")
    (found,) = findings(finished)
    assert found.startswith("source data of people: ")
    assert named in found


def with_pairs(project: Project) -> None:
    """Records the data stage of a campaign on files, its copy under the name one.jsonl."""
    from rlback.campaign.context import StageResult
    from rlback.campaign.plan import Step

    frozen = project.state / "snapshots" / "people-source"
    frozen.mkdir(parents=True)
    (frozen / "one.jsonl").write_text('{"prompt": "p", "chosen": "x", "rejected": "y"}\n')
    (frozen / "two.jsonl").write_text("")
    version = snapshot.freeze(project.root, frozen)
    output = {"data_version": version.md5, "sha256": version.sha256, "files": 2, "pairs": 1}
    (project.root / "pairs.jsonl").write_text("{}")
    tree = changed(name="people", source={"world": None}, labels={"annotators": "human", "initial": 0})
    tree["base"]["training"]["window"] = tree["base"]["shape"]["max_positions"]
    inputs = {"pairs": project.root / "pairs.jsonl"}
    name = machine.start(project, check_config(tree, "people"), Actor("ada", "human"), inputs=inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlback.campaign.stages_labels.run_data", lambda context: StageResult(output))
        machine.run_step(project, name, Step(0, "data"), MlflowStore(project.root))


def test_the_pointer_and_the_manifests_are_not_trusted_blindly(finished: Project):
    """A lost pointer, a pointer turned to altered data without our sum, and an altered manifest are findings."""
    pointer, good = finished.root / "data.dvc", (finished.root / "data.dvc").read_text()
    pointer.unlink()
    assert findings(finished) == [f"source data: data.dvc is missing, so nothing says what {finished.data} should hold"]
    pointer.write_text("outs: []")
    assert "data.dvc is not a pointer" in findings(finished)[0]
    pointer.write_text(good)
    assert findings(finished) == []
    flip(finished.data / "visits" / "corpus.jsonl")
    (manifest,) = (finished.state / "manifests").glob(f"{snapshot.pointer(finished.root, finished.data).md5}.json")
    manifest.write_text(manifest.read_text().replace("corpus", "other"))
    assert "was altered" in findings(finished)[0]


def test_a_pointer_of_dvc_alone_is_compared_by_md5(finished: Project):
    """Without our SHA-256 in data.dvc whole data pass, and a flipped bit is named all the same."""
    pointer = finished.root / "data.dvc"
    pointer.write_text(pointer.read_text().partition("meta:")[0])
    assert findings(finished) == []
    flip(finished.data / "visits" / "corpus.jsonl")
    assert "corpus.jsonl has other bytes" in findings(finished)[0]


def test_data_that_were_replaced_since_are_looked_for_in_the_cache(finished: Project):
    """A newer version in data/ is no finding; a damaged cached copy of the version a campaign used is one."""
    (finished.data / "visits" / "corpus.jsonl").write_text("{}\n")
    used = snapshot.pointer(finished.root, finished.data)
    assert used is not None
    snapshot.freeze(finished.root, finished.data)
    result = verify(finished, MlflowStore(finished.root))
    assert (result.findings, result.sources) == ([], 2)
    copies = sorted((finished.root / ".dvc" / "cache" / "files" / "md5").rglob("*"), key=lambda p: p.stat().st_size)
    flip(copies[-1])
    (found,) = findings(finished)
    assert found.startswith(f"source data {used.md5}: DVC's cached copy of visits/corpus.jsonl")


def test_without_data_or_before_they_are_made_there_is_nothing_to_find(finished: Project):
    """data/ taken away is no finding, and neither is a data/ that a new campaign is about to make."""
    kept = finished.root / "elsewhere"
    shutil.move(finished.data, kept)
    assert findings(finished) == []
    (finished.data / "visits").mkdir(parents=True)
    (finished.data / "visits" / "corpus.jsonl").write_text("half")
    assert findings(finished) != []
    machine.start(finished, check_config(TINY, "tiny"), Actor("ada", "human"), name="next")
    assert findings(finished) == []


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE campaigns SET finish_reason = 'approved'", "campaign tiny: its finish_reason"),
        ("UPDATE campaigns SET created = '2001-01-01T00:00:00.000Z'", "campaign tiny: its created is not when"),
        ("UPDATE stages SET cache_key = 'another' WHERE stage = 'base'", "tiny round 0 base: its cache_key"),
        ("UPDATE stages SET cache_key = 'k' WHERE stage = 'optimise' AND round = 1", "tiny round 1 optimise: its cache_key"),
        ("UPDATE stages SET finished = '2001-01-01T00:00:00.000Z' WHERE stage = 'decide'", "decide 1: its finished"),
        ("UPDATE batches SET attempt = 0 WHERE id = 'tiny.r1'", "batch tiny.r1: its attempt 0"),
        ("UPDATE batches SET annotators = 'human' WHERE id = 'tiny.r1'", "batch tiny.r1: it was not made for human annotators"),
        ("UPDATE gates SET attempt = 2 WHERE id = 'tiny.r1'", "gate tiny.r1: its attempt 2"),
        ("UPDATE gates SET opened = '2001-01-01T00:00:00.000Z' WHERE id = 'tiny.r1'", "gate tiny.r1: its opened"),
        ("UPDATE decisions SET time = '2001-01-01T00:00:00.000Z'", "decision at gate tiny.r1: its time"),
        ("UPDATE decisions SET time = 'yesterday'", "decision at gate tiny.r1: its time"),
        ("UPDATE versions SET created = '2001-01-01T00:00:00.000Z' WHERE round = 1", "version policy 2: its created"),
        ("UPDATE labels SET annotator = 'ada' WHERE id = 30", "label 30: its annotator or revision"),
        ("UPDATE labels SET revision = 2 WHERE id = 30", "label 30: its annotator or revision"),
    ],
)
def test_what_a_row_says_beyond_its_main_point_is_compared_too(finished: Project, statement: str, named: str):
    """Moments, attempts, kinds of annotators, reasons to end, and the key by which another campaign takes a base over."""
    assert rewrite(finished, statement) > 0
    assert any(named in finding for finding in findings(finished))


def test_what_was_seen_left_and_when_it_was_labelled_are_compared(project: Project):
    """Which completion somebody saw left is part of what they said; so is when."""
    made_campaign(project)
    batch = made_batch(project, 2)
    record_label(project.store, f"{batch}.0", Actor("anna", "human"), "a", "a")
    assert findings(project) == []
    rewrite(project, "UPDATE labels SET time = '2001-01-01T00:00:00.000Z'")
    assert findings(project) == [f"label {batch}.0 anna 1: its time is not when the ledger recorded it"]
    rewrite(project, "UPDATE labels SET left_side = 'b'")
    assert "label 1: it is not the one in the ledger" in findings(project)


def test_a_session_or_token_put_in_by_hand_is_named(finished: Project):
    """Whoever can write to the database could else decide in another's name; what was made in order is no finding."""
    store, admin = finished.store, Actor("root", "human")
    add_user(store, "paula", "a long enough password", ("approver",), admin)
    user = find_user(store, "paula")
    open_session(store, "paula", "127.0.0.1")
    _, token = make_token(store, user, "script", ("look",), 30)
    assert findings(finished) == []
    rewrite(finished, "INSERT INTO sessions SELECT 'f00', user, opened, seen, expires FROM sessions")
    assert findings(finished) == ["session of paula: no event in the ledger opened it like that"]
    rewrite(finished, "DELETE FROM sessions WHERE digest = 'f00'")
    rewrite(finished, "UPDATE sessions SET expires = expires + 1e9")
    assert findings(finished) == ["session of paula: no event in the ledger opened it like that"]
    rewrite(finished, "DELETE FROM sessions")
    assert findings(finished) == []
    for column, value in (("digest", "'f00'"), ("scopes", "'decide look'"), ("expires", "1e12"), ("revoked", "1")):
        rewrite(finished, f"CREATE TABLE kept AS SELECT {column} FROM tokens", f"UPDATE tokens SET {column} = {value}")
        assert findings(finished) == [f"token {token.id}: its {column} is not as in the ledger"]
        rewrite(finished, f"UPDATE tokens SET {column} = (SELECT {column} FROM kept)", "DROP TABLE kept")
    assert findings(finished) == []
    revoke_token(store, token.id, admin, None)
    rewrite(finished, "UPDATE tokens SET revoked = 0")
    assert any("revoked" in found for found in findings(finished))


def test_a_guideline_rewritten_behind_the_labels_is_named(finished: Project):
    """Every label names the version that was in force."""
    add_guideline(finished.store, "The truer one.", Actor("ada", "human"), after=0)
    assert findings(finished) == []
    rewrite(finished, "UPDATE guidelines SET text = 'The longer one.'")
    assert findings(finished) == ["guideline 1: its digest is not as in the ledger"]


def test_a_registry_that_was_lost_is_named_and_never_made_anew(finished: Project):
    """MLflow's database gone: verify, advance and deploy name it and the backup, and none makes an empty one in its place."""
    database = finished.root / "mlruns" / "mlflow.db"
    aside = database.with_name("aside.db")
    database.rename(aside)
    for left in database.parent.glob("mlflow.db-*"):
        left.unlink()
    (found,) = verify(finished, MlflowStore(finished.root)).findings
    assert f"{database} is gone" in found.what
    assert "backup" in found.remedy
    with pytest.raises(RegistryError, match="is gone"):
        machine.mend_mirrors(finished)
    with pytest.raises(RegistryError, match="is gone"):
        machine.prepare(finished, "tiny")
    assert not database.exists()
    # Made anew by another program, or put back from before the versions: just as well nothing is built on it.
    MlflowStore(finished.root).prepare()
    with pytest.raises(RegistryError, match=r"has policy@1 .* but MLflow at .*mlflow.db has no such version"):
        machine.prepare(finished, "tiny")
    assert {f.remedy for f in verify(finished, MlflowStore(finished.root)).findings} == {"restore mlruns/ from a backup"}


def test_source_data_that_are_nowhere_any_more_are_a_finding(finished: Project):
    """Gone from data/ they can be had from DVC's cache; gone from both, with no remote, nobody can look at them again."""
    shutil.rmtree(finished.data)
    assert findings(finished) == []
    shutil.rmtree(finished.root / ".dvc" / "cache")
    (found,) = findings(finished)
    assert "neither in" in found
    with (finished.root / ".dvc" / "config").open("a") as config:
        config.write("    remote = far\n['remote \"far\"']\n    url = /far\n")
    assert findings(finished) == []
