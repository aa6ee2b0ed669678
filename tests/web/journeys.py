"""How long the console takes people: `python -m tests.web.journeys [--json]`; ends with 1 where one takes over a minute.

Four journeys through a real browser, the story of `stories`: an annotator labels ten pairs by keyboard, an approver declines
and sees the tree change, a second account approves what the starter may not, an auditor finds who approved what was deployed
on a day. The seconds are the program's own: nobody reads or thinks in them. What the pages do is tested in `test_browser`.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlback.accounts.users import add_user
from rlback.campaign import machine
from rlback.project import Project, make_project
from rlback.records import Actor
from rlback.registry.deployments import deploy
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import get_version
from tests.web.conftest import PASSWORD, PEOPLE
from tests.web.screens import chromium, serving, sign_in
from tests.web.stories import two_campaigns

BAR_S = 60.0


def label_ten(page: Any, address: str, project: Project) -> None:
    """Ten pairs, a key each, every one said to be saved."""
    del project
    sign_in(page, address, "ann", PASSWORD)
    page.goto(f"{address}/label/helper.r1")
    for n in range(10):
        page.keyboard.press("24"[n % 2])
        page.locator("#labelled", has_text=re.compile(rf"^{n + 1}$")).wait_for()
        page.locator("#saved", has_text=re.compile("^saved ")).wait_for()


def decline(page: Any, address: str, project: Project) -> None:
    """From the start page to the decision; the campaign goes on, and the tree shows the way back."""
    sign_in(page, address, "eve", PASSWORD)
    page.get_by_text("Look at the evidence").click()
    page.locator("textarea[name=reason]").fill("says less than before")
    page.get_by_role("button", name=re.compile("Decline")).click()
    page.get_by_text("Declined, and on record.").wait_for()
    machine.advance(project, "writer")
    page.goto(f"{address}/policies/writer")
    page.get_by_text("writer@4 declined").first.wait_for()


def approve_as_another(page: Any, address: str, project: Project) -> None:
    """Who started the campaign may not approve; a second account does."""
    del project
    sign_in(page, address, "ada", PASSWORD)
    page.goto(f"{address}/gates/writer.r3")
    page.get_by_text("You may not approve here").wait_for()
    page.get_by_role("button", name="Sign out").or_(page.get_by_role("link", name="Sign out")).first.click()
    sign_in(page, address, "eve", PASSWORD)
    page.goto(f"{address}/gates/writer.r3")
    page.locator("textarea[name=reason]").fill("reads better")
    page.get_by_role("button", name=re.compile("^Approve")).click()
    page.get_by_text("Approved, and on record.").wait_for()


def who_approved(page: Any, address: str, project: Project) -> None:
    """What was deployed on a day, and who approved it."""
    target = get_version(project.store, "writer", 2)
    deploy(project, MlflowStore(project.root), target, Actor("oli", "human"), "best so far")
    sign_in(page, address, "max", PASSWORD)
    page.goto(f"{address}/policies/writer")
    page.locator("input[name=on]").fill(datetime.now(UTC).date().isoformat())
    page.get_by_role("button", name="Look it up").click()
    page.get_by_text("approved by ann").first.wait_for()


JOURNEYS: tuple[tuple[str, Callable[[Any, str, Project], None]], ...] = (
    ("annotator: ten pairs by keyboard", label_ten),
    ("approver: decline, and see the tree change", decline),
    ("second approver: approve what the starter may not", approve_as_another),
    ("auditor: who approved what was deployed on a day", who_approved),
)


def main(as_json: bool) -> int:
    """Makes a project for each journey, and times it from the sign-in page on."""
    seconds: dict[str, float] = {}
    for name, journey in JOURNEYS:
        with tempfile.TemporaryDirectory() as temporary:
            two_campaigns(Path(temporary) / "p")
            project = make_project(Path(temporary) / "p")
            for person, roles in PEOPLE.items():
                add_user(project.store, person, PASSWORD, roles, Actor("root", "human"))
            with serving(project) as address, chromium() as browser:
                page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
                began = time.monotonic()
                journey(page, address, project)
                seconds[name] = round(time.monotonic() - began, 1)
            project.store.close()
        if not as_json:
            print(f"{seconds[name]:6.1f} s  {name}", flush=True)
    if as_json:
        print(json.dumps({"seconds": seconds, "bar": BAR_S}))
    return 0 if max(seconds.values()) <= BAR_S else 1


if __name__ == "__main__":
    sys.exit(main("--json" in sys.argv))
