"""Every page and its JSON twin, by the people who may see it; going back; the ledger."""

from __future__ import annotations

import json
import re

import pytest

from rlback.registry.operations import list_aliases
from tests.web.conftest import BASE

PAGES = (
    "/", "/gates", "/gates/writer.r3", "/gates/writer.r1", "/policies/writer", "/policies/writer?on=2030-01-01",
    "/policies/writer/1/roll-back", "/checkpoints/writer@2", "/checkpoints/writer@approved?files=true", "/ledger",
    "/ledger?kind=stage.done&until=2100-01-01", "/batches", "/batches/helper.r0", "/account",
)  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_a_json_twin(as_, path):
    """As HTML with the strict policy, as JSON by Accept and by suffix."""
    eve = as_("eve")
    page = eve.get(path, headers={"accept": "text/html"})
    assert page.status_code == 200, page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert "unsafe" not in page.headers["content-security-policy"]
    plain, _, query = path.partition("?")
    by_suffix = eve.get(f"{plain if plain != '/' else '/index'}.json" + (f"?{query}" if query else "")).json()
    assert by_suffix.keys() == eve.twin(path).keys()


@pytest.mark.parametrize("path", [*PAGES, "/users", "/label/helper.r1"])
def test_no_page_has_inline_scripts_styles_or_anything_from_elsewhere(as_, path):
    """Nothing that the policy would block, and no address of another host."""
    name = {"/users": "root", "/label/helper.r1": "ann"}.get(path, "eve")
    page = as_(name).get(path, headers={"accept": "text/html"}).text
    assert not re.search(r"<script(?![^>]*\ssrc=)", page)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    addresses = re.findall(r'(?:src|href|action|formaction)="([^"]*)"', page)
    assert addresses
    assert all(address.startswith(("/", "#", "?")) and not address.startswith("//") for address in addresses)


def test_the_start_page_says_what_waits_for_whom(as_):
    """The strip of stages, since when, and one thing to do for an approver."""
    found = as_("eve").twin("/")
    writer = next(c for c in found["campaigns"] if c["campaign"] == "writer")
    assert (writer["round"], writer["waits"]["whom"], writer["waits"]["subject"]) == (3, "an approver", "writer.r3")
    assert [s["state"] for s in writer["strip"] if s["stage"] == "decide"] == ["waits"]
    assert [w["href"] for w in found["waiting_for_you"]] == ["/gates/writer.r3"]
    approved = next(p for p in found["policies"] if p["policy"] == "writer")["approved"]
    assert approved["checkpoint"] == "writer@2"


def test_the_timeline_tells_the_rollback_once_with_its_reason(as_):
    """Four checkpoints and one rollback, newest first, and the tree beside them."""
    found = as_("eve").twin("/policies/writer")["entries"]
    assert [e["checkpoint"] for e in found if e["what"] == "checkpoint"] == ["writer@4", "writer@3", "writer@2", "writer@1"]
    back = [e for e in found if e["what"] == "rollback"]
    assert [(b["from"], b["to"], b["reason"], b["by_hand"]) for b in back] == [
        ("writer@3", "writer@2", "flatters, and says less", False)
    ]
    page = as_("eve").get("/policies/writer").text
    assert page.count("<svg") == 2


def test_what_was_approved_on_a_day(as_):
    """Nothing before the first day, writer@2 today."""
    eve = as_("eve")
    assert eve.twin("/policies/writer?on=2001-01-01")["held_then"]["approved"] is None
    assert eve.twin("/policies/writer?on=2999-01-01")["held_then"]["approved"] == "writer@2"
    assert eve.get("/policies/writer?on=tomorrow", headers={"accept": "application/json"}).status_code == 422


