"""Deciding in the browser: bound to the evidence, by somebody else's hand, and the first decision stands."""

from __future__ import annotations

import threading

import pytest

from rlback.campaign import machine
from rlback.errors import NotPermitted
from rlback.records import Actor
from rlback.registry.gates import decide as decide_now
from rlback.registry.gates import find_gate
from tests.web.conftest import BASE

GATE = "writer.r3"


def decide(browser, verdict, **fields):
    digest = browser.twin(f"/gates/{GATE}")["digest"]
    return browser.fill(f"/gates/{GATE}/decision", {"verdict": verdict, "digest": digest, **fields})


def test_the_page_says_what_would_replace_what_and_shows_no_gold(as_):
    """Candidate, start, verdict table, interval with n, plan; the gold reward is nowhere."""
    eve = as_("eve")
    found = eve.twin(f"/gates/{GATE}")
    assert (found["candidate"]["address"], found["start"]["address"]) == ("writer@4", "writer@2")
    rate = next(r for r in found["verdicts"] if r["metric"].startswith("win rate"))
    assert rate["new"]["n"] == 12
    assert rate["ok"] == (rate["new"]["value"] >= 0.5)
    assert {m["name"]: m["value"] for m in found["monitors"]}["optimiser steps"] == 4
    assert any("goes back to writer@2" in line for line in found["decline_plan"])
    page = eve.get(f"/gates/{GATE}").text
    assert "gold" not in page
    assert found["digest"] in page
    assert "gold" not in eve.get("/policies/writer").text


def test_samples_say_why_they_are_shown(as_):
    """Drawn, and what the reward model likes least; which side is which stays for the reader to ask."""
    page = as_("eve").twin(f"/gates/{GATE}")
    assert {"drawn", "lowest by the reward model, against start"} <= {sample["why"] for sample in page["samples"]}
    assert as_("eve").get(f"/gates/{GATE}").text.count("lowest by the reward model, against start") == sum(
        sample["why"].startswith("lowest") for sample in page["samples"]
    )


def test_an_approval_is_recorded_with_who_and_on_what(as_, story):
    """The state, the decision, its event, and what to do next."""
    answer = decide(as_("eve"), "approve", reason="reads well")
    assert answer.status_code == 200, answer.text
    assert answer.json()["next"] == "rlback advance writer"
    gate = find_gate(story.store, GATE)
    assert (gate.state, gate.decision["approver"], gate.decision["reason"]) == ("approved", "eve", "reads well")
    event = story.store.events("writer")[-1]
    assert (event.kind, event.actor, event.payload["evidence"]) == ("gate.decided", "eve", gate.digest)


def test_the_plan_of_a_decline_is_what_happens(as_, story):
    """Decline, carry on, and compare: status, aliases and the checkpoint the policy stays at."""
    from rlback.registry.operations import get_version, list_aliases

    assert decide(as_("eve"), "decline", reason="says less").status_code == 200
    machine.advance(story, "writer")
    assert get_version(story.store, "writer", 4).status == "declined"
    assert list_aliases(story.store, "writer") == {"approved": 2}
    assert machine.load_campaign(story, "writer").kept_version == 2
    assert story.absolute(get_version(story.store, "writer", 4).location).is_dir()


@pytest.mark.parametrize(("verdict", "reason"), [("decline", "  "), ("more-labels", " "), ("decline", "\u200b\u2066\u3164")])
def test_a_decline_or_a_call_for_more_labels_needs_a_reason(as_, story, verdict, reason):
    """Blanks are none, nor is what nobody can see."""
    assert decide(as_("eve"), verdict, reason=reason).status_code == 409
    assert find_gate(story.store, GATE).state == "open"


@pytest.mark.parametrize(("digest", "status"), [("0" * 64, 409), ("", 422), ("abc", 422)])
def test_a_stale_digest_is_refused(as_, story, digest, status):
    """What was seen is not what would be decided on."""
    answer = as_("eve").fill(f"/gates/{GATE}/decision", {"verdict": "approve", "digest": digest})
    assert answer.status_code == status
    assert find_gate(story.store, GATE).state == "open"


def test_even_twelve_digits_are_too_few_in_the_browser(as_, story):
    """The terminal takes a prefix that a person types; a page sends all of it."""
    digest = find_gate(story.store, GATE).digest
    assert as_("eve").fill(f"/gates/{GATE}/decision", {"verdict": "approve", "digest": digest[:12]}).status_code == 422


