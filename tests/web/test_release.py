"""Deploying, and the glass, in the browser; the difference at a gate; rollbacks by hand in the tree."""

from __future__ import annotations

import re

import pytest

from rlback.accounts.users import add_user
from rlback.records import Actor
from rlback.registry.gates import find_gate
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import get_version, list_aliases
from rlback.registry.rollback import roll_back
from tests.web.conftest import PASSWORD

GATE = "writer.r3"


@pytest.fixture
def sos(story, as_):
    add_user(story.store, "sos", PASSWORD, ["emergency"], Actor("root", "human"))
    return as_("sos")


def test_an_approved_checkpoint_is_deployed_with_a_reason_and_its_name_typed(as_, story):
    """As `rlback deploy` does it; a base or declined one is refused with what stands against it."""
    oli = as_("oli")
    assert oli.twin("/policies/writer/2/deploy")["refused"] is None
    for fields, status in (({"confirm": "writer@1", "reason": "x"}, 422), ({"confirm": "writer@2"}, 422)):
        assert oli.fill("/policies/writer/2/deploy", fields).status_code == status
    assert "deployed" not in list_aliases(story.store, "writer")
    answer = oli.fill("/policies/writer/2/deploy", {"confirm": "writer@2", "reason": "best so far"})
    assert answer.json()["deployed"] == "writer@2", answer.text
    assert list_aliases(story.store, "writer")["deployed"] == 2
    for number, word in ((1, "is base"), (3, "is declined")):
        assert word in oli.twin(f"/policies/writer/{number}/deploy")["refused"]
        refused = oli.fill(f"/policies/writer/{number}/deploy", {"confirm": f"writer@{number}", "reason": "x"})
        assert refused.status_code == 409
    assert as_("max").fill("/policies/writer/2/deploy", {"confirm": "writer@2", "reason": "x"}).status_code == 403


def test_who_approved_and_who_deployed_what_served_on_a_day(as_, story):
    """Each with the gate; after a rollback to the base by another person, that one, which nobody approved."""
    fields = {"reason": "reads better", "confirm": "writer@2"}
    assert as_("oli").fill("/policies/writer/2/deploy", fields).status_code == 200
    max_ = as_("max")
    page = max_.twin("/policies/writer?on=2999-01-01")["who_then"]
    assert [(w["alias"], w["checkpoint"], w["by"], w["approved_by"], w["gate"]) for w in page] == [
        ("approved", "writer@2", "ann", "ann", "writer.r1"), ("deployed", "writer@2", "oli", "ann", "writer.r1"),
    ]  # fmt: skip
    text = max_.get("/policies/writer?on=2999-01-01", headers={"accept": "text/html"}).text
    assert re.search(r"was deployed since \S+ \S+ UTC by oli <q>reads better</q>; approved by ann at", text)
    assert max_.twin("/policies/writer?on=2001-01-01")["who_then"] == []
    assert as_("oli").fill("/policies/writer/2/withdraw", {**fields, "reason": "leaks"}).status_code == 200
    assert [w["alias"] for w in max_.twin("/policies/writer?on=2999-01-01")["who_then"]] == ["approved"]
    again = {"reason": "all of it flatters", "confirm": "writer@1"}
    assert as_("eve").fill("/policies/writer/1/roll-back", again).status_code == 200
    (base,) = max_.twin("/policies/writer?on=2999-01-01")["who_then"]
    assert (base["checkpoint"], base["by"], base["approved_by"]) == ("writer@1", "eve", None)


def test_the_deployed_checkpoint_is_taken_out_of_service(as_, story):
    """Offered for the deployed one alone, by those who deploy; with a reason and its name typed, as `rlback withdraw` does it."""
    oli, form = as_("oli"), {"confirm": "writer@2", "reason": "leaks addresses"}
    assert not oli.twin("/policies/writer/2/withdraw")["serves"]
    assert oli.fill("/policies/writer/2/withdraw", form).status_code == 409
    oli.fill("/policies/writer/2/deploy", {"confirm": "writer@2", "reason": "best so far"})
    assert "/policies/writer/2/withdraw" in oli.get("/policies/writer").text
    assert "writer@2" in oli.get("/policies/writer/2/withdraw").text
    for fields, status in (({**form, "confirm": "writer@1"}, 422), ({**form, "reason": " "}, 409)):
        assert oli.fill("/policies/writer/2/withdraw", fields).status_code == status
    assert as_("max").fill("/policies/writer/2/withdraw", form).status_code == 403
    assert oli.fill("/policies/writer/2/withdraw", form).json()["withdrawn"] == "writer@2"
    assert "deployed" not in list_aliases(story.store, "writer")


