"""The label page in a browser: differences by a key, conversations by turns, and the page that imports."""

from __future__ import annotations

import json

import pytest

from rlback.accounts.users import add_user
from rlback.ledger.tables import labels
from rlback.records import Actor, Comparison, Completion
from tests.labelling.made import made_batch
from tests.web.conftest import PASSWORD
from tests.web.lean import people  # noqa: F401  (fixture)
from tests.web.screens import CHROMIUM, chromium, serving, sign_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed (apt-get install chromium)"),
]


def test_a_tools_turn_is_set_apart_before_and_after_the_script_draws_it(people):  # noqa: F811
    """The server's page and the next comparison, which the script draws: the same element, with the legend while one is there."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    told = Completion("2+2 = 4. So 4", (9, 8, 7), True, ((1, 2, 3, 7),))
    plain = Completion("Four", (1,), True)
    items = [Comparison(f"q{n}", a, plain, "cross") for n, a in enumerate((told, told, plain))]
    batch = made_batch(people, 3, comparisons=items)
    add_user(people.store, "ann", PASSWORD, ["annotator"], Actor("root", "human"))
    with serving(people) as address, chromium() as browser:
        page = browser.new_context().new_page()
        page.set_default_timeout(60_000)
        sign_in(page, address, "ann", PASSWORD)
        page.goto(f"{address}/label/{batch}")
        seen: set[str] = set()
        while len(seen) < 3:  # in any order
            prompt = page.locator("#prompt").inner_text()
            seen.add(prompt)
            with_tool = prompt != "q2"
            assert page.locator(".sides .tool").count() == with_tool
            assert page.locator("#tools").is_visible() is with_tool
            if with_tool:
                assert page.locator(".sides .tool").evaluate("e => e.textContent") == "[tool:  = 4]"
                assert page.locator(".sides .tool").evaluate("e => e.parentElement.textContent") == "2+2[tool:  = 4]. So 4"
            page.keyboard.press("3")
            page.locator("#labelled", has_text=str(len(seen))).wait_for()
            if len(seen) < 3:
                page.locator("#prompt", has_not_text=prompt).wait_for()
        page.get_by_text("Nothing is left for you").wait_for()


def test_differences_turns_and_an_import_by_hand(people, tmp_path):  # noqa: F811
    """d marks the words that differ and takes the marks off; roles stand above turns; a file is sent and told of."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    sides = (Completion("the red fox runs", (), True), Completion("the blue fox runs away", (), True))
    item = Comparison("\n\nHuman: which?\n\nAssistant: both\n\nHuman: but which?\n\nAssistant:", *sides, "cross")
    batch = made_batch(people, 1, comparisons=[item])
    for name, roles in (("ann", ["annotator"]), ("oli", ["operator"])):
        add_user(people.store, name, PASSWORD, roles, Actor("root", "human"))
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "p", "chosen": "x", "rejected": "y"}) + "\n")
    with serving(people) as address, chromium() as browser:
        page = browser.new_context().new_page()
        complaints: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.set_default_timeout(20_000)
        sign_in(page, address, "ann", PASSWORD)
        page.goto(f"{address}/label/{batch}")
        assert page.locator(".turn .role").all_inner_texts() == ["user", "assistant", "user"]
        page.keyboard.press("d")
        page.locator("#differences[aria-pressed=true]").wait_for()
        assert sorted(page.locator(".sides mark").all_inner_texts()) == ["away", "blue", "red"]
        page.keyboard.press("d")
        page.locator("#differences[aria-pressed=false]").wait_for()
        assert page.locator(".sides mark").count() == 0
        page.keyboard.press("1")
        page.get_by_text("Nothing is left for you").wait_for()
        page.context.clear_cookies()
        sign_in(page, address, "oli", PASSWORD)
        page.goto(f"{address}/batches")
        page.locator("input[type=file]").set_input_files(str(file))
        page.locator("input[name=annotator]").fill("zoe")
        page.get_by_role("button", name="Import all of it").click()
        page.get_by_text("Import 1: 1 labels").wait_for()
        assert complaints == []
    assert len(people.store.rows(labels.select())) == 2
