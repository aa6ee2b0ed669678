"""Several approvals, deadlines, and the glass: what lets a candidate pass, and what never does."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from rlback.accounts.users import User, add_user, set_roles
from rlback.campaign.deadlines import say_overdue
from rlback.errors import GateRefused, NotPermitted
from rlback.ledger.tables import campaigns
from rlback.records import Actor, canonical_json, digest_of
from rlback.registry.break_glass import broken, sentence
from rlback.registry.gates import decide, find_gate
from rlback.registry.quorum import Rule, assigned, missing, standing
from rlback.registry.verification import verify
from tests.conftest import changed

GATE = "person.r1"
ROOT = Actor("root", "human")
PEOPLE = {"root": ["admin"], "ada": ["approver"], "eve": ["approver"], "joe": ["approver", "auditor"], "bob": ["annotator"],
          "sos": ["emergency"]}  # fmt: skip


def user(name: str, *roles: str) -> User:
    return User(name, roles, "active", "", frozenset())


@pytest.mark.parametrize(
    ("rules", "voters", "needed"),
    [
        ([Rule("approver", 2)], [user("a", "approver")], ["1 more by role approver"]),
        ([Rule("approver", 1), Rule("auditor", 1)], [user("a", "approver", "auditor")], ["1 more by role auditor"]),
        # b takes the only place it can, so a gives it up for the other.
        ([Rule("approver", 1), Rule("auditor", 1)], [user("a", "approver", "auditor"), user("b", "approver")], []),
        ([Rule("approver", 2)], [user("a", "auditor"), user("b", "operator")], ["2 more by role approver"]),
    ],
)
def test_one_person_takes_one_place(rules, voters, needed):
    assert missing(rules, voters) == needed
    names = [name for name in assigned(rules, voters) if name]
    assert len(names) == len(set(names))


@pytest.fixture
def two(at_gate):
    """The gate waits for two approvers; ada started the campaign."""
    for name, roles in PEOPLE.items():
        add_user(at_gate.store, name, "correct horse battery", roles, ROOT)
    return at_gate


def configured(project, **gate):
    """Changes the campaign's gate section as if it had been started so; the ledger is not asked about it here."""
    tree = changed(name="person", gate={"approver": "human", **gate})
    with project.store.transaction() as transaction:
        values = {"config": canonical_json(tree), "config_digest": digest_of(tree)}
        transaction.execute(update(campaigns).where(campaigns.c.name == "person").values(**values))
    return project


def approve(project, name: str, **more):
    gate = find_gate(project.store, GATE)
    return decide(project.store, GATE, "approve", Actor(name, "human"), digest=gate.digest, reason=more.pop("reason", ""), **more)


def events(project, kind: str):
    return [e for e in project.store.events("person") if e.kind == kind]


def test_the_second_approval_decides_and_the_first_does_not(two):
    """Votes are events; the decision names all who approved; the same person does not count twice."""
    configured(two, quorum=[{"role": "approver", "count": 2}])
    assert approve(two, "eve").state == "open"
    with pytest.raises(GateRefused, match="eve has approved"):
        approve(two, "eve")
    gate = find_gate(two.store, GATE)
    assert standing(two.store, GATE, "person", 1, gate.digest)["missing"] == ["1 more by role approver"]
    assert approve(two, "joe").state == "approved"
    (decided,) = events(two, "gate.decided")
    assert (decided.actor, decided.payload["approved_by"]) == ("joe", ["eve", "joe"])
    assert [e.actor for e in events(two, "gate.voted")] == ["eve", "joe"]
    assert [f for f in verify(two, None).findings if not f.where.startswith("campaign")] == []


def test_four_eyes_hold_within_a_quorum_and_a_lost_role_does_not_count(two):
    """Who started the campaign may not vote; who lost the role after voting is worth nothing."""
    configured(two, quorum=[{"role": "approver", "count": 2}])
    with pytest.raises(NotPermitted, match="started campaign"):
        approve(two, "ada")
    for stranger in ("bob", "nobody"):
        with pytest.raises(NotPermitted, match="no account that may decide"):
            approve(two, stranger)
    approve(two, "eve")
    set_roles(two.store, "eve", ["auditor"], ROOT)
    assert approve(two, "joe").state == "open"
    assert events(two, "gate.decided") == []


def test_without_accounts_nobody_can_vote_and_the_terminal_says_so(at_gate, capsys, monkeypatch):
    """Names are only claimed there; what is needed is shown all the same."""
    from rlback.__main__ import main

    configured(at_gate, quorum=[{"role": "approver", "count": 2}])
    with pytest.raises(NotPermitted, match="no account that may decide"):
        approve(at_gate, "eve")
    monkeypatch.setenv("RLBACK_PROJECT", str(at_gate.root))
    assert main(["gate", "show", GATE]) == 0
    assert "Still needed: 2 more by role approver" in capsys.readouterr().out