def test_what_a_simulated_approver_passed_is_not_deployed(finished, tmp_path):
    """The page says by whom it was passed."""
    from rlback.web.app import make_app
    from tests.web.conftest import BASE, Browser
    add_user(finished.store, "oli", PASSWORD, ["operator", "admin"], Actor("root", "human"))
    approved = next((a for a in (2, 3) if get_version(finished.store, "policy", a).status == "approved"), None)
    if approved is None:
        pytest.skip("the tiny campaign approved nothing")
    browser = Browser(make_app(finished), base_url=BASE)
    browser.fill("/sign-in", {"name": "oli", "password": PASSWORD}, page="/sign-in")
    assert "simulated approver" in browser.twin(f"/policies/policy/{approved}/deploy")["refused"]
    fields = {"confirm": f"policy@{approved}", "reason": "x"}
    assert browser.fill(f"/policies/policy/{approved}/deploy", fields).status_code == 409


def test_the_glass_is_broken_on_a_page_of_its_own_and_seen_everywhere(sos, as_, story):
    """Wrong words and a short reason change nothing; afterwards home, gate, checkpoint and ledger say it."""
    page = sos.twin(f"/gates/{GATE}/break-glass")
    fields = {"digest": page["digest"], "confirm": page["sentence"], "reason": "the deployed one leaks addresses"}
    assert sos.fill(f"/gates/{GATE}/break-glass", {**fields, "reason": "urgent"}).status_code == 409
    assert sos.fill(f"/gates/{GATE}/break-glass", {**fields, "confirm": "yes"}).status_code == 409
    assert find_gate(story.store, GATE).state == "open"
    assert sos.fill(f"/gates/{GATE}/decision", {"verdict": "approve", "digest": page["digest"]}).status_code == 403
    assert sos.fill(f"/gates/{GATE}/break-glass", fields).status_code == 200
    assert find_gate(story.store, GATE).state == "approved"
    eve = as_("eve")
    assert eve.twin("/")["broken"][0]["by"] == "sos"
    for path in ("/", f"/gates/{GATE}", "/checkpoints/writer@4"):
        assert "leaks addresses" in eve.get(path).text
    assert eve.twin("/ledger?kind=gate.break-glass")["matching"] == 1


@pytest.mark.parametrize("name", ["eve", "root", "oli"])
def test_nobody_else_breaks_it(as_, name):
    """Neither approver nor admin has the permission by that role."""
    browser = as_(name)
    assert browser.get(f"/gates/{GATE}/break-glass", headers={"accept": "application/json"}).status_code == 403
    assert browser.fill(f"/gates/{GATE}/break-glass", {"digest": "0" * 64}).status_code == 403


def test_the_gate_says_what_differs(as_):
    """The reward model was fitted anew; configuration and libraries are as before."""
    rows = as_("eve").twin(f"/gates/{GATE}")["difference"]
    parts = {row["part"]: [] for row in rows}
    for row in rows:
        if row["key"] is not None:
            parts[row["part"]].append(row["key"])
    assert "digest" in parts["reward model"]
    assert parts["configuration"] == parts["libraries"] == []


def test_a_rollback_by_hand_is_in_the_tree(as_, story):
    """Drawn and said."""
    target = get_version(story.store, "writer", 1)
    roll_back(story, MlflowStore(story.root), target, Actor("oli", "human"), "a complaint")
    page = as_("oli").get("/policies/writer").text
    assert "By hand back from writer@2 to writer@1" in page
    assert ">by hand</text>" in page
    assert "base policy, held now" in page
    assert "writer@2 approved, held now" not in page
