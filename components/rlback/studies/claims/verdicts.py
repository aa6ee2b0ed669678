"""Verdicts on a claim: one-sided bootstraps over seeds, of which a claim may need several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Verdict = Literal["holds", "fails", "inconclusive", "not measured"]

#: Resamples of the seeds, and the one-sided level: bounds are its 5 % and 95 % quantiles.
DRAWS = 1000
TAIL = 0.05


@dataclass(frozen=True)
class Part:
    """One comparison that a claim rests on. The claim says that `estimate` is above `least` (in the units of `what`).

    low, high: one-sided 95 % bounds, each on its own. seeds: runs (pairs of runs where it is a difference).
    """

    what: str
    estimate: float
    low: float
    high: float
    seeds: int
    least: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """holds where the lower bound lies above `least`, fails where the upper one lies below."""
        if not all(np.isfinite((self.estimate, self.low, self.high))):
            return "inconclusive"
        return "holds" if self.low > self.least else "fails" if self.high < self.least else "inconclusive"


@dataclass(frozen=True)
class Finding:
    """What a claim's parts come to. `missing`: what the claim also says and the table cannot show."""

    parts: tuple[Part, ...]
    compared: str
    missing: str = ""

    @property
    def verdict(self) -> Verdict:
        """A claim holds where all of its parts do and fails where one does; inconclusive otherwise."""
        found = {part.verdict for part in self.parts}
        if not found:
            return "not measured"
        return "fails" if "fails" in found else "holds" if found == {"holds"} else "inconclusive"

    @property
    def deciding(self) -> Part | None:
        """The part that the verdict hangs on: the one nearest to failing, in widths of its own interval."""

        def lead(part: Part) -> float:
            width = part.high - part.low
            return (part.low - part.least) / (width or 1e-12)

        worst = [part for part in self.parts if part.verdict == self.verdict]
        return min(worst, key=lead) if worst else None


def resample(what: str, statistic: Callable[[NDArray[np.int64]], float], seeds: int, *, least: float = 0.0) -> Part:
    """A part from a statistic of a sample of seeds, given as indices with repetitions; percentile bounds.

    Draws in which it is not finite (a curve without a peak, say) are left out; where they are more than one in ten the
    bounds are NaN, and the part inconclusive.
    """
    rng = np.random.default_rng(0)
    found = np.array([statistic(rng.integers(seeds, size=seeds)) for _ in range(DRAWS)])
    kept = found[np.isfinite(found)]
    estimate = float(statistic(np.arange(seeds)))
    if len(kept) < 0.9 * DRAWS:
        return Part(what, estimate, np.nan, np.nan, seeds, least)
    low, high = np.quantile(kept, [TAIL, 1 - TAIL])
    return Part(what, estimate, float(low), float(high), seeds, least)


def above(what: str, more: ArrayLike, less: ArrayLike = 0.0, *, least: float = 0.0) -> Part:
    """The mean over seeds of more - less, paired, claimed to be above `least`.

    Pairs of which one side is not finite (a run that diverged) are left out.
    """
    difference = np.broadcast_arrays(np.asarray(more, dtype=float) - np.asarray(less, dtype=float))[0]
    difference = difference[np.isfinite(difference)]
    n = len(difference)
    if n < 2:
        return Part(what, float(difference.mean()) if n else np.nan, np.nan, np.nan, n, least)
    means = difference[np.random.default_rng(0).integers(n, size=(DRAWS, n))].mean(1)
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    return Part(what, float(difference.mean()), float(low), float(high), n, least)


def peak_against_end(what: str, values: Array, *, least: float = 0.0) -> tuple[Part, Array]:
    """How far values (seeds, points) lie above their last point where their mean is highest; and the peak's place (seeds,).

    For each half of the seeds the place is read off the other half, so that noise which makes a point the highest
    does not count as height.
    """
    half = np.arange(len(values)) % 2 == 0
    place = np.empty(len(values), dtype=np.int64)
    place[half], place[~half] = np.nanmean(values[~half], 0).argmax(), np.nanmean(values[half], 0).argmax()
    peak = values[np.arange(len(values)), place]
    return above(what, peak, values[:, -1], least=least), place


def falling(what: str, values: Array) -> list[Part]:
    """Every value (seeds, points) below the one before it: a part for each step."""
    return [above(f"{what}: {i} over {i + 1}", values[:, i - 1], values[:, i]) for i in range(1, values.shape[1])]


def ordered(names: Sequence[str], values: Sequence[Array]) -> list[Part]:
    """Each entry's values (seeds,) above those of the next: a part for each neighbouring pair."""
    return [
        above(f"{names[i]} over {names[i + 1]}", values[i], values[i + 1]) for i in range(len(names) - 1)
    ]
