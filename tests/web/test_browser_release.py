"""Journeys with a real browser through the pages that are rare and weigh much: runs, deploy, the glass, two approvals."""

from __future__ import annotations

import pytest

from rlback.accounts.users import add_user
from rlback.records import Actor
from rlback.registry.gates import find_gate
from rlback.registry.operations import list_aliases
from tests.orchestration.fake_prefect import fake_prefect
from tests.web.conftest import PASSWORD
from tests.web.screens import PAGES, WIDTHS, serving, sign_in

pytestmark = pytest.mark.slow


@pytest.fixture
def viewport():
    """A phone's."""
    return WIDTHS["narrow"]


def fits(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, page.url


def test_an_operator_deploys_and_carries_a_campaign_on(page, story, monkeypatch):
    """Deploy from the policy's page by keyboard; after a decision the Runs page starts the flow run."""
    from rlback.registry.gates import decide

    gate = find_gate(story.store, "writer.r3")
    decide(story.store, gate.id, "decline", Actor("eve", "human"), digest=gate.digest, reason="says less")
    with fake_prefect() as prefect:
        monkeypatch.setenv("PREFECT_API_URL", prefect.url)
        prefect.add("writer", "FAILED", "Failed", "the disk is full")
        with serving(story) as address:
            sign_in(page, address, "oli", PASSWORD)
            page.goto(f"{address}/policies/writer")
            page.get_by_role("link", name="Deploy").click()
            page.get_by_label("Reason").fill("best so far")
            page.locator("input[name=confirm]").fill("writer@2")
            page.keyboard.press("Enter")
            page.wait_for_url(f"{address}/policies/writer?said=deployed")
            page.goto(f"{address}/runs")
            fits(page)
            page.get_by_role("button", name="Carry on").click()
            page.wait_for_url(f"{address}/runs?said=started")
    assert list_aliases(story.store, "writer")["deployed"] == 2
    assert prefect.runs[-1]["parameters"]["campaign"] == "writer"
    assert page.complaints == []


def test_the_glass_is_broken_with_open_eyes(page, story):
    """The browser holds back a short reason; the start page says it afterwards."""
    add_user(story.store, "sos", PASSWORD, ["emergency"], Actor("root", "human"))
    with serving(story) as address:
        sign_in(page, address, "sos", PASSWORD)
        page.goto(address + PAGES["break-glass"])
        fits(page)
        page.locator("textarea[name=reason]").fill("urgent")
        page.locator("input[name=confirm]").fill("approve writer@4 alone")
        page.get_by_role("button", name="Break the glass").click()
        assert find_gate(story.store, "writer.r3").state == "open"
        page.locator("textarea[name=reason]").fill("the deployed one leaks addresses")
        page.get_by_role("button", name="Break the glass").click()
        page.wait_for_url(f"{address}/gates/writer.r3?said=glass")
        fits(page)
        page.goto(address)
        assert "The glass was broken" in page.locator("main").inner_text()
    assert page.complaints == []
