"""Requests and texts that are meant to do harm."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from sqlalchemy import insert, select

from rlback.labelling.slots import rebuild
from rlback.ledger.console_tables import users
from rlback.ledger.tables import comparisons, labels
from rlback.records import Actor, canonical_json
from rlback.registry.gates import find_gate
from rlback.web.guard import BODY_BYTES, READS, Buckets
from tests.web.conftest import BASE

XSS = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>{{7*7}}{% raw %}javascript:alert(4)"
BIDI = "safe\u202eevil\u2066 end"


class Handlers(HTMLParser):
    """Collects attributes that a text could only have broken in with."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [f"{tag} {name}" for name, _ in attrs if name.startswith("on") or not name.replace("-", "").isalnum()]


def is_inert(page: str) -> bool:
    if Handlers(page).found:
        return False
    return not any(tag in page for tag in ("<script>alert", "<img", "<svg onload")) and ("{{" not in page or "{{7*7}}" in page)


@pytest.fixture
def poisoned(story):
    """Hostile texts in a prompt, completions, an annotator's name, a reason, and the evidence of an open gate."""
    store = story.store
    side = canonical_json({"text": XSS + BIDI, "ids": [1], "finished": True})
    rows = [
        {"id": f"helper.r1.{900 + n}", "batch": "helper.r1", "position": -n, "source": "cross", "prompt": XSS + BIDI,
         "a": side, "b": side}
        for n in range(2)
    ]  # fmt: skip
    evidence = json.loads(json.dumps(find_gate(store, "writer.r3").evidence))
    evidence["samples"][0] = {"prompt": XSS + BIDI, "candidate": XSS, "start": BIDI, "finished": [True, False]}
    evidence["labels"]["annotators"] = [XSS]
    with store.engine.connect() as connection:
        for row in rows:
            # As another program would write it: half a surrogate pair cannot be bound as text.
            connection.execute(insert(comparisons).values({**row, "prompt": row["prompt"].replace("\ud800", "")}))
        connection.exec_driver_sql("UPDATE gates SET evidence = ? WHERE id = 'writer.r3'", (canonical_json(evidence),))
        connection.execute(
            insert(labels).values(
                comparison="helper.r1.900", annotator=XSS, annotator_kind="human", verdict="a", left_side="a", revision=1,
                time="2026-01-01T00:00:00Z",
            )
        )  # fmt: skip
    with store.transaction() as transaction:
        rebuild(transaction, "helper.r1")
        transaction.event("note.made", "helper", Actor(XSS, "human"), {"text": XSS + BIDI.replace("\ud800", "")})
    return story


@pytest.mark.parametrize(
    "path",
    ["/gates/writer.r3", "/batches/helper.r1", "/ledger", "/ledger?actor=%3Cscript%3Ealert(1)%3C/script%3E", "/policies/writer"],
)
def test_hostile_texts_are_inert_and_their_hidden_characters_are_seen(poisoned, as_, path):
    """In every place that shows a text of somebody's: escaped, and bidi and control characters as marks."""
    page = as_("eve").get(path, headers={"accept": "text/html"})
    assert page.status_code == 200
    assert is_inert(page.text)
    assert "\u202e" not in page.text
    assert "\x00" not in page.text
    if path in ("/gates/writer.r3", "/ledger"):
        assert "⟦U+202E⟧" in page.text
        assert "&lt;script&gt;" in page.text


def test_a_hostile_comparison_is_labelled_like_any_other(poisoned, as_):
    """On the page, in the JSON that the script reads, and in what it is told afterwards."""
    ann = as_("ann")
    page = ann.get("/label/helper.r1?second=true").text
    assert is_inert(page)
    item = ann.twin("/label/helper.r1?second=true")["item"]
    assert item["comparison"] == "helper.r1.900"
    assert ["mark", "U+202E"] in item["prompt"]["pieces"]
    answer = ann.fill(
        "/label/helper.r1/submit",
        {"comparison": item["comparison"], "choice": "left1", "key": "hostile-1", "rationale": XSS + "\u202e"},
    )
    assert answer.status_code == 200, answer.text