def test_the_second_decision_is_told_whose_the_first_was(as_):
    """409 with name, verdict and time."""
    assert decide(as_("eve"), "approve").status_code == 200
    answer = decide(as_("joe"), "decline", reason="no")
    assert answer.status_code == 409
    assert "approve by eve" in answer.json()["error"]["message"]


def test_of_two_decisions_at_the_same_instant_exactly_one_stands(as_, story):
    """Two approvers press at once: one 200, one 409, one decision, one event."""
    browsers = [as_("eve"), as_("joe")]
    digest = find_gate(story.store, GATE).digest
    tokens = [b.csrf() for b in browsers]
    barrier, outcomes = threading.Barrier(2), []

    def press(browser, token, verdict):
        barrier.wait()
        answer = browser.post(
            f"/gates/{GATE}/decision", headers={"origin": BASE, "accept": "application/json"},
            data={"csrf": token, "verdict": verdict, "digest": digest, "reason": "at once"},
        )  # fmt: skip
        outcomes.append(answer.status_code)

    threads = [
        threading.Thread(target=press, args=(b, t, v)) for b, t, v in zip(browsers, tokens, ("approve", "decline"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [200, 409]
    events = [e for e in story.store.events("writer") if e.kind == "gate.decided" and e.payload["gate"] == GATE]
    assert len(events) == 1


def test_who_started_the_campaign_does_not_approve_it(as_, story):
    """Ada may decline, not approve; the page says so, and the terminal refuses her too."""
    ada = as_("ada")
    assert "started campaign writer" in ada.twin(f"/gates/{GATE}")["objection"]
    answer = decide(ada, "approve")
    assert answer.status_code == 403
    assert "somebody else must approve" in answer.json()["error"]["message"]
    gate = find_gate(story.store, GATE)
    with pytest.raises(NotPermitted):
        decide_now(story.store, GATE, "approve", Actor("Ada", "human"), digest=gate.digest, reason="")
    assert decide(ada, "decline", reason="on second thoughts").status_code == 200


def test_who_gave_most_labels_does_not_approve(as_, story):
    """Joe gave all the labels of round 1 of helper: `objection` says how many; eve has none against her."""
    from rlback.labelling.batches import record_label, unlabelled
    from rlback.registry.four_eyes import objection_now

    for item in unlabelled(story.store, "helper.r1"):
        record_label(story.store, item.id, Actor("joe", "human"), "a", "a", 1.0)
    assert "16 of the 16 labels" in objection_now(story.store, "helper", 1, "joe")
    assert objection_now(story.store, "helper", 1, "eve") is None


def test_before_there_are_accounts_one_person_may_work_alone(at_gate):
    """No users: the one who started the campaign approves, as ever."""
    gate = find_gate(at_gate.store, "person.r1")
    decide_now(at_gate.store, gate.id, "approve", Actor("ada", "human"), digest=gate.digest, reason="")
    assert find_gate(at_gate.store, gate.id).state == "approved"


def test_who_may_not_decide_is_refused(as_, anybody):
    """An auditor and an operator look; an annotator does not even that; nobody else gets in."""
    for name in ("max", "oli", "root"):
        assert as_(name).twin(f"/gates/{GATE}")["may_decide"] is False
        assert decide(as_(name), "approve").status_code == 403
    assert anybody.get(f"/gates/{GATE}", headers={"accept": "application/json"}).status_code == 401


def test_a_role_taken_away_while_the_page_is_open_counts_at_once(as_, story):
    """Eve's page is open; the admin makes her an auditor; her approval is refused."""
    from rlback.accounts.users import set_roles

    eve = as_("eve")
    digest, token = eve.twin(f"/gates/{GATE}")["digest"], eve.csrf()
    set_roles(story.store, "eve", ["auditor"], Actor("root", "human"))
    answer = eve.post(
        f"/gates/{GATE}/decision", data={"csrf": token, "verdict": "approve", "digest": digest},
        headers={"origin": BASE, "accept": "application/json"},
    )  # fmt: skip
    assert answer.status_code == 403
    assert find_gate(story.store, GATE).state == "open"


def test_an_unknown_gate_is_404_and_names_the_open_one(as_):
    """With the remedy of the command line."""
    answer = as_("eve").get("/gates/writer.r9", headers={"accept": "application/json"})
    assert answer.status_code == 404
    assert GATE in answer.json()["error"]["remedy"]


def test_could_approve_names_everybody_with_what_stands_against_them(as_):
    """Eve and joe may, ada may not."""
    found = {c["name"]: c["objection"] for c in as_("max").twin(f"/gates/{GATE}")["could_approve"]}
    assert set(found) == {"ada", "eve", "joe"}
    assert found["eve"] is None
    assert "started" in found["ada"]
