"""By keyboard alone: every control is reached by Tab in the order of the page, seen when it has the focus, and named."""

from __future__ import annotations

import itertools

import pytest

from rlback.accounts.users import add_user
from rlback.records import Actor
from rlback.registry.gates import find_gate
from rlback.registry.operations import list_aliases
from tests.web.conftest import PASSWORD
from tests.web.screens import CHROMIUM, _add_configurations, chromium, serving, sign_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed (apt-get install chromium)"),
]
EVERYTHING = ["annotator", "approver", "operator", "auditor", "emergency", "admin"]
PATHS = (
    "/", "/label/helper.r1?practice=skip", "/gates", "/gates/writer.r3", "/gates/writer.r3/break-glass", "/runs",
    "/policies/writer", "/policies/writer/1/roll-back", "/policies/writer/2/deploy", "/policies/writer/2/withdraw",
    "/checkpoints/writer@2", "/batches", "/batches/helper.r0", "/ledger", "/guideline", "/users", "/account", "/campaigns/new",
    "/campaigns/new?config=demo.yaml&plan=1", "/sign-in",
)  # fmt: skip

#: The focused element: what it is, its accessible name by label, text or aria, where it is, and how its focus is drawn.
FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  const labels = e.labels ? [...e.labels].map((l) => l.innerText).join(" ") : "";
  const name = (e.getAttribute("aria-label") || labels || e.innerText || e.title || "").trim();
  return { tag: e.tagName, name, text: e.outerHTML.slice(0, 120), x: box.x, y: box.y + scrollY, w: box.width, h: box.height,
    outline: parseFloat(style.outlineWidth) * (style.outlineStyle !== "none"),
    id: e.dataset.seen || (e.dataset.seen = String(Math.random())) };
}"""
#: Controls that should be reached: visible, enabled, not taken out on purpose. Radio groups take one Tab; we have none.
CONTROLS = """() => [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary")]
  .filter((e) => !e.disabled && e.tabIndex >= 0 && e.checkVisibility({ visibilityProperty: true }) && !e.closest(".skip"))
  .map((e) => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright", reason="playwright is not installed")
    with chromium() as started:
        yield started


def walk(page, most: int = 400) -> list[dict]:
    """What has the focus at each press of Tab, from the top of the page until it begins again."""
    page.locator(".skip").focus()  # the first of every page; a field with autofocus would be where Tab goes on from
    seen: list[dict] = []
    for number in range(most):
        if number:
            page.keyboard.press("Tab")
        at = page.evaluate(FOCUSED)
        if seen and at and at["id"] == seen[-1]["id"]:
            continue  # a date has a stop for each of its parts
        if at is None or any(at["id"] == earlier["id"] for earlier in seen):
            break
        seen.append(at)
    return seen


def to(page, words: str, most: int = 200) -> None:
    """Presses Tab until something with these words in its name has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUSED)
        if at and words in at["name"]:
            return
    raise AssertionError(f"{words!r} is not reached by Tab on {page.url}")


def test_every_control_is_reached_in_order_seen_and_named(browser, story):
    """On every page, wide: as many stops as controls, none without a name, an outline, or far above the one before it."""
    add_user(story.store, "all", PASSWORD, EVERYTHING, Actor("root", "human"))
    _add_configurations(story.configs)
    faults = []
    with serving(story) as address:
        page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
        for path in reversed(PATHS):
            if path != "/sign-in" and page.url.endswith("/sign-in"):
                sign_in(page, address, "all", PASSWORD)
            page.goto(address + path)
            page.wait_for_timeout(100)
            stops, controls = walk(page), page.evaluate(CONTROLS)
            faults += [f"{path}: no name: {s['text']}" for s in stops if not s["name"]]
            faults += [f"{path}: no outline: {s['text']}" for s in stops if s["outline"] < 2]
            faults += [
                f"{path}: the focus jumps up by {one['y'] - two['y']:.0f} px to {two['text']}"
                for one, two in itertools.pairwise(stops)
                # Things side by side may stand a little higher than what comes before them.
                if two["y"] + two["h"] < one["y"] - 60 and two["x"] <= one["x"]
            ]
            missed = [c for c in controls if c not in {s["text"] for s in stops}]
            faults += [f"{path}: not reached: {c}" for c in missed if "data-seen" not in c and not _seen(c, stops)]
    assert not faults, "\n".join(faults)


def _seen(control: str, stops: list[dict]) -> bool:
    """A stop's mark of having been seen is part of its text by then."""
    plain = control.split(" data-seen")[0][:60]
    return any(stop["text"].split(" data-seen")[0][:60] == plain for stop in stops)


def test_label_decide_go_back_and_start_without_a_pointer(browser, story):
    """Tab, keys and Enter from sign-in to the record; the focus is back at the page's beginning after each."""
    add_user(story.store, "all", PASSWORD, EVERYTHING, Actor("root", "human"))
    _add_configurations(story.configs)
    with serving(story) as address:
        page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
        page.set_default_timeout(60_000)
        sign_in(page, address, "all", PASSWORD)
        # Label: a choice by Tab and Enter, not by its key.
        page.goto(f"{address}/label/helper.r1?practice=skip")
        to(page, "Equal")
        page.keyboard.press("Enter")
        page.locator("#saved", has_text="saved ").wait_for()
        # Decline at the gate: the browser asks for the reason before the server would.
        page.goto(f"{address}/gates/writer.r3")
        to(page, "Decline, roll back")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.name") == "reason"
        page.keyboard.type("says less")
        to(page, "Decline, roll back")
        page.keyboard.press("Enter")
        page.wait_for_url("**/gates/writer.r3?said=decline")
        assert find_gate(story.store, "writer.r3").state == "declined"
        # Roll back to the base.
        page.goto(f"{address}/policies/writer/1/roll-back")
        to(page, "Reason")
        page.keyboard.type("the approved one flatters")
        page.keyboard.press("Tab")
        page.keyboard.type("writer@1")
        page.keyboard.press("Enter")
        page.wait_for_url("**/policies/writer?said=rolled-back")
        assert list_aliases(story.store, "writer")["approved"] == 1
        # Start a campaign.
        page.goto(f"{address}/runs")
        to(page, "Start a campaign")
        page.keyboard.press("Enter")
        page.wait_for_url("**/campaigns/new")
        to(page, "Choose demo.yaml")
        page.keyboard.press("Enter")
        page.wait_for_url("**config=demo.yaml")
        to(page, "Seed")
        page.keyboard.type("5")
        to(page, "Show the plan")
        page.keyboard.press("Enter")
        page.wait_for_url("**seed=5**")
        to(page, "Start campaign demo")
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs?said=campaign-waits")
        assert "rlback advance" in page.locator("main").inner_text()
    (started,) = [e for e in story.store.events("demo") if e.kind == "campaign.started"]
    assert (started.actor, started.payload["seed"]) == ("all", 5)
