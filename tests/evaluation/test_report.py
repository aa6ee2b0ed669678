"""The report says who won, shows every way back, and lets no text escape its box."""

from __future__ import annotations

import base64
import hashlib
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from rlback.errors import DataError
from rlback.evaluation.figures import curves_figure, nice_ticks
from rlback.evaluation.findings import headline, held, returns, story
from rlback.evaluation.report import moment, write_report
from rlback.evaluation.round_tree import tree_figure
from rlback.evaluation.svg import address, interval, number, visible
from tests.evaluation.report_cases import hostile, nothing_approved, round_of, run_of_points, severe, without_gold


class Page(HTMLParser):
    """What a browser would make of the page: elements with attributes, and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def rendered(data: dict[str, Any], directory: Path) -> Page:
    return Page(write_report(data, directory).read_text(encoding="utf-8"))


def swap_gold(data: dict[str, Any], rollback: float | None, vanilla: float | None) -> dict[str, Any]:
    data["methods"]["rollback"]["gold"] = rollback
    data["methods"]["vanilla"]["gold"] = vanilla
    return data


def test_page_and_figures_are_written_and_nothing_else(tmp_path: Path) -> None:
    """The directory holds the page and its two figures, and no half-written file."""
    page = write_report(severe(), tmp_path / "deep" / "report")
    assert page == tmp_path / "deep" / "report" / "index.html"
    assert {path.name for path in page.parent.iterdir()} == {"index.html", "gold_proxy.svg", "rounds.svg"}


def test_second_report_replaces_the_first(tmp_path: Path) -> None:
    """Writing twice leaves the second report there, and the same data make the same bytes."""
    first = write_report(severe(), tmp_path).read_bytes()
    write_report({**severe(), "title": "Another"}, tmp_path)
    assert b"Another" in (tmp_path / "index.html").read_bytes()
    assert write_report(severe(), tmp_path).read_bytes() == first


@pytest.mark.parametrize(
    ("rollback", "vanilla", "winner", "lead"),
    [(3.41, -2.10, "Rollback RLHF", "5.51"), (1.00, 2.25, "Vanilla RLHF", "1.25")],
)
def test_headline_names_the_method_that_is_ahead(
    rollback: float, vanilla: float, winner: str, lead: str
) -> None:
    """Whichever method has more gold is named, rollback or not."""
    said = headline(swap_gold(severe(), rollback, vanilla))
    assert said.endswith(f"both with 1,024 labels: {winner} is ahead by {lead}.")
    assert said.startswith(f"Rollback RLHF ended at gold {rollback:.2f}, Vanilla RLHF at gold ")


def test_headline_claims_no_winner_without_a_difference() -> None:
    """Two methods whose gold rounds to the same number are not ranked."""
    said = headline(swap_gold(severe(), 2.001, 2.003))
    assert "ahead" not in said
    assert "no difference" in said


def test_headline_says_so_when_label_budgets_differ() -> None:
    """A comparison with unequal budgets shows both budgets."""
    data = severe()
    data["methods"]["vanilla"]["labels"] = 512
    said = headline(data)
    assert "with 1,024 labels and 512 labels" in said
    assert "both" not in said


def test_headline_of_many_methods_names_the_highest_and_the_lowest() -> None:
    """With more than three methods the sentence keeps to first, second and last."""
    data = severe()
    for name, gold in (("Direct human RL", 3.58), ("No rollback", 1.69)):
        data["methods"][name] = {**data["methods"]["vanilla"], "label": name, "gold": gold}
    said = headline(data)
    assert said.startswith(
        "Direct human RL ended highest of 4 methods, at gold 3.58, 0.50 ahead of Rollback RLHF;"
    )
    assert "Vanilla RLHF ended lowest, at −2.10" in said


def test_story_tells_the_ways_back_and_the_fall_from_the_peak() -> None:
    """Two declined rounds from one checkpoint, a peak, and who is below the base are all told."""
    told = " ".join(story(severe()))
    assert "Rollback RLHF went back twice: after rounds 1 and 2 to policy@1. Approved now: policy@5." in told
    assert "Vanilla RLHF passed gold 2.40 at step 48 and went on to −2.10" in told
    assert "gold 1.10; Vanilla RLHF ended below it" in told
    assert "one seed" in told


def test_every_declined_round_has_an_arrow_back_in_both_layouts() -> None:
    """The tree draws as many ways back as rounds were undone, wide and narrow."""
    for width in (1080, 344):
        drawn = tree_figure(severe(), width=width, uid="t")
        assert drawn.count('class="back"') == 2
        assert "round 2 from policy@1 to policy@3: declined, back to policy@1." in drawn


def test_nothing_approved_keeps_the_base(tmp_path: Path) -> None:
    """Four refusals make four ways back, and the page says that the base stays."""
    page = rendered(nothing_approved(), tmp_path)
    assert "Nothing was approved: the base policy@1 stays." in page.text
    assert "base policy, held now" in page.text
    assert "28 %" not in page.text  # of no kept step at all there is no misreward share
    assert (tmp_path / "rounds.svg").read_text(encoding="utf-8").count('class="back"') == 4


def test_a_method_that_trains_on_goes_back_to_nothing() -> None:
    """No-rollback starts each round from the last candidate: no arrow, and it ends with the last one."""
    method = severe()["methods"]["rollback"]
    for k, r in enumerate(method["rounds"], 1):
        r.update(decision="declined", start=f"policy@{k}", candidate=f"policy@{k + 1}")
    method["approved"] = None
    assert returns(method) == {}
    assert held(method, {"name": "policy@1"}) == "policy@5"
    data = {**severe(), "methods": {"no_rollback": method}}
    assert 'class="back"' not in tree_figure(data, width=1080, uid="t")
    assert "trained on from its declined candidates. It ended at policy@5, which was declined." in " ".join(
        story(data)
    )


def test_going_back_two_checkpoints_points_at_the_older_one() -> None:
    """After a decline the arrow ends where the next round starts, not where the declined one began."""
    method = severe()["methods"]["rollback"]
    method["rounds"] = [
        round_of(1, "policy@1", "policy@2", "approved", (1.1, 1.5), 0.6, 9, 2),
        round_of(2, "policy@2", "policy@3", "declined", (1.5, 0.5), 0.4, 9, 2),
        round_of(3, "policy@1", "policy@4", "open", (1.1, 1.2), 0.5, 9, 2),
    ]
    assert returns(method) == {2: "policy@1"}


def test_a_method_without_a_gate_is_called_that(tmp_path: Path) -> None:
    """Its candidate is in the table as passed without a gate, never as approved, and it has no tree."""
    page = rendered(severe(), tmp_path)
    assert "no gate" in page.text
    assert page.text.count("✓ approved") == 2
    assert "Vanilla RLHF" not in (tmp_path / "rounds.svg").read_text(encoding="utf-8")


def test_each_method_may_have_its_own_name_for_the_base() -> None:
    """A campaign whose policy has another name still hangs off its own base, which it may still hold."""
    data = nothing_approved()
    method = data["methods"]["rollback"]
    for k, r in enumerate(method["rounds"], 2):
        r.update(start="other-arm@1", candidate=f"other-arm@{k}")
    assert held(method, data["base"]) == "other-arm@1"
    assert "the base other-arm@1 stays" in " ".join(story(data))
    assert "policy@1" not in tree_figure(data, width=1080, uid="t")


def test_a_diverged_round_is_drawn_without_a_candidate(tmp_path: Path) -> None:
    """Training that diverged is declined and undone like any other, and said to have diverged."""
    data = severe()
    empty = dict.fromkeys(
        ("candidate", "gold", "proxy", "kl", "agreement", "overclaim", "win_rate", "evidence")
    )
    data["methods"]["rollback"]["rounds"][1].update(
        empty, diverged=True, reason="loss is not finite at step 12"
    )
    page = rendered(data, tmp_path)
    assert "training diverged" in page.text
    assert "loss is not finite at step 12" in page.text
    assert "policy@1 → none (round 2)" in page.text
    assert (tmp_path / "rounds.svg").read_text(encoding="utf-8").count('class="back"') == 2


def test_without_gold_no_word_speaks_of_it(tmp_path: Path) -> None:
    """With no gold anywhere, neither the text, the table, the figures nor the headline mention it."""
    page = rendered(without_gold(severe()), tmp_path)
    assert "gold" not in page.text.lower()
    assert "misreward" not in page.text.lower()
    assert "no method is named the better one" in page.text
    assert "Rollback RLHF: 2 of 4 candidates approved" in page.text
    assert "gold" in rendered(severe(), tmp_path).text.lower()


def test_one_method_without_rounds_needs_no_tree(tmp_path: Path) -> None:
    """A lone vanilla run makes a page with one figure."""
    data = severe()
    del data["methods"]["rollback"]
    page = rendered(data, tmp_path)
    assert not (tmp_path / "rounds.svg").exists()
    assert "Vanilla RLHF ended at gold −2.10, with 1,024 labels." in page.text
    assert "one seed" not in page.text


def test_missing_and_infinite_numbers_are_dashes_or_gaps(tmp_path: Path) -> None:
    """A curve with holes, an unbounded KL and an empty curve still make a page and valid SVG."""
    data = severe()
    data["methods"]["rollback"]["curve"][4].update(gold=None, kl=math.inf, proxy=math.nan)
    data["methods"]["rollback"]["kl"] = None
    data["methods"]["vanilla"]["curve"] = []
    data["methods"]["rollback"]["rounds"][0]["win_rate"] = None
    page = rendered(data, tmp_path)
    assert "nan" not in page.text.lower()
    ElementTree.parse(tmp_path / "gold_proxy.svg")
    data["methods"]["rollback"]["curve"] = []
    assert "No point of any curve was recorded." in rendered(data, tmp_path).text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """Markup, template syntax, bidi, escape codes and lone surrogates are shown, never obeyed."""
    page = rendered(hostile(), tmp_path)
    assert not page.all("script")
    assert not page.all("img")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "{{7*7}}" in page.text
    assert "<script>alert(1)</script>" in page.text
    for mark in ("⟦U+202E⟧", "⟦U+200B⟧", "⟦U+001B⟧", "⟦U+DC80⟧"):
        assert mark in page.text
    for name in ("index.html", "gold_proxy.svg", "rounds.svg"):
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert not set("\u202e\u200b\x1b") & set(written)
    for name in ("gold_proxy.svg", "rounds.svg"):
        tags = {element.tag.split("}")[1] for element in ElementTree.parse(tmp_path / name).iter()}
        assert tags <= {"svg", "title", "desc", "style", "rect", "g", "path", "circle", "polygon", "text"}


def test_a_megabyte_of_text_is_cut_and_counted(tmp_path: Path) -> None:
    """Two thousand characters are shown and the rest counted, so the page stays small."""
    page = write_report(hostile(), tmp_path)
    html = page.read_text(encoding="utf-8")
    assert "A" * 2000 + "… (998,000 more)" in html
    assert "A" * 2001 not in html
    assert len(html) < 300_000


def test_visible_keeps_ordinary_text_as_it_is() -> None:
    """Letters of any script, line ends, tabs and emoji pass; Windows line ends become one."""
    assert visible("naïve\tمرحبا 你好 🎉\r\nend") == "naïve\tمرحبا 你好 🎉\nend"
    assert visible("abc", 2) == "ab… (1 more)"
    assert visible("abc", 3) == "abc"


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    """No style attribute, no address but the two figures beside the page; its policy allows one style."""
    html = write_report(severe(), tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    named = [pair for _, attributes in page.elements for pair in attributes.items()]
    addresses = [value for key, value in named if key in ("href", "src")]
    assert addresses == ["gold_proxy.svg", "rounds.svg"]
    assert not [attributes for _, attributes in page.elements if "style" in attributes]
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in html
    assert "@import" not in html
    sheet = re.search(r"<style>(.*?)</style>", html, re.S).group(1)
    allowed = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; style-src 'sha256-{allowed}'"


def test_the_page_can_be_read_without_eyes(tmp_path: Path) -> None:
    """One h1, every header cell has a scope, every picture a title and a description, no id twice."""
    page = rendered(severe(), tmp_path)
    assert len(page.all("h1")) == 1
    assert page.all("html") == [{"lang": "en"}]
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = page.all("svg")
    assert len(pictures) == 4
    for picture in pictures:
        assert picture["role"] == "img"
        assert set(str(picture["aria-labelledby"]).split()) <= set(ids)
    assert len(page.all("figcaption")) == len(page.all("figure")) == 2


def test_simulated_approval_and_broken_ledger_are_said_aloud(tmp_path: Path) -> None:
    """A reader sees that no person approved, and that an unverified trail is not to be relied on."""
    data = severe()
    assert "approver simulated: nothing here can be deployed" in rendered(data, tmp_path).text
    assert "hash chain verified" in rendered(data, tmp_path).text
    data.update(approval={"simulated": False}, ledger={"events": 42, "verified": False})
    text = rendered(data, tmp_path).text
    assert "approver simulated" not in text
    assert "not verified" in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 360, 761, 901, 1000, 1180, 1400])
def test_nothing_scrolls_sideways(browser: Any, tmp_path: Path, width: int) -> None:
    """From a phone to a desk neither the page nor a table or figure in it is wider than its room."""
    path = write_report(severe(), tmp_path)
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(path.as_uri())
    room = "[...document.querySelectorAll('html, .scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)"
    assert page.evaluate(room) == []
    page.close()


def test_data_without_methods_is_refused(tmp_path: Path) -> None:
    """A report of nothing names what is missing and writes no file."""
    with pytest.raises(DataError, match="methods"):
        write_report({**severe(), "methods": {}}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def ending_together(rounds: int, spread: float) -> dict[str, Any]:
    """As `severe`, but all rounds end within `spread` of one point; every fourth is approved."""
    data, draw = severe(), random.Random(1)
    method = next(iter(data["methods"].values()))
    method["curve"], method["rounds"] = [], []
    for round_ in range(1, rounds + 1):
        kl, gold, proxy = (value + spread * draw.random() for value in (5.0, 2.0, 2.2))
        method["curve"] += run_of_points(round_, (0.0, 1.1, 0.0), (kl, gold, proxy), 0.1, round_ % 4 == 0)
        decision = "declined" if round_ % 4 else "approved"
        method["rounds"].append(round_of(round_, "p@1", f"p@{round_ + 1}", decision, (1.1, gold), 0.5, kl, proxy))
    return data


@pytest.mark.parametrize("data", [severe(), ending_together(6, 0.2), ending_together(8, 0.02), ending_together(9, 0.9)])
def test_every_round_is_named_in_the_curves(data: dict[str, Any]) -> None:
    """However close to each other rounds end: those that share a place share a label, and none goes without."""
    named = re.findall(r">rounds? ([\d, ]+?)(?: declined)?<", curves_figure(data, width=860, uid="t"))
    rounds = [r["round"] for r in next(iter(data["methods"].values()))["rounds"]]
    assert sorted(int(word) for words in named for word in words.split(", ")) == rounds


@pytest.mark.parametrize("data", [severe(), ending_together(6, 0.2), ending_together(8, 0.02), ending_together(9, 0.9)])
def test_labels_in_the_curves_do_not_cover_each_other(data: dict[str, Any]) -> None:
    """Estimated boxes of all text in figure 1 are apart, wide and narrow, and where several rounds end near each other."""
    for width in (1080, 860, 344):
        drawn = ElementTree.fromstring(curves_figure(data, width=width, uid="t"))
        boxes = []
        for element in drawn.iter("{http://www.w3.org/2000/svg}text"):
            x, y, words = float(element.get("x", 0)), float(element.get("y", 0)), element.text or ""
            wide = 6.0 * len(words)
            left = {"start": x, "middle": x - wide / 2, "end": x - wide}[element.get("text-anchor", "start")]
            boxes.append((left, y - 9, left + wide, y + 1, words))
            assert left > -2
            assert left + wide < width + 8, words
        for i, a in enumerate(boxes):
            for b in boxes[i + 1 :]:
                apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                assert apart, (a[4], b[4])


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [(0.0, 5.6, 5, [0, 2, 4]), (-2.1, 3.1, 5, [-2, 0, 2]), (0.0, 1.0, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0])],
)
def test_ticks_are_round_numbers_in_the_range(
    low: float, high: float, count: int, ticks: list[float]
) -> None:
    """Ticks are multiples of 1, 2 or 5 times a power of ten."""
    assert nice_ticks(low, high, count) == pytest.approx(ticks)


def test_numbers_are_written_for_readers() -> None:
    """True minus signs, grouped thousands, no minus zero, dashes for nothing, intervals with both ends."""
    assert [number(-2.1), number(1024, 0), number(-0.001), number(None), number(math.nan)] == [
        "−2.10",
        "1,024",
        "0.00",
        "–",
        "–",
    ]
    assert number(0.72, sign=True) == "+0.72"
    assert interval({"value": 0.34, "low": 0.25, "high": 0.44, "n": 96}) == "34 % (25–44 %)"
    assert interval(None) == "–"
    assert [address("policy@12"), address("rollback-severe-seed-3@12", 10)] == ["policy@12", "rollba…@12"]
    assert moment("2031-05-04T12:30:05+00:00") == "2031-05-04 12:30:05 UTC"
    assert moment("yesterday") == "yesterday"
