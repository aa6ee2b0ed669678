"""What an approver goes by: the human win rate, and beside it what the reward model claims.

Pure functions over verdicts and scores. Sides: `a` is the candidate, `b` the start checkpoint in `cross`
comparisons; in `inside` comparisons both are the candidate's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlback.maths.intervals import wilson
from rlback.records import Interval, Verdict


def win_rate(verdicts: Sequence[Verdict]) -> Interval:
    """Share of comparisons in which side `a` won, ties one half, skips left out."""
    counted = [v for v in verdicts if v != "skip"]
    return wilson(sum(1.0 if v == "a" else 0.5 if v == "tie" else 0.0 for v in counted), len(counted))


def agreement(verdicts: Sequence[Verdict], margins: Sequence[float]) -> Interval:
    """Share of decisive labels in which the reward model's margin (score a - score b) has the label's sign.

    An exact margin of zero agrees by half.
    """
    pairs = [(v, m) for v, m in zip(verdicts, margins, strict=True) if v in ("a", "b")]
    hits = sum(0.5 if m == 0 else float((m > 0) == (v == "a")) for v, m in pairs)
    return wilson(hits, len(pairs))


def overclaim(verdicts: Sequence[Verdict], logits: Sequence[float]) -> float | None:
    """How much more often the reward model expects the candidate to win than people let it (science: G2).

    mean sigmoid(r_a - r_b) minus the win rate, both over comparisons that are not skipped; `logits` are
    differences of unscaled scores, the Bradley-Terry log-odds. Positive: reward that people did not confirm.
    None without a single counting label.
    """
    kept = [(v, x) for v, x in zip(verdicts, logits, strict=True) if v != "skip"]
    if not kept:
        return None
    claimed = sum(_sigmoid(x) for _, x in kept) / len(kept)
    return claimed - win_rate([v for v, _ in kept]).value


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
