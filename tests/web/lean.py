"""A console over a batch that was made by hand: nothing is trained, so that it is there in a second."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlback.accounts.users import add_user
from rlback.project import Project
from rlback.records import Actor
from rlback.web.app import make_app
from tests.labelling.made import made_campaign
from tests.web.conftest import BASE, PASSWORD, Browser

ROLES = {
    "root": ["admin"], "ann": ["annotator"], "bob": ["annotator"], "eve": ["approver"], "max": ["auditor"], "oli": ["operator"],
}  # fmt: skip


@pytest.fixture
def people(project: Project) -> Project:
    """A campaign of people's labels, without a batch yet."""
    made_campaign(project)
    return project


@pytest.fixture
def enter(people: Project) -> Callable[[str], Browser]:
    """Signs somebody of `ROLES` in, making the account."""
    app = make_app(people)

    def sign_in(name: str) -> Browser:
        add_user(people.store, name, PASSWORD, ROLES[name], Actor("root", "human"))
        browser = Browser(app, base_url=BASE, raise_server_exceptions=False)
        answer = browser.fill("/sign-in", {"name": name, "password": PASSWORD}, page="/sign-in")
        assert answer.status_code == 200, answer.text
        return browser

    return sign_in
