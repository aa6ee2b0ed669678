"""Practice over HTTP."""

from __future__ import annotations

import json

from rlback.labelling import practice
from rlback.records import Actor
from tests.labelling.made import gold, made_batch
from tests.web.lean import enter, people  # noqa: F401  (fixtures)


def test_a_new_annotator_is_led_to_practice_first(enter, people):  # noqa: F811
    """The page leads there, says what was expected only after the answer, and lets go at the end."""
    batch = made_batch(people, 5, practice=gold(2))
    ann = enter("ann")
    led = ann.get(f"/label/{batch}", headers={"accept": "text/html"}, follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, f"/label/{batch}/practice")
    for number in (1, 2):
        twin = ann.twin(f"/label/{batch}/practice")
        assert set(twin["item"]) == {"number", "of", "prompt", "left", "right"}
        assert "answer" not in json.dumps(twin["item"])
        item = practice.next_item(people.store, batch, Actor("ann", "human"))
        choice = "left2" if item.left == item.answer else "right2"
        told = ann.fill(f"/label/{batch}/practice", {"number": number, "choice": choice}).json()
        assert told["right"] is True
    assert ann.twin(f"/label/{batch}/practice")["standing"] == {"items": 2, "answered": 2, "right": 2}
    there = ann.get(f"/label/{batch}", headers={"accept": "text/html"}, follow_redirects=False)
    assert there.status_code == 200
    assert "question" in there.text
    assert ann.fill(f"/label/{batch}/practice", {"number": "x", "choice": "left1"}).status_code == 422
    assert enter("eve").get(f"/label/{batch}/practice", headers={"accept": "application/json"}).status_code == 403
