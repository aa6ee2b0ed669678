"""Journeys through the console with a real browser, by keyboard."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import select

from rlback.ledger.console_tables import label_details
from rlback.ledger.tables import labels
from rlback.registry.gates import find_gate
from tests.web.conftest import PASSWORD
from tests.web.screens import PAGES, serving, sign_in

pytestmark = pytest.mark.slow


@pytest.fixture
def address(story):
    """The console over the stories' project."""
    with serving(story) as at:
        yield at


def expect(*args):
    # Waits by looking again and again; waiting for a function would need an eval, which the policy forbids.
    from playwright.sync_api import expect as patient

    return patient(*args)


def saved(page) -> None:
    expect(page.locator("#saved")).to_have_text(re.compile(r"^saved \d\d:\d\d:\d\d$"))


def moved_on(page, before: str) -> None:
    expect(page.locator("input[name=comparison]")).not_to_have_value(before)


def comparison(page) -> str:
    return page.locator("input[name=comparison]").input_value()


def test_an_annotator_labels_by_keys_alone(page, address, story):
    """Sign in, three labels, an undo, both bad that asks for a flag: from the keyboard, each saved before it is said."""
    sign_in(page, address, "ann", PASSWORD)
    page.goto(f"{address}/label")
    for key in ("1", "3"):
        before = comparison(page)
        page.keyboard.press(key)
        moved_on(page, before)
        saved(page)
    third = comparison(page)
    page.keyboard.press("b")
    assert page.locator("#trouble").inner_text().startswith("Say with a flag")
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    moved_on(page, third)
    page.keyboard.press("u")
    expect(page.locator("input[name=comparison]")).to_have_value(third)
    assert page.locator("#saved").inner_text() == "taken back"
    rows = story.store.rows(select(labels).where(labels.c.annotator == "ann").order_by(labels.c.id))
    details = story.store.rows(select(label_details.c.choice).order_by(label_details.c.label))
    assert [d.choice for d in details] == ["left2", "equal", "both-bad", "undo"]
    assert [r.verdict for r in rows] == [rows[0].left_side, "tie", "tie", "skip"]
    assert page.locator("#labelled").inner_text() == "3"
    assert page.complaints == []


def test_a_label_that_did_not_arrive_is_not_called_saved(page, address, story):
    """The console cannot be reached: it says so, keeps the comparison, and the same key works later."""
    sign_in(page, address, "ann", PASSWORD)
    page.goto(f"{address}/label/helper.r1")
    before = comparison(page)
    page.context.set_offline(True)
    page.keyboard.press("2")
    expect(page.locator("#saved")).to_have_text("not saved", timeout=20_000)
    assert comparison(page) == before
    assert "does not answer" in page.locator("#trouble").inner_text()
    assert story.store.rows(select(labels).where(labels.c.annotator == "ann")) == []
    page.context.set_offline(False)
    page.keyboard.press("2")
    saved(page)
    assert len(story.store.rows(select(labels).where(labels.c.annotator == "ann"))) == 1


def test_a_whole_batch_ends_in_the_empty_page(page, address, story):
    """Sixteen comparisons, one key each; then nothing is left, and a second opinion is offered."""
    sign_in(page, address, "ann", PASSWORD)
    page.goto(f"{address}/label/helper.r1")
    for n in range(16):
        page.keyboard.press("24"[n % 2])
        expect(page.locator("#labelled")).to_have_text(str(n + 1))
        saved(page)
    page.get_by_text("Nothing is left for you").wait_for()
    assert page.get_by_text("Give second opinions").is_visible()
    rows = story.store.rows(select(labels.c.comparison).where(labels.c.annotator == "ann"))
    assert len({r.comparison for r in rows}) == len(rows) == 16


