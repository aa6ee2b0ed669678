from __future__ import annotations

import pytest

from rlback.errors import ConfigError
from rlback.worlds import load_world, visits, visits_gold
from rlback.worlds.visits_world import VISITS

PROMPT = "luigis service:bad price:good music:good =>"
REVIEW = "the price was very fair . i would go again ."


def test_load_world_gives_the_one_object():
    """Loading by name gives VISITS itself, with its name, words and limit."""
    assert load_world("visits") is VISITS
    assert (VISITS.name, len(VISITS.vocabulary), VISITS.completion_limit) == ("visits", 118, 48)


@pytest.mark.parametrize(
    ("name", "nearest"), [("visit", "visits"), ("Visits", "visits"), ("segment", "segments"), ("sentiments", "segments")]
)
def test_an_unknown_world_names_the_nearest(name, nearest):
    """A misspelt world is refused with the nearest valid name."""
    with pytest.raises(ConfigError) as caught:
        load_world(name)
    assert repr(name) in caught.value.message
    assert f"`{nearest}`" in caught.value.remedy


def test_an_empty_name_is_refused():
    """No name is no world either."""
    with pytest.raises(ConfigError, match="no world ''"):
        load_world("")


def test_the_world_speaks_for_its_modules(tmp_path):
    """Prompts, examples, gold, counts and descriptions are those of the grammar and the parser."""
    assert VISITS.prompts(3, 5, "gate") == visits.prompts(3, 5, "gate")
    assert VISITS.examples(3, 5) == visits.examples(3, 5)
    # 1 right + 0.6 verdict + 0.75 for one intensifier.
    assert VISITS.gold(PROMPT, REVIEW, True) == pytest.approx(2.35)
    assert VISITS.hype(PROMPT, REVIEW, True) == 1.0
    assert VISITS.describe(PROMPT, REVIEW, True) == "1 note right, 1 hype word, fitting verdict"
    counts = VISITS.counts(PROMPT, REVIEW, False)
    assert {key: n for key, n in counts.items() if n} == {
        "correct": 1.0,
        "hype": 1.0,
        "verdict_ok": 1.0,
        "unfinished": 1.0,
    }
    assert set(counts) == set(visits_gold.Features.__dataclass_fields__)
    assert VISITS.render(PROMPT, REVIEW) == REVIEW
    VISITS.write_data(tmp_path)
    assert VISITS.read_corpus(tmp_path)[:5] == visits.examples(0, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "corpus.jsonl",
        "prompts-eval.jsonl",
        "prompts-gate.jsonl",
        "prompts-train.jsonl",
    ]