def test_rolling_back_needs_reason_and_typed_confirmation_and_does_what_the_plan_says(as_, story):
    """Dry run, two refusals, then the rollback: the alias moves, the open gate expires."""
    oli = as_("oli")
    path = "/policies/writer/1/roll-back"
    plan = oli.twin(path)["plan"]
    assert "gate writer.r3 expires undecided" in plan
    assert oli.fill(path, {"reason": "people complain", "confirm": "writer@2"}).status_code == 422
    assert oli.fill(path, {"reason": " ", "confirm": "writer@1"}).status_code == 409
    assert list_aliases(story.store, "writer")["approved"] == 2
    answer = oli.fill(path, {"reason": "people complain", "confirm": "writer@1"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["plan"] == plan
    assert list_aliases(story.store, "writer")["approved"] == 1
    newest = oli.twin("/policies/writer")["entries"][0]
    assert (newest["to"], newest["reason"], newest["actor"], newest["by_hand"]) == ("writer@1", "people complain", "oli", True)


def test_only_some_roll_back(as_):
    """An auditor sees the plan and may not."""
    path = "/policies/writer/1/roll-back"
    assert as_("max").twin(path)["may_roll_back"] is False
    assert as_("max").fill(path, {"reason": "x", "confirm": "writer@1"}).status_code == 403


def test_going_back_to_what_was_never_approved_is_refused_before_anybody_asks(as_):
    """The plan says why."""
    found = as_("oli").twin("/policies/writer/3/roll-back")
    assert "never approved" in found["refused"]


def test_an_audit_page_has_what_the_command_has(as_, story):
    """The twin holds the record of `rlback audit --json`, and checks files when asked."""
    from rlback.registry.lineage import audit
    from rlback.registry.operations import resolve

    found = as_("max").twin("/checkpoints/writer@2?files=true")
    expected = json.loads(json.dumps(audit(story, resolve(story.store, "writer@2"))))
    assert {key: found[key] for key in ("digest", "rounds", "data", "reward_model")} == {
        key: expected[key] for key in ("digest", "rounds", "data", "reward_model")
    }
    assert found["files"]["whole"] is True
    assert len({e["seq"] for e in found["events"]}) == len(found["events"])


def test_altered_weights_are_seen(as_, story):
    """One flipped byte: the audit page says which file, and a rollback there would be refused."""
    from rlback.registry.operations import get_version

    weights = story.absolute(get_version(story.store, "writer", 1).location) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    found = as_("max").twin("/checkpoints/writer@1?files=true")["files"]
    assert found["whole"] is False
    assert "model.safetensors" in found["why"]
    assert as_("oli").twin("/policies/writer/1/roll-back")["refused"]


def test_the_lineage_is_on_the_page_and_in_its_twin(as_, story):
    """Six columns of linked cards with their origin in words; an altered label is a mark that can be read, on its card."""
    from tests.registry.test_verification import rewrite

    max_ = as_("max")
    shown = max_.get("/checkpoints/writer@2", headers={"accept": "text/html"}).text
    headings = ("Data", "Labels", "Reward models", "Policies", "Gates", "Deployments")
    places = [shown.index(f"<h3>{title}</h3>") for title in headings]
    assert places == sorted(places)
    for href in ("/batches/writer.r1", "/checkpoints/writer@3", "/gates/writer.r1"):
        assert f'<a href="{href}">' in shown
    assert "from: reward model writer.r0, writer@1" in shown
    assert "does not hold" not in shown
    assert {n["side"] for n in max_.twin("/checkpoints/writer@2")["graph"]["nodes"]} == {"itself", "behind", "ahead", "both"}
    rewrite(story, "UPDATE labels SET verdict = 'tie' WHERE comparison = 'writer.r1.3'")
    shown = max_.get("/checkpoints/writer@2", headers={"accept": "text/html"}).text
    card = shown[shown.index('id="batch:writer.r1"') :].partition("</li>")[0]
    assert "does not hold: labels of writer.r1: they are not those in the ledger" in card
    assert shown.count("does not hold:") == 1


def test_the_ledger_is_filtered_and_paged(as_):
    """By kind, subject and actor; a hundred a page, older ones behind a link."""
    max_ = as_("max")
    everything = max_.twin("/ledger")
    assert everything["matching"] == everything["length"]
    assert len(everything["events"]) == 100
    rest = max_.twin(f"/ledger?before={everything['older']}")["events"]
    assert rest[0]["seq"] == everything["older"] - 1
    assert {e["kind"] for e in max_.twin("/ledger?kind=rolled-back")["events"]} == {"rolled-back"}
    assert {e["actor"] for e in max_.twin("/ledger?actor=bea")["events"]} == {"bea"}
    assert max_.twin("/ledger?subject=helper&since=2999-01-01")["events"] == []


def test_verify_now_says_that_it_holds_and_what_does_not(as_, story):
    """Whole first; then a version's status is changed behind the ledger's back."""
    max_ = as_("max")
    assert max_.fill("/ledger/verify").json()["result"]["holds"] is True
    whole = max_.fill("/ledger/verify", {"files": "on"}).json()["result"]
    assert (whole["holds"], whole["checkpoints"] > 0) == (True, True)
    with story.store.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE versions SET status = 'approved' WHERE policy = 'writer' AND version = 3")
    found = max_.fill("/ledger/verify").json()["result"]
    assert found["holds"] is False
    assert "writer@3" in json.dumps(found["findings"])


def test_a_users_row_changed_behind_the_ledgers_back_is_a_finding(as_, story):
    """Somebody makes himself approver in the database: verify says so."""
    with story.store.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE users SET roles = 'annotator approver' WHERE name = 'ann'")
    found = as_("max").fill("/ledger/verify").json()["result"]
    assert [f["where"] for f in found["findings"]] == ["user ann"]


def test_batch_quality_counts_what_was_labelled(as_):
    """Six comparisons, three of them twice; coefficients with n and reasons; a row for each annotator."""
    found = as_("eve").twin("/batches/helper.r0")
    assert (found["comparisons"], found["labels"], found["twice"]) == (6, 9, 3)
    assert found["alpha_nominal"]["units"] == 3
    assert {a["annotator"]: a["labels"] for a in found["annotators"]} == {"bea": 6, "cy": 3}
    assert found["pairs"][0]["kappa"]["units"] == 3
    empty = as_("eve").twin("/batches/helper.r1")
    assert (empty["labels"], empty["alpha_nominal"]["value"]) == (0, None)
    assert empty["alpha_nominal"]["reason"]


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/gates/none.r1", "/batches/none", "/policies/none", "/checkpoints/writer@99", "/policies/writer/99/roll-back",
     "/static/../app.py", "/static/none.js", "/label/none"],
)  # fmt: skip
def test_what_is_not_there_is_404_or_refused_in_the_one_shape(as_, path):
    """As JSON and as a page."""
    eve = as_("ann" if path.startswith("/label") else "eve")
    answer = eve.get(path, headers={"accept": "application/json"})
    assert answer.status_code == 404, answer.text
    assert set(answer.json()["error"]) == {"status", "kind", "message", "remedy"}
    page = eve.get(path, headers={"accept": "text/html"})
    assert page.status_code == 404
    assert "<h1>404" in page.text


def test_openapi_names_every_page(anybody):
    """The description is served, and holds every path that a page has."""
    paths = anybody.get("/openapi.json").json()["paths"]
    assert {"/", "/gates/{id_}", "/gates/{id_}/decision", "/label/{batch}/submit", "/ledger/verify"} <= set(paths)
    assert all(act.get("summary") for acts in paths.values() for act in acts.values())


def test_an_approvers_way_through_by_forms(as_, story):
    """Without JSON: the page, the form, and back to the page that says it is on record."""
    eve = as_("eve")
    page = eve.get("/gates/writer.r3", headers={"accept": "text/html"}).text
    digest = re.search(r'name="digest" value="([0-9a-f]{64})"', page)[1]
    answer = eve.post(
        "/gates/writer.r3/decision", headers={"origin": BASE, "accept": "text/html"},
        data={"csrf": eve.csrf("/gates/writer.r3"), "digest": digest, "verdict": "decline", "reason": "no"},
    )  # fmt: skip
    assert answer.status_code == 200
    assert "Declined, and on record." in answer.text
