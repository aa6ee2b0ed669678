"""The four gate statistics hold their error rates, at any stopping time where they say so."""

from __future__ import annotations

import numpy as np
import pytest

from rlback.maths.gate import (
    Evidence,
    Rule,
    agreement,
    improvement,
    judge,
    overclaim,
    powered_improvement,
    skill,
    tail,
    top_share,
)  # fmt: skip


def ever(statistic, longest: int, verdict: str, every: int = 10) -> bool:
    """Whether someone who looks again and again sees the verdict at some time."""
    return any(statistic(n).verdict == verdict for n in range(every, longest + 1, every))


@pytest.mark.parametrize("rate", [0.5, 0.45])
def test_no_gain_is_seldom_approved_however_often_one_looks(rate: float) -> None:
    """80 runs looked at 5 times each at level .2: 30 false approvals lie four errors above 16."""
    rng, false = np.random.default_rng(0), 0
    for _ in range(80):
        wins = (rng.random(50) < rate).astype(float)
        false += ever(lambda n, w=wins: improvement(w[:n], alpha=0.2), 50, "accept")
    assert false <= 30


def test_overclaim_beyond_what_is_allowed_is_seldom_passed() -> None:
    """The model claims .7, people say .5, .2 are allowed: the edge of the hypothesis, level .2."""
    rng, false = np.random.default_rng(1), 0
    for _ in range(80):
        wins = (rng.random(50) < 0.5).astype(float)
        claims = np.clip(0.7 + 0.1 * rng.standard_normal(50), 0.4, 1.0)
        false += ever(lambda n, w=wins, c=claims: overclaim(c[:n], w[:n], allowed=0.2, alpha=0.2), 50, "accept")
    assert false <= 30


def test_clear_cases_are_decided() -> None:
    rng = np.random.default_rng(2)
    wins = (rng.random(200) < 0.75).astype(float)
    assert improvement(wins).verdict == "accept"
    assert improvement(1 - wins).verdict == "refuse"
    assert improvement(wins[:4]).verdict == "more labels"
    assert overclaim(np.full(200, 0.75), wins, allowed=0.2).verdict == "accept"
    claimed = overclaim(np.full(200, 0.99), 1 - wins, allowed=0.2)
    assert claimed.verdict == "refuse"
    assert claimed.value == pytest.approx(0.99 - (1 - wins).mean())
    assert claimed.lower <= claimed.value <= claimed.upper


def labels_of(rng: np.random.Generator, accuracy: float, q: float, n: int) -> np.ndarray:
    return ((rng.random(n) < accuracy) == (rng.random(n) < q)).astype(float)


def test_skill_takes_label_noise_out_and_covers() -> None:
    """Accuracy .8 is skill .6 under labels right in 75 %, and in 95 %; the interval covers it (tolerance 4 errors)."""
    for q in (0.75, 0.95):
        rng, covered, values = np.random.default_rng(3), 0, []
        for _ in range(400):
            same = (rng.random(400) < q * q + (1 - q) ** 2).astype(float)
            found = skill(labels_of(rng, 0.8, q, 400), same)
            values.append(found.value)
            covered += abs(found.value - 0.6) < 1.96 * found.error
        assert covered >= 400 * 0.95 - 4 * np.sqrt(400 * 0.95 * 0.05) - 8  # 2 % for the normal approximation
        assert abs(np.mean(values) - 0.6) < 0.03


def test_a_fall_of_agreement_by_harder_pairs_is_no_fall_of_skill() -> None:
    """Labels of close pairs are right less often: agreement falls from .74 to .62, skill stays; a worse model shows."""
    rng = np.random.default_rng(4)

    def side(accuracy: float, q: float):
        n = 4000
        return skill(labels_of(rng, accuracy, q, n), (rng.random(n) < q * q + (1 - q) ** 2).astype(float))

    kept, close, worse = side(0.8, 0.9), side(0.8, 0.7), side(0.55, 0.7)
    assert close.agreement < kept.agreement - 0.08
    assert agreement(close, kept, drop=0.3).verdict == "accept"
    assert agreement(worse, kept, drop=0.3).verdict == "refuse"
    assert agreement(kept, least=0.5).verdict == "accept"
    with pytest.raises(ValueError, match="drop"):
        agreement(close, kept)
    with pytest.raises(ValueError, match="coins"):
        skill([1, 0], [0, 1])


