"""A file of labels sent from the page of batches."""

from __future__ import annotations

import json

from tests.web.conftest import BASE
from tests.web.lean import enter, people  # noqa: F401  (fixtures)


def send(browser, content, path="/campaigns/people/import?annotator=zoe&name=pairs.jsonl", **headers):
    token = {"x-csrf-token": browser.csrf()}
    return browser.post(path, content=content, headers={"origin": BASE, "accept": "application/json", **token, **headers})


def test_an_operator_imports_a_file_larger_than_other_requests(enter, people):  # noqa: F811
    """Ties are counted, the second time is refused, the page lists it with its actor."""
    oli = enter("oli")
    rows = [{"prompt": f"p{n}", "chosen": "x" * 300, "rejected": "y"} for n in range(300)]
    content = "".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "p", "a": "x", "b": "y", "label": "tie"}])
    assert len(content) > 64 * 1024
    answer = send(oli, content)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["labels"], answer.json()["counts"]["tie"]) == (301, 1)
    again = send(oli, content)
    assert again.status_code == 422
    assert "pairs.jsonl was imported before: import 1 by oli" in again.json()["error"]["message"]
    listed = oli.twin("/batches")
    assert [(i["actor"], i["counts"]["tie"]) for i in listed["imports"]] == [("oli", 1)]
    assert listed["batches"][0]["imported"] is True
    assert "Imports" in oli.get("/batches", headers={"accept": "text/html"}).text


def test_who_may_not_import_is_refused(enter, people):  # noqa: F811
    """Auditors and approvers, a form without the page's token, a body that is too large, a line that is wrong."""
    for name in ("max", "eve"):
        assert send(enter(name), "{}").status_code == 403
    oli = enter("oli")
    assert send(oli, "{}", **{"x-csrf-token": "0" * 64}).status_code == 403
    wrong = send(oli, '{"prompt": "p", "chosen": "x", "rejected": "y"}\n{"prompt": 3}\n')
    assert "pairs.jsonl, line 2" in wrong.json()["error"]["message"]
    assert send(oli, b"x" * (17 * 2**20)).status_code == 413
    assert people.store.events("people")[-1].kind == "campaign.started"
