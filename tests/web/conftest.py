"""The console with its real application, as people with different roles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from rlback.accounts.users import add_user
from rlback.project import Project
from rlback.records import Actor
from rlback.web.app import make_app
from rlback.web.guard import Guard
from tests.web.screens import WIDTHS
from tests.web.stories import two_campaigns

#: How long a browser is waited for; the machine may be busy with other tests.
PATIENCE_MS = 30_000
BASE = "http://127.0.0.1:8700"
PASSWORD = "correct horse battery"
PEOPLE = {
    "root": ["admin"], "ann": ["annotator"], "bob": ["annotator"], "eve": ["approver"], "joe": ["approver", "annotator"],
    "ada": ["approver"], "max": ["auditor"], "oli": ["operator"],
}  # fmt: skip


@pytest.fixture(scope="session")
def story_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of `stories.two_campaigns`, with an account for each of `PEOPLE`."""
    root = tmp_path_factory.mktemp("stories") / "p"
    project = two_campaigns(root)
    for name, roles in PEOPLE.items():
        add_user(project.store, name, PASSWORD, roles, Actor("root", "human"))
    project.store.close()
    return root


@pytest.fixture
def story(story_template: Path, copied: Callable[[Path], Project]) -> Project:
    """A copy of that project."""
    return copied(story_template)


@pytest.fixture
def app(story: Project) -> Guard:
    """Its console."""
    return make_app(story)


class Browser(TestClient):
    """A client that fills in forms as a browser does: Origin, cookies and the page's CSRF token."""

    def csrf(self, page: str = "/account") -> str:
        """The token on a page."""
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get(page, headers={"accept": "text/html"}).text)
        assert found, page
        return found[1]

    def fill(self, path: str, fields: dict[str, object] | None = None, *, page: str = "/account", **headers: str):
        """Posts a form from a page of ours; the answer is asked for as JSON."""
        return self.post(
            path, data={"csrf": self.csrf(page), **(fields or {})},
            headers={"origin": BASE, "accept": "application/json", **headers}, follow_redirects=False,
        )  # fmt: skip

    def twin(self, path: str):
        """A page's JSON twin."""
        answer = self.get(path, headers={"accept": "application/json"})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def anybody(app: Guard) -> Browser:
    """Somebody who is not signed in."""
    return Browser(app, base_url=BASE, raise_server_exceptions=False)


@pytest.fixture
def as_(app: Guard) -> Callable[[str], Browser]:
    """Signs somebody in: as_("ann")."""

    def sign_in(name: str) -> Browser:
        browser = Browser(app, base_url=BASE, raise_server_exceptions=False)
        answer = browser.fill("/sign-in", {"name": name, "password": PASSWORD}, page="/sign-in")
        assert answer.status_code == 200, answer.text
        return browser

    return sign_in


@pytest.fixture
def viewport() -> tuple[int, int]:
    """Width and height of `page`; a module may have its own."""
    return WIDTHS["wide"]


@pytest.fixture
def page(browser: Any, viewport: tuple[int, int]) -> Iterator[Any]:
    """A page that notes what its console complains of and what pops up."""
    width, height = viewport
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = context.new_page()
    opened.complaints = []
    opened.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda e: opened.complaints.append(str(e)))
    opened.on("dialog", lambda d: (opened.complaints.append(f"dialog {d.message}"), d.dismiss()))
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    context.close()