def test_one_decline_decides_whatever_was_voted(two):
    configured(two, quorum=[{"role": "approver", "count": 2}])
    approve(two, "eve")
    gate = find_gate(two.store, GATE)
    assert decide(two.store, GATE, "decline", Actor("joe", "human"), digest=gate.digest, reason="no").state == "declined"
    with pytest.raises(GateRefused, match="decline by joe"):
        approve(two, "ada")


def test_of_two_last_votes_at_once_one_decides(two):
    """Eve and joe at the same instant: two votes, one decision."""
    configured(two, quorum=[{"role": "approver", "count": 1}])
    barrier, outcomes = threading.Barrier(2), []

    def press(name: str) -> None:
        barrier.wait()
        try:
            outcomes.append(approve(two, name).state)
        except GateRefused:
            outcomes.append("refused")

    threads = [threading.Thread(target=press, args=(name,)) for name in ("eve", "joe")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["approved", "refused"]
    assert len(events(two, "gate.decided")) == 1


@pytest.mark.parametrize(("then", "state"), [("wait", "open"), ("decline", "declined")])
def test_a_deadline_is_said_once_and_never_approves(two, then, state):
    """Though the candidate meets its threshold, and though somebody voted for it."""
    configured(two, quorum=[{"role": "approver", "count": 2}], deadline_hours=24, on_deadline=then, win_rate=0)
    approve(two, "eve")
    later = datetime.now(UTC) + timedelta(hours=25)
    assert say_overdue(two) == []
    said = say_overdue(two, later)
    assert "overdue" in said[0]
    assert say_overdue(two, later) == []
    assert find_gate(two.store, GATE).state == state
    assert len(events(two, "gate.overdue")) == 1
    if then == "wait":
        assert approve(two, "joe").state == "approved"  # late is not too late
    else:
        (decided,) = events(two, "gate.decided")
        assert (decided.actor_kind, decided.payload["verdict"]) == ("system", "decline")


def test_the_glass_needs_the_role_a_reason_and_the_sentence_and_is_loud(two):
    """Past quorum and four eyes, not past the evidence or the first decision."""
    configured(two, quorum=[{"role": "approver", "count": 2}])
    words = sentence(find_gate(two.store, GATE).evidence["candidate"]["address"])
    reason = "the serving model leaks addresses"
    with pytest.raises(NotPermitted, match="may not break the glass"):
        approve(two, "eve", reason=reason, break_glass_confirmed=words)
    with pytest.raises(GateRefused, match="at least 20"):
        approve(two, "sos", reason="urgent", break_glass_confirmed=words)
    with pytest.raises(GateRefused, match="type: approve"):
        approve(two, "sos", reason=reason, break_glass_confirmed="yes")
    with pytest.raises(GateRefused, match="digest"):
        decide(two.store, GATE, "approve", Actor("sos", "human"), digest="0" * 64, reason=reason, break_glass_confirmed=words)
    assert broken(two.store) == []
    assert approve(two, "sos", reason=reason, break_glass_confirmed=words).state == "approved"
    assert [(b["by"], b["gate"], b["reason"]) for b in broken(two.store)] == [("sos", GATE, reason)]
    assert events(two, "gate.decided")[0].payload["break_glass"] is True
    with pytest.raises(GateRefused, match="already"):
        approve(two, "sos", reason=reason, break_glass_confirmed=words)


def test_a_vote_cannot_be_changed_or_taken_out(two):
    """The table is append-only, and a vote nobody cast is found."""
    from sqlalchemy import insert
    from sqlalchemy.exc import DatabaseError

    from rlback.ledger.gate_tables import votes

    configured(two, quorum=[{"role": "approver", "count": 2}])
    approve(two, "eve")
    for statement in ("DELETE FROM votes", "UPDATE votes SET approver = 'x'"):
        with pytest.raises(DatabaseError, match="append-only"), two.store.transaction() as transaction:
            transaction.connection.exec_driver_sql(statement)
    with two.store.transaction() as transaction:
        transaction.execute(insert(votes).values(gate=GATE, approver="joe", reason="", evidence_digest="x", time="t"))
    assert any("vote" in f.where and "no event" in f.what for f in verify(two, None).findings)
    assert two.store.first(select(votes.c.approver).where(votes.c.approver == "eve")) is not None