def test_an_approver_finds_the_evidence_and_declines(page, address, story):
    """From the start page to the decision; without a reason the browser says so first."""
    sign_in(page, address, "eve", PASSWORD)
    page.get_by_text("Look at the evidence").click()
    decline = page.get_by_role("button", name=re.compile("Decline"))
    decline.click()
    assert find_gate(story.store, "writer.r3").state == "open"
    page.locator("textarea[name=reason]").fill("says less than before")
    decline.click()
    page.get_by_text("Declined, and on record.").wait_for()
    decision = find_gate(story.store, "writer.r3").decision
    assert (decision["verdict"], decision["approver"], decision["reason"]) == ("decline", "eve", "says less than before")
    assert page.complaints == []


def test_going_back_by_the_timeline(page, address, story):
    """Roll back to this, plan, reason, typed confirmation, and the timeline tells it."""
    from rlback.registry.operations import list_aliases

    sign_in(page, address, "oli", PASSWORD)
    page.goto(f"{address}/policies/writer")
    page.get_by_text("Roll back to this").click()
    page.get_by_text("gate writer.r3 expires undecided").wait_for()
    page.locator("textarea[name=reason]").fill("people complain")
    page.locator("input[name=confirm]").fill("writer@1")
    page.get_by_role("button", name=re.compile("Roll back")).click()
    page.get_by_text("Rolled back, and on record.").wait_for(timeout=60_000)
    assert list_aliases(story.store, "writer")["approved"] == 1


def test_an_auditor_verifies_the_ledger(page, address):
    """One button, and the answer."""
    sign_in(page, address, "max", PASSWORD)
    page.goto(f"{address}/ledger")
    page.get_by_role("button", name="Verify now").click()
    page.get_by_text("The ledger holds").wait_for()
    assert page.complaints == []


@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_the_window_and_none_complains(page, address, width):
    """On a phone and on a desk: no sideways scrolling, no blocked style or script."""
    page.set_viewport_size({"width": width, "height": 740})
    seen = {"eve": "gate timeline checkpoint ledger batches batch home account", "ann": "label", "root": "users"}
    for name, title in seen.items():
        page.context.clear_cookies()
        sign_in(page, address, name, PASSWORD)
        for one in title.split():
            page.goto(address + PAGES[one])
            assert page.evaluate("document.documentElement.scrollWidth") <= width, one
    assert page.complaints == []


def test_hostile_texts_run_nothing(page, address, story):
    """Scripts and handlers in prompt and completions: no dialog, no error, the text is there to be read."""
    from sqlalchemy import insert

    from rlback.labelling.slots import rebuild
    from rlback.ledger.tables import comparisons
    from rlback.records import canonical_json

    bad = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202eevil"
    side = canonical_json({"text": bad, "ids": [1], "finished": True})
    row = {"id": "helper.r1.900", "batch": "helper.r1", "position": -1, "source": "cross", "prompt": bad, "a": side, "b": side}
    with story.store.transaction() as transaction:
        transaction.execute(insert(comparisons).values(row))
        rebuild(transaction, "helper.r1")
    sign_in(page, address, "ann", PASSWORD)
    page.goto(f"{address}/label/helper.r1")
    for _ in range(17):
        shown = page.locator("#prompt").inner_text()
        if "<script>" in shown:
            break
        before = comparison(page)
        page.keyboard.press("3")
        moved_on(page, before)
    assert "<img src=x onerror=alert(2)>" in page.locator("#left").inner_text()
    assert "⟦U+202E⟧" in page.locator("#right").inner_text()
    assert page.complaints == []


def test_the_first_admin_by_the_printed_address(page, project):
    """The address from the terminal fills in the code; then one can sign in."""
    with serving(project) as at:
        page.goto(f"{at}/setup?code=the-code")
        page.locator("input[name=name]").fill("root")
        page.locator("input[name=password]").fill(PASSWORD)
        page.locator("input[name=again]").fill(PASSWORD)
        page.get_by_role("button", name="Make the first admin").click()
        page.wait_for_url(f"{at}/sign-in?said=user")
        sign_in(page, at, "root", PASSWORD)
        page.get_by_text("There is no policy yet.").wait_for()
    assert page.complaints == []
