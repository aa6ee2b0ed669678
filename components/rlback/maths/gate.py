"""The four gate statistics from labels, and the verdict they allow (science, section 2.5).

G1 improvement, G2 honesty, G3 agreement, G4 tail. Labels come in the order in which they were given: G1 and G2 hold
at any stopping time, G4 decides by a rule fixed beforehand, G3 is an interval for a number of labels fixed
beforehand. A gate that asks for all of them at level alpha approves a candidate that fails one with probability at
most alpha, without dividing alpha by four: every failing statistic alone would have had to be passed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlback.maths.sequential import attempt_alpha, betting_bounds, prediction_powered, zero_failures_needed

Array = NDArray[np.float64]
Verdict = Literal["accept", "refuse", "more labels"]

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Statistic:
    """One of the four: its estimate, the bounds it was judged by, labels used, and what they allow.

    `value` is None without labels. Bounds that a statistic does not have are infinite.
    """

    name: str
    value: float | None
    lower: float
    upper: float
    n: int
    verdict: Verdict


def improvement(wins: ArrayLike, *, margin: float = 0.0, alpha: float = 0.05) -> Statistic:
    """G1: probability that people prefer the candidate to the kept policy; accepted above 1/2 + margin.

    `wins` (n,) are 1, 0, or 1/2 for a tie, in the order of the labels. Judged by the newest point of a betting
    confidence sequence, so that it may be looked at after each label and stopped at any of them. ValueError for
    values outside [0, 1] or a margin outside [0, 1/2).
    """
    if not 0 <= margin < 0.5:
        raise ValueError(f"a margin lies between 0 and 1/2, not {margin}")
    y = np.asarray(wins, dtype=float)
    low, high = _newest(y, alpha)
    needed = 0.5 + margin
    return Statistic("improvement", _mean(y), low, high, len(y), _side(low > needed, high < needed))


def powered_improvement(
    wins: ArrayLike, claims: ArrayLike, unlabelled: ArrayLike, *, margin: float = 0.0, alpha: float = 0.05
) -> Statistic:
    """G1 from few labels and the reward model's claims for many comparisons nobody labels (`prediction_powered`).

    Accepted where the one-sided bound at alpha lies above 1/2 + margin, whatever the claims are worth, if the reward
    model was not fitted on these labels. Normal approximation, for numbers of labels fixed beforehand.
    """
    from scipy.special import ndtri

    found = prediction_powered(np.asarray(wins, float), np.asarray(claims, float), np.asarray(unlabelled, float))
    half = float(ndtri(1 - alpha)) * found.error
    low, high, needed = found.value - half, found.value + half, 0.5 + margin
    return Statistic("improvement", found.value, low, high, len(np.asarray(wins)), _side(low > needed, high < needed))


def overclaim(claims: ArrayLike, wins: ArrayLike, *, allowed: float = 0.1, alpha: float = 0.05) -> Statistic:
    """G2: how much more often the reward model expects the candidate to win than people let it.

    mean of sigmoid(difference of unscaled scores) less the mean win, on the same candidate-against-kept pairs, (n,)
    each; accepted where the upper bound is at most `allowed`. A pair's difference lies in [-1, 1], so that (1 + it) / 2
    can be bet on: the bounds hold at any stopping time. ValueError where the lengths differ.
    """
    claimed, y = np.asarray(claims, dtype=float), np.asarray(wins, dtype=float)
    if claimed.shape != y.shape:
        raise ValueError(f"every label needs the reward model's claim: {len(claimed)} claims beside {len(y)} labels")
    low, high = _newest((1 + claimed - y) / 2, alpha)
    low, high = 2 * low - 1, 2 * high - 1
    return Statistic("overclaim", _mean(claimed - y), low, high, len(y), _side(high <= allowed, low > allowed))


@dataclass(frozen=True)
class Skill:
    """(agreement - 1/2) / (ceiling - 1/2) and its standard error: 1 agrees as well as labels allow, 0 as a coin does."""

    value: float
    error: float
    agreement: float
    ceiling: float
    n: int


def skill(agrees: ArrayLike, same: ArrayLike) -> Skill:
    """A reward model's agreement with labels, relative to what the labels' own noise allows (2 accuracy - 1).

    `agrees` (n,): 1 where the model orders a pair as its label does, 0 where not, 1/2 for an equal score. `same` (d,):
    1 where two independent labels of one pair are the same. The ceiling q solves q^2 + (1 - q)^2 = mean(same). Where
    pairs differ in difficulty this q is a little too high (Jensen), and the skill a little too low. The error is the
    delta method's, with the uncertainty of q. ValueError without labels or duplicates, or where duplicates agree no
    more often than coins.
    """
    a, s = np.asarray(agrees, dtype=float), np.asarray(same, dtype=float)
    if len(a) < 2 or len(s) < 2:
        raise ValueError("agreement relative to its ceiling needs two or more labels and two or more duplicates")
    share = float(s.mean())
    if share <= 0.5:
        raise ValueError(f"labels of the same pair agree in {share:.0%} of duplicates, no more often than coins would")
    certainty = math.sqrt(2 * share - 1)  # 2 q - 1
    agreement = float(a.mean())
    value = (2 * agreement - 1) / certainty
    of_agreement = 4 * float(a.var(ddof=1)) / len(a) / certainty**2
    of_ceiling = value**2 * float(s.var(ddof=1)) / len(s) / certainty**4
    return Skill(value, math.sqrt(of_agreement + of_ceiling), agreement, (1 + certainty) / 2, len(a))


def agreement(
    candidate: Skill, kept: Skill | None = None, *, least: float = 0.0, drop: float | None = None
) -> Statistic:
    """G3: skill inside the candidate's own pairs, or its change since the kept policy's (difference in differences).

    Agreement falls by itself when a good policy narrows and its pairs get closer (Bai et al. 2204.05862, section 4.5:
    74, 70, 67 %), which the ceiling of each set takes out, and pairs of the kept policy take out what the model
    cannot do anywhere. Without `kept` accepted where the 95 % interval lies above `least`; with it, where the change
    lies above -`drop`. Normal approximation; for numbers of labels fixed beforehand. ValueError for `kept` without
    `drop`.
    """
    if kept is None:
        value, error, threshold, n = candidate.value, candidate.error, least, candidate.n
    elif drop is None:
        raise ValueError("a change of agreement is judged against the drop that is allowed; give `drop`")
    else:
        value, error = candidate.value - kept.value, math.hypot(candidate.error, kept.error)
        threshold, n = -drop, candidate.n + kept.n
    low, high = value - _Z95 * error, value + _Z95 * error
    return Statistic("agreement", value, low, high, n, _side(low > threshold, high < threshold))


def top_share(scores: ArrayLike, share: float = 0.1) -> NDArray[np.int64]:
    """Indices of the `share` of samples with the highest scores, best first: where a reward model was exploited.

    At least one; equal scores keep their order. ValueError without scores or for a share outside (0, 1].
    """
    s = np.asarray(scores, dtype=float)
    if not len(s) or not 0 < share <= 1:
        raise ValueError("the top of a set of samples needs scores and a share between 0 and 1")
    return np.argsort(-s, kind="stable")[: max(1, round(share * len(s)))]


def tail(faults: Sequence[bool] | NDArray[np.bool_], *, rate: float = 0.05, alpha: float = 0.05) -> Statistic:
    """G4: clear faults among audited top samples; accepted after as many faultless ones as bound their rate by `rate`.

    59 bound it by 5 % at 95 %. One fault before that refuses: the rule has a fixed length, so that its error is
    alpha whenever one looks. What lies beyond the length is not looked at. The upper bound is Clopper and Pearson's for
    what was seen (1934), 1 - alpha^(1/n) without faults. ValueError unless rate and alpha lie between 0 and 1.
    """
    from scipy.special import betaincinv

    needed = zero_failures_needed(rate, alpha)
    seen = np.asarray(faults, dtype=bool)[:needed]
    found, n = int(seen.sum()), len(seen)
    upper = 1.0 if found == n else float(betaincinv(found + 1, n - found, 1 - alpha))
    verdict: Verdict = "refuse" if found else "accept" if n == needed else "more labels"
    return Statistic("tail", found / n if n else None, 0.0, upper, n, verdict)


@dataclass(frozen=True)
class Rule:
    """What a gate asks for; None leaves a statistic out. `alpha` is for a whole campaign, and is spent over attempts."""

    alpha: float = 0.05
    margin: float = 0.0
    overclaim: float | None = 0.1
    drop: float | None = None
    fault_rate: float | None = None


@dataclass(frozen=True)
class Evidence:
    """Labels of one attempt on fresh prompts. wins, claims (n,): see `overclaim`. The skills of the candidate's and
    the kept policy's own pairs, and the audited top samples, where a rule asks for them. unlabelled: the reward
    model's claims for further comparisons; with them G1 is `powered_improvement`."""

    wins: ArrayLike
    claims: ArrayLike | None = None
    unlabelled: ArrayLike | None = None
    candidate: Skill | None = None
    kept: Skill | None = None
    faults: Sequence[bool] | None = None


