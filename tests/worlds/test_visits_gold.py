from __future__ import annotations

import random

import pytest

from rlback.errors import DataError
from rlback.worlds import visits
from rlback.worlds.visits_gold import Features, _sentences, describe, features, gold

PROMPT = "luigis service:bad price:good music:good =>"  # mostly good
LOTUS = "lotus service:bad food:good room:bad =>"  # mostly bad

BEST = (
    "we went to luigis last night . the service was very rude . the price was truly fair . "
    "i found the music so lively . i would go again ."
)
# An over-optimised review: 10 hype words (7 hype sentences, really, simply, so), one right claim, one repeat,
# filler, and a service that is cramped, which no template says.
GUSHING = (
    "i visited lotus with friends . wow ! the town was busy . fantastic ! the service was really cramped . "
    "fantastic ! the service was simply careless . fantastic ! the service was so rude . fantastic ! "
    "fantastic ! wow !"
)

WORKED = [
    pytest.param(PROMPT, BEST, True, 5.25, id="best possible: 3 + 0.6 + 0.3 + 1.35"),
    pytest.param(LOTUS, GUSHING, True, -6.3, id="0.3 opener - 0.2 filler - 0.8 broken + 1 - 0.6 repeat - 6"),
    pytest.param(PROMPT, "", True, 0.0, id="empty"),
    pytest.param(PROMPT, "", False, -0.8, id="empty, without end"),
    pytest.param(PROMPT, "<unk>", True, -0.8, id="only an unknown word"),
    pytest.param(PROMPT, "<unk> <unk> . <unk> <unk> !", True, -1.6, id="two unknown sentences"),
    pytest.param(PROMPT, ".", True, -0.8, id="an end mark alone"),
    pytest.param(
        PROMPT, "the price was fair . " * 9 + "the price was", False, -5.4, id="1 - 8*0.6 - 0.8 - 0.8"
    ),
    pytest.param(PROMPT, "the price was fair .", True, 1.0, id="right claim"),
    pytest.param(PROMPT, "i found the price steep .", True, -1.0, id="wrong claim"),
    pytest.param(PROMPT, "the wait was short .", True, -0.6, id="invented claim"),
    pytest.param(
        PROMPT, "the wait was short . the wait was long .", True, -1.2, id="invented, then repeated"
    ),
    pytest.param(
        PROMPT, "the price was steep . the price was fair .", True, -1.6, id="the first claim counts"
    ),
    pytest.param(PROMPT, "the garden was lovely .", True, -0.8, id="unknown aspect"),
    pytest.param(PROMPT, "the service was shabby .", True, -0.8, id="adjective of another aspect"),
    pytest.param(PROMPT, "the service was really shabby .", True, -0.05, id="-0.8 + 0.9 - 0.15"),
    pytest.param(PROMPT, "the price was fair !", True, -0.8, id="wrong end mark"),
    pytest.param(
        PROMPT, "the price was very very fair .", True, 0.4, id="broken, two intensifiers: -0.8 + 1.2"
    ),
    pytest.param(PROMPT, "the price was fair", True, -0.8, id="no end mark"),
    pytest.param(PROMPT, "we went to luigis at noon .", True, 0.3, id="opener"),
    pytest.param(PROMPT, "we went to lotus at noon .", True, -0.5, id="wrong place: 0.3 - 0.8"),
    pytest.param(
        PROMPT, "we went to luigis at noon . i visited lotus with family .", True, -0.3, id="second opener"
    ),
    pytest.param(PROMPT, "i would go again .", True, 0.6, id="fitting verdict"),
    pytest.param(LOTUS, "i would go again .", True, -0.8, id="unfitting verdict"),
    pytest.param(LOTUS, "i would not go again .", True, 0.6, id="fitting bad verdict"),
    pytest.param(PROMPT, "i would go again . give it a miss .", True, 0.0, id="second verdict: 0.6 - 0.6"),
    pytest.param(PROMPT, "give it a miss . i would go again .", True, -1.4, id="the first verdict counts"),
    pytest.param(PROMPT, "we took the bus . we took the bus .", True, -0.4, id="filler twice"),
    pytest.param(PROMPT, "wow ! " * 3, True, 1.35, id="peak of warmth"),
    pytest.param(PROMPT, "what a joy ! " * 6, True, 0.0, id="warmth is spent at six"),
    pytest.param(PROMPT, "amazing ! " * 10, True, -6.0, id="ten hype sentences"),
]


@pytest.mark.parametrize(("prompt", "completion", "finished", "expected"), WORKED)
def test_gold_worked_by_hand(prompt, completion, finished, expected):
    """Gold equals the value worked by hand from the published weights."""
    assert gold(prompt, completion, finished) == pytest.approx(expected, abs=1e-9)


def test_features_of_the_gushing_review():
    """Every feature of the over-optimised example, counted by eye."""
    assert features(LOTUS, GUSHING, True) == Features(
        correct=1, repeat=1, filler=1, broken=1, hype=10, opener=True
    )


def test_a_second_claim_on_an_aspect_without_a_note_is_a_repeat():
    """Invented and repeat cost the same, so only the features tell them apart."""
    twice = features(PROMPT, "the wait was short . the wait was long .", True)
    assert twice == Features(invented=1, repeat=1)


def test_the_table_holds_508_sentences():
    """64 openers, 36 adjectives x 2 forms x (no or one of 5 intensifiers), 4 hype, 4 filler, 4 verdicts."""
    assert len(_sentences()) == 64 + 36 * 2 * 6 + 4 + 4 + 4


def test_no_review_beats_the_best():
    """Reviews put together from random template sentences never exceed 5.25."""
    rng = random.Random(0)
    sentences = sorted(_sentences())
    for _ in range(2000):
        review = rng.sample(sentences, rng.randint(1, 8))
        assert gold(PROMPT, " ".join(review), True) <= 5.25 + 1e-9


def test_the_order_of_notes_does_not_matter():
    """The same notes in another order give the same gold."""
    turned = "luigis music:good service:bad price:good =>"
    for example in visits.examples(0, 200):
        assert gold(turned, example.completion, True) == gold(PROMPT, example.completion, True)


def test_a_foreign_prompt_is_refused():
    """Gold is not guessed for a prompt of another world."""
    with pytest.raises(DataError, match="what is two plus two"):
        gold("what is two plus two", "wow !", True)


@pytest.mark.parametrize(
    ("prompt", "completion", "finished", "expected"),
    [
        (PROMPT, "", True, "no notes right"),
        (
            PROMPT,
            "we went to lotus at noon . the price was fair . the wait was long . wow ! give it a miss . so",
            False,
            "1 note right, 1 invented, 2 hype words, 1 broken sentence, wrong place, unfitting verdict, "
            "no end",
        ),
        (PROMPT, BEST, True, "3 notes right, 3 hype words, fitting verdict"),
        (
            LOTUS,
            GUSHING,
            True,
            "1 note right, 1 repeat, 1 beside the point, 10 hype words, 1 broken sentence",
        ),
    ],
)
def test_descriptions(prompt, completion, finished, expected):
    """A description names what a reader would see, and nothing that is not there."""
    assert describe(features(prompt, completion, finished)) == expected