def test_a_reason_with_markup_is_stored_as_it_is_and_shown_as_text(as_, story):
    """Lossless in the ledger, inert on the pages that show it."""
    eve = as_("eve")
    digest = eve.twin("/gates/writer.r3")["digest"]
    reason = XSS + "\u202e"
    assert eve.fill("/gates/writer.r3/decision", {"verdict": "decline", "digest": digest, "reason": reason}).status_code == 200
    assert find_gate(story.store, "writer.r3").decision["reason"] == reason
    for path in ("/gates/writer.r3", "/checkpoints/writer@4", "/ledger"):
        page = eve.get(path).text
        assert is_inert(page)
        assert "⟦U+202E⟧" in page


@pytest.mark.parametrize(
    "path", ["/gates/%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/%3Cimg%20src=x%3E", "/checkpoints/%7B%7B7*7%7D%7D"]
)
def test_error_pages_escape_what_was_asked_for(as_, path):
    """The error path is where escaping is forgotten."""
    page = as_("eve").get(path, headers={"accept": "text/html"})
    assert page.status_code in (404, 409, 422)
    assert "<script>alert" not in page.text
    assert "<img" not in page.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403), ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8701"}, 403),
        ({"origin": BASE, "sec-fetch-site": "cross-site"}, 403), ({"origin": "http://127.0.0.1:8700.evil.example"}, 403),
    ],
)  # fmt: skip
def test_a_form_of_another_site_is_refused(as_, story, headers, status):
    """No Origin, another one, `null`, another port, a name that begins alike."""
    eve = as_("eve")
    fields = {"csrf": eve.csrf(), "verdict": "approve", "digest": eve.twin("/gates/writer.r3")["digest"]}
    answer = eve.post("/gates/writer.r3/decision", data=fields, headers={"accept": "application/json", **headers})
    assert answer.status_code == status
    assert find_gate(story.store, "writer.r3").state == "open"


@pytest.mark.parametrize("csrf", [None, "", "0" * 64, "é"])
def test_a_form_without_its_token_is_refused(as_, story, csrf):
    """Missing, empty, made up; and another session's token fits no better."""
    eve, joe = as_("eve"), as_("joe")
    digest = eve.twin("/gates/writer.r3")["digest"]
    for token in (csrf, joe.csrf()):
        fields = {"verdict": "approve", "digest": digest} | ({"csrf": token} if token is not None else {})
        answer = eve.post("/gates/writer.r3/decision", data=fields, headers={"origin": BASE, "accept": "application/json"})
        assert answer.status_code == 403
    assert find_gate(story.store, "writer.r3").state == "open"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:8701", "127.0.0.1.evil.example:8700", "", "localhost"])
def test_another_host_name_is_not_answered(as_, host):
    """DNS rebinding: a name of theirs that leads to this address."""
    answer = as_("eve").get("/gates", headers={"host": host, "accept": "application/json"})
    assert answer.status_code == 403
    assert "host" in answer.json()["error"]["message"]


def test_a_body_of_a_megabyte_is_refused_whether_it_says_so_or_not(as_):
    """With its length, and in pieces without one."""
    eve = as_("eve")
    headers = {"origin": BASE, "accept": "application/json", "content-type": "application/x-www-form-urlencoded"}
    assert eve.post("/gates/writer.r3/decision", content=b"a" * 1_000_000, headers=headers).status_code == 413
    pieces = (b"a" * 1000 for _ in range(1000))
    assert eve.post("/gates/writer.r3/decision", content=pieces, headers=headers).status_code == 413
    assert BODY_BYTES < 1_000_000


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 422), (b"[1]", "application/json", 422), (b'{"a": {"b": 1}}', "application/json", 422),
        (b"[" * 60_000, "application/json", 422), (b"a=%ff%fe", "application/x-www-form-urlencoded", 422),
        (b"&".join(b"a%d=1" % n for n in range(500)), "application/x-www-form-urlencoded", 422),
        (b"x", "text/xml", 415), (b"\xff", "application/x-www-form-urlencoded", 422),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be_read(as_, body, kind, status):
    """Broken, deep, wide, of a kind that is not answered: refused in the one shape."""
    headers = {"origin": BASE, "accept": "application/json", "content-type": kind}
    answer = as_("eve").post("/gates/writer.r3/decision", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["status"] == status


def test_nul_and_surrogates_in_fields_are_refused(as_):
    """As JSON escapes, which a form cannot even hold."""
    eve = as_("eve")
    headers = {"origin": BASE, "accept": "application/json", "content-type": "application/json", "x-csrf-token": eve.csrf()}
    digest = eve.twin("/gates/writer.r3")["digest"]
    for reason in ("a\x00b", "a\ud800b"):
        body = json.dumps({"verdict": "decline", "digest": digest, "reason": reason})
        answer = eve.post("/gates/writer.r3/decision", content=body, headers=headers)
        assert answer.status_code == 422
        assert "reason" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["x" * 200, "a b", "<b>", "ad\u0430", "rlback", "sim-ann", "", "-a", "a\x00b", "ＲＯＯＴ"])