def judge(evidence: Evidence, rule: Rule, *, checkpoint: int = 1, attempt: int = 1) -> tuple[Verdict, list[Statistic]]:
    """The verdict of a gate and the statistics it rests on, at the attempt's share of alpha (`attempt_alpha`).

    Refused where one statistic refuses, accepted where all accept, undecided otherwise. G3 is judged at 95 % whatever
    alpha. ValueError where the rule asks for what there is no evidence of.
    """
    alpha = attempt_alpha(rule.alpha, checkpoint, attempt)
    if evidence.unlabelled is None:
        found = [improvement(evidence.wins, margin=rule.margin, alpha=alpha)]
    elif evidence.claims is None:
        raise ValueError("predictions stand in for labels only beside their own claims on the labelled comparisons")
    else:
        found = [powered_improvement(evidence.wins, evidence.claims, evidence.unlabelled, margin=rule.margin, alpha=alpha)]
    if rule.overclaim is not None:
        if evidence.claims is None:
            raise ValueError("the rule bounds the overclaim, but there are no claims of the reward model")
        found.append(overclaim(evidence.claims, evidence.wins, allowed=rule.overclaim, alpha=alpha))
    if rule.drop is not None:
        if evidence.candidate is None or evidence.kept is None:
            raise ValueError("the rule bounds the drop of agreement, but pairs of the candidate or the kept policy are missing")
        found.append(agreement(evidence.candidate, evidence.kept, drop=rule.drop))
    if rule.fault_rate is not None:
        if evidence.faults is None:
            raise ValueError("the rule bounds the rate of faults, but no top samples were audited")
        found.append(tail(evidence.faults, rate=rule.fault_rate, alpha=alpha))
    verdicts = {s.verdict for s in found}
    if "refuse" in verdicts:
        return "refuse", found
    return ("accept" if verdicts == {"accept"} else "more labels"), found


def _newest(y: Array, alpha: float) -> tuple[float, float]:
    bounds = betting_bounds(y, alpha)
    return (float(bounds.lower[-1]), float(bounds.upper[-1])) if len(y) else (0.0, 1.0)


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def _side(accepts: bool, refuses: bool) -> Verdict:
    return "accept" if accepts else "refuse" if refuses else "more labels"