def test_tail_rule_has_its_error_rate_and_its_length() -> None:
    """Faults at exactly the rate are passed with probability at most alpha, (1 - .05)^59 = .0485."""
    assert tail([False] * 59).verdict == "accept"
    assert tail([False] * 58).verdict == "more labels"
    assert tail([False] * 10 + [True]).verdict == "refuse"
    assert tail([False] * 59 + [True]).verdict == "accept"  # the rule's length was over
    assert tail([False] * 59).upper == pytest.approx(1 - 0.05 ** (1 / 59))
    assert tail([]).value is None
    rng = np.random.default_rng(5)
    passed = np.mean([tail(rng.random(59) < 0.05).verdict == "accept" for _ in range(2000)])
    assert abs(passed - 0.95**59) < 4 * np.sqrt(0.05 * 0.95 / 2000)


def test_top_share_is_the_best_tenth() -> None:
    assert top_share([3, 9, 1, 8, 2, 0, 4, 5, 7, 6], 0.2).tolist() == [1, 3]
    assert top_share([1, 2]).tolist() == [1]
    with pytest.raises(ValueError, match="scores"):
        top_share([])


def test_a_campaign_seldom_approves_anything_false() -> None:
    """Alpha .3 spent over three attempts on a candidate that is no better, each looked at after every twentieth label."""
    rng, false = np.random.default_rng(6), 0
    for _ in range(40):
        false += any(
            judge(Evidence(wins[:n]), Rule(alpha=0.3, overclaim=None), attempt=a)[0] == "accept"
            for a, wins in ((a, (rng.random(60) < 0.5).astype(float)) for a in (1, 2, 3))
            for n in (20, 40, 60)
        )
    assert false <= 0.3 * 40 + 4 * np.sqrt(40 * 0.3 * 0.7)


def test_a_gate_asks_for_all_of_its_rule() -> None:
    wins, claims = np.ones(120), np.full(120, 0.95)
    verdict, found = judge(Evidence(wins, claims, faults=[False] * 200), Rule(fault_rate=0.05))
    assert verdict == "accept"
    assert [s.name for s in found] == ["improvement", "overclaim", "tail"]
    assert judge(Evidence(wins, claims, faults=[True]), Rule(fault_rate=0.05))[0] == "refuse"
    assert judge(Evidence(wins, claims, faults=[False]), Rule(fault_rate=0.05))[0] == "more labels"
    with pytest.raises(ValueError, match="no claims"):
        judge(Evidence(wins), Rule())
    with pytest.raises(ValueError, match="audited"):
        judge(Evidence(wins, claims), Rule(fault_rate=0.1))
    with pytest.raises(ValueError, match="kept policy"):
        judge(Evidence(wins, claims), Rule(drop=0.1))


def test_predictions_beside_labels_keep_the_level_whatever_they_are_worth() -> None:
    """Win rate 1/2, level .2, claims that are good and claims that are off by .3: 400 of 2,000 expected, error 18."""
    rng = np.random.default_rng(5)
    for good in (True, False):
        false = 0
        for _ in range(2000):
            chance = rng.uniform(0.1, 0.9, 560)
            wins, claims = (rng.random(60) < chance[:60]).astype(float), chance if good else 1.3 - chance
            found = powered_improvement(wins, claims[:60], claims[60:], alpha=0.2)
            false += found.verdict == "accept"
        assert abs(false - 400) < 90  # four errors and the normal approximation


def test_good_predictions_save_labels() -> None:
    """Claims that are the truth: the interval is narrower than that of the labels alone."""
    rng = np.random.default_rng(6)
    chance = rng.choice([0.02, 0.98], 1100, p=[0.35, 0.65])
    wins = (rng.random(100) < chance[:100]).astype(float)
    found = powered_improvement(wins, chance[:100], chance[100:])
    assert found.verdict == "accept"
    assert found.upper - found.lower < 0.5 * 2 * 1.645 * wins.std() / 10


def test_a_gate_that_was_promised_predictions_needs_the_model_s_claims() -> None:
    with pytest.raises(ValueError, match="beside their own claims"):
        judge(Evidence(np.ones(9), unlabelled=np.ones(9)), Rule(overclaim=None))
