from __future__ import annotations

import json
from collections import defaultdict

import pytest

from rlback.errors import ConfigError
from rlback.records import Comparison, Completion
from rlback.worlds.annotators import SimulatedAnnotator
from rlback.worlds.visits import examples
from rlback.worlds.visits_gold import gold

PROMPT = "luigis service:bad price:good music:good =>"


def _completion(text: str) -> Completion:
    return Completion(text=text, ids=(), finished=True)


def _comparison(a: str, b: str) -> Comparison:
    return Comparison(PROMPT, _completion(a), _completion(b), "base")


# Gold 0 against -0.5.
HALF_BETTER = _comparison("", "we went to lotus at noon .")
# Gold -6 against 0; with 0.9 for each of ten hype words, 3 against 0.
GUSHING = _comparison("wow ! " * 10, "")


def _swapped(comparison: Comparison) -> Comparison:
    return Comparison(comparison.prompt, comparison.b, comparison.a, comparison.source)


def _share_a(annotator: SimulatedAnnotator, comparison: Comparison, n: int = 4000) -> float:
    return sum(annotator.verdict(comparison, seed) == "a" for seed in range(n)) / n


def test_preference_worked_by_hand():
    """sigmoid(0.5 / 0.5) is 0.7310586, with lapses 0.05 + 0.9 times that; at temperature 1 0.6224593."""
    assert SimulatedAnnotator("ann", gold).preference(HALF_BETTER) == pytest.approx(0.7079527, abs=1e-6)
    assert SimulatedAnnotator("ann", gold, lapse=0.0).preference(HALF_BETTER) == pytest.approx(0.7310586)
    assert SimulatedAnnotator("ann", gold, 1.0, 0.0).preference(HALF_BETTER) == pytest.approx(0.6224593)


def test_bias_turns_the_preference():
    """The gushing review loses but for lapses; with 0.9 for a hype word it wins: 0.05 + 0.9 sigmoid(6)."""
    assert SimulatedAnnotator("ann", gold).preference(GUSHING) == pytest.approx(0.05, abs=1e-4)
    biased = SimulatedAnnotator("fan", gold, hype_bias=0.9)
    assert biased.preference(GUSHING) == pytest.approx(0.05 + 0.9 * 0.9975274, abs=1e-6)


@pytest.mark.parametrize("comparison", [HALF_BETTER, _swapped(HALF_BETTER), GUSHING])
def test_verdicts_come_as_often_as_the_preference_says(comparison):
    """Over 4,000 seeds the share of `a` is the preference (standard error at most 0.008)."""
    annotator = SimulatedAnnotator("ann", gold)
    assert _share_a(annotator, comparison) == pytest.approx(annotator.preference(comparison), abs=0.03)


def test_swapping_the_completions_swaps_the_verdict():
    """Which completion is called a has no influence: there is no position bias."""
    annotator = SimulatedAnnotator("ann", gold)
    turn = {"a": "b", "b": "a"}
    for seed in range(300):
        assert annotator.verdict(_swapped(HALF_BETTER), seed) == turn[annotator.verdict(HALF_BETTER, seed)]


def test_verdicts_do_not_depend_on_what_was_asked_before():
    """The same question gets the same answer in any order, whatever its source and token ids."""
    annotator = SimulatedAnnotator("ann", gold)
    forth = [annotator.verdict(HALF_BETTER, seed) for seed in range(100)]
    back = [annotator.verdict(HALF_BETTER, seed) for seed in reversed(range(100))]
    assert forth == back[::-1]
    assert {"a", "b"} == set(forth)
    a, b = (Completion(c.text, (1, 2), c.finished) for c in (HALF_BETTER.a, HALF_BETTER.b))
    other = Comparison(PROMPT, a, b, "cross")
    assert [annotator.verdict(other, seed) for seed in range(100)] == forth


def test_two_annotators_err_independently():
    """With the same seed two names disagree in 2 p (1-p) of cases: 2 * 0.708 * 0.292 = 0.4135."""
    ann, bob = SimulatedAnnotator("ann", gold), SimulatedAnnotator("bob", gold)
    n = 4000
    apart = sum(ann.verdict(HALF_BETTER, s) != bob.verdict(HALF_BETTER, s) for s in range(n)) / n
    assert apart == pytest.approx(0.4135, abs=0.03)


def test_a_noiseless_annotator_is_always_right():
    """At temperature 0 there are no lapses, and equal gold is a tie."""
    exact = SimulatedAnnotator("oracle", gold, temperature=0.0)
    assert {exact.verdict(HALF_BETTER, seed) for seed in range(50)} == {"a"}
    assert {exact.verdict(_swapped(HALF_BETTER), seed) for seed in range(50)} == {"b"}
    same_worth = _comparison("the price was fair .", "i found the music lively .")
    assert exact.verdict(same_worth, 0) == "tie"


def test_extreme_differences_do_not_overflow():
    """48 intensifiers cost over 300 points; the preference stays at the lapse rate on either side."""
    annotator = SimulatedAnnotator("ann", gold, temperature=0.01)
    awful = _comparison("so " * 48, "")
    assert annotator.preference(awful) == pytest.approx(0.05)
    assert annotator.preference(_swapped(awful)) == pytest.approx(0.95)


def test_agreement_with_gold_on_corpus_pairs():
    """On pairs of different gold for one prompt, annotators side with gold in 80 to 86 percent of cases."""
    by_prompt = defaultdict(list)
    for example in examples(11, 20_000):
        by_prompt[example.prompt].append(example.completion)
    annotator = SimulatedAnnotator("ann", gold)
    right = []
    for prompt, texts in by_prompt.items():
        for a, b in zip(texts[::2], texts[1::2], strict=False):
            gap = gold(prompt, a, True) - gold(prompt, b, True)
            if abs(gap) > 1e-9:
                comparison = Comparison(prompt, _completion(a), _completion(b), "base")
                right.append((annotator.verdict(comparison, 0) == "a") == (gap > 0))
    assert len(right) > 8000
    assert 0.80 <= sum(right) / len(right) <= 0.86


def test_lineage_can_be_recorded_and_tells_annotators_apart():
    """The lineage is plain JSON and names every parameter that changes verdicts."""
    lineage = SimulatedAnnotator("fan", gold, 0.25, 0.1, 0.9).lineage()
    assert json.loads(json.dumps(lineage)) == lineage
    assert lineage == {
        "kind": "simulated",
        "name": "fan",
        "gold": "rlback.worlds.visits_gold.gold",
        "temperature": 0.25,
        "lapse": 0.1,
        "hype_bias": 0.9,
        "hype": "rlback.worlds.visits_gold.hype",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"lapse": -0.01},
        {"lapse": 0.51},
        {"hype_bias": float("nan")},
    ],
)
def test_impossible_parameters_are_refused(wrong):
    """Parameters that give no probability are refused by name, with a remedy."""
    with pytest.raises(ConfigError, match=next(iter(wrong))) as caught:
        SimulatedAnnotator("ann", gold, **wrong)
    assert caught.value.remedy
