"""The OpenAPI document: every form with its fields, read off the code; a 404 is what an error says, not how it words it."""

from __future__ import annotations

import re

from rlback.errors import GateRefused, RegistryError
from rlback.web.refusals import status_of


def test_every_form_lists_its_fields(app):
    """What the pages' forms send is in the document, apart from the CSRF token."""
    paths = app.openapi()["paths"]
    posts = {path: acts["post"] for path, acts in paths.items() if "post" in acts}
    files = [path for path, post in posts.items() if "application/octet-stream" in post["requestBody"]["content"]]
    assert files == ["/campaigns/{campaign}/import"]
    posts = {path: post for path, post in posts.items() if path not in files}
    without = [path for path, post in posts.items() if not _fields(post)]
    assert set(without) <= {"/sign-out", "/account/tokens/{id_}/revoke", "/runs/{id_}/retry", "/runs/{id_}/cancel"}
    decision = _fields(posts["/gates/{id_}/decision"])
    assert decision["verdict"]["enum"] == ["approve", "decline", "more-labels"]
    assert decision["digest"]["maxLength"] == 64
    assert _fields(posts["/label/{batch}/submit"])["flags"]["type"] == "array"
    assert "seconds" in _fields(posts["/label/{batch}/submit"])  # read by a function that is handed the form


def test_what_the_pages_send_is_documented(app):
    """Field names in the templates' forms are a subset of those in the document."""
    from pathlib import Path

    import rlback.web

    paths = app.openapi()["paths"]
    known = {name for acts in paths.values() if "post" in acts for name in _fields(acts["post"])} | {"csrf"}
    folder = Path(rlback.web.__file__).parent / "templates"
    for form in re.findall(r'<form method="post".*?</form>', "".join(p.read_text() for p in folder.glob("*.html")), re.S):
        assert set(re.findall(r'name="([a-z_]+)"', form)) <= known, form[:200]


def test_a_404_is_what_the_error_says():
    """The same words without the mark are a conflict."""
    assert status_of(GateRefused("there is no gate x", missing=True)) == 404
    assert status_of(RegistryError("there is no alias that could be moved")) == 409


def _fields(post):
    return post["requestBody"]["content"].get("application/json", {}).get("schema", {}).get("properties", {})
