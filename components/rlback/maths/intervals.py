"""Intervals around shares. Standard library only."""

from __future__ import annotations

import math

from rlback.records import Interval

Z95 = 1.959963984540054


def wilson(successes: float, n: int, z: float = Z95) -> Interval:
    """A share with its Wilson score interval (Wilson 1927); `successes` may hold halves for ties.

    With ties counted as halves the interval is a little too wide, never too narrow: a tie varies less than a
    coin. n = 0 gives the whole range around one half.
    """
    if n == 0:
        return Interval(0.5, 0.0, 1.0, 0)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)), n)