def test_names_that_would_confuse_are_refused(as_, story, name):
    """Too long, blanks, markup, a Cyrillic a, the system's own, NUL, and full-width letters that mean `root`."""
    answer = as_("root").fill("/users", {"name": name, "password": "correct horse", "roles": "annotator"})
    assert answer.status_code == 422, answer.text
    assert len(story.store.rows(select(users))) == 8


def test_too_many_requests_are_told_to_wait(app, anybody):
    """429 with Retry-After, in the one shape; another client is not held up."""
    app.buckets = Buckets(clock=lambda: 0.0)
    answers = [anybody.get("/healthz", headers={"accept": "application/json"}) for _ in range(READS[0] + 1)]
    assert answers[-2].status_code == 200
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"]
    assert anybody.get("/healthz", headers={"accept": "application/json", "cookie": "a=b"}).status_code == 200


def test_made_up_cookies_do_not_get_around_the_limit(app, anybody):
    """A new cookie each time: the address as a whole is told to wait, and where its allowance is set."""
    app.people = 2
    app.buckets = Buckets(clock=lambda: 0.0)
    answers = [anybody.get("/figures.css", headers={"cookie": f"a={n}"}) for n in range(2 * READS[0] + 1)]
    assert [answer.status_code for answer in answers[-2:]] == [200, 429]
    assert "people_per_address in console.yaml" in answers[-1].json()["error"]["remedy"]


def test_buckets_fill_again_and_forget():
    """A second later there is room for `rate` requests; ten thousand clients are not all kept."""
    moment = [0.0]
    buckets = Buckets(clock=lambda: moment[0])
    assert [buckets.take("a", 2, 1.0) for _ in range(3)] == [0, 0, 1.0]
    moment[0] = 1.0
    assert buckets.take("a", 2, 1.0) == 0
    for n in range(10_000):
        buckets.take(f"client {n}", 2, 1.0)
    assert len(buckets._held) <= 4096


def test_a_busy_database_is_503_and_nothing_is_saved(as_, story, monkeypatch):
    """Another process writes for longer than we wait."""
    eve = as_("eve")
    fields = {"verdict": "approve", "digest": eve.twin("/gates/writer.r3")["digest"]}
    token = eve.csrf()
    story.store.engine.dispose()
    monkeypatch.setattr("rlback.ledger.sqlite.BUSY_MS", 50)
    with story.store.engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        answer = eve.post(
            "/gates/writer.r3/decision", data={"csrf": token, **fields}, headers={"origin": BASE, "accept": "application/json"}
        )
        other.exec_driver_sql("ROLLBACK")
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"]
    assert find_gate(story.store, "writer.r3").state == "open"


def test_what_goes_wrong_inside_is_told_without_its_insides(as_, app, monkeypatch):
    """A bug of ours: 500, the one shape, headers and all, and nothing of the traceback."""
    import rlback.web.pages_gate as room

    def broken(*_):
        raise ZeroDivisionError("secret path /root/x")

    monkeypatch.setattr(room, "find_gate", broken)
    answer = as_("eve").get("/gates/writer.r3", headers={"accept": "application/json"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "content-security-policy" in answer.headers
