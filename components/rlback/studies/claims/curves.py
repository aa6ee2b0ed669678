"""Claims on how gold falls while the proxy rises: C1 to C8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlback.maths import overoptimisation as forms
from rlback.studies.claims.evidence import Evidence, NotMeasured
from rlback.studies.claims.verdicts import Array, Finding, Part, above, peak_against_end, resample

#: n of the arms bon-n.
BEST_OF = (2, 4, 8, 16, 32, 64, 128, 256, 1024)
#: Settings by how much of gold's features the reward model sees, smallest first.
SIZES = ("size-2", "main", "size-6")
#: Arms by initial labels, fewest first; vanilla itself has the study's number.
DATA = ("vanilla-n15", "vanilla-n60", "vanilla-n240", "vanilla-n960")
#: Vanilla arms with a KL penalty towards the base, smallest first.
PENALTIES = ("vanilla-kl-0.03", "vanilla-kl-0.1", "vanilla-kl-0.3", "vanilla-kl-1")
#: Distances below this are left out of fits: the form for RL is not meant for them.
NEAR = 0.5
#: By how much two golds may differ and still be called equal, in standard deviations of the base.
EQUAL = 0.1

_RL = ("kl", "gold", "proxy_standardised")


def c01(evidence: Evidence) -> Finding:
    """Fixed reward model: gold has an interior peak, the proxy goes on rising."""
    _, (gold, proxy) = evidence.curve(("gold", "proxy_standardised"), "main", "vanilla")
    peak, place = peak_against_end("gold at its peak over gold at the end", gold)
    rows = np.arange(len(gold))
    parts = [peak, above("gold at its peak over the base's", gold[rows, place])]
    parts.append(above("proxy at the end over proxy at the peak of gold", proxy[:, -1], proxy[rows, place]))
    return Finding(tuple(parts), "vanilla along its one segment, setting main")


def c02(evidence: Evidence) -> Finding:
    """Best-of-n prefers d (alpha - beta d), reinforcement learning d (alpha - beta log d)."""
    d_bon, g_bon = _best_of_curve(evidence, "main")
    _, (kl, gold, _) = evidence.curve(_RL, "main", "vanilla")
    parts = []
    sides = (("best-of-n", d_bon, g_bon, "best_of_n", "rl"), ("RL", np.sqrt(kl), gold, "rl", "best_of_n"))
    for name, d, g, own, other in sides:
        def lead(rows: NDArray[np.int64], d: Array = d, g: Array = g, own=own, other=other) -> float:  # type: ignore[no-untyped-def]
            x, y = d[rows].mean(0), g[rows].mean(0)
            return forms.fit(x, y, other, least=NEAR).aicc - forms.fit(x, y, own, least=NEAR).aicc

        def explained(rows: NDArray[np.int64], d: Array = d, g: Array = g, own=own) -> float:  # type: ignore[no-untyped-def]
            x, y = d[rows].mean(0), g[rows].mean(0)
            far = y[x > NEAR]
            return 1 - forms.fit(x, y, own, least=NEAR).residual / float(((far - far.mean()) ** 2).sum())

        parts.append(resample(f"AICc of the other form less that of its own, {name}", lead, len(g)))
        parts.append(resample(f"R2 of its own form, {name}", explained, len(g), least=0.9))
    return Finding(tuple(parts), "mean curves over seeds of bon-n and of vanilla, setting main")


def c03(evidence: Evidence) -> Finding:
    """Reinforcement learning spends more KL than best-of-n for the same gold: at half the lower of both peaks."""
    d_bon, g_bon = _best_of_curve(evidence, "main")
    _, (kl, gold, _) = evidence.curve(_RL, "main", "vanilla")
    d_rl = np.sqrt(kl)

    def excess(rows: NDArray[np.int64]) -> float:
        bon, rl = (d_bon[rows].mean(0), g_bon[rows].mean(0)), (d_rl[rows].mean(0), gold[rows].mean(0))
        target = 0.5 * min(bon[1].max(), rl[1].max())
        return _first_at(*rl, target) - _first_at(*bon, target)

    part = resample("sqrt(KL) of RL less that of best-of-n at half of the peak", excess, len(gold))
    return Finding((part,), "mean curves over seeds of bon-n and of vanilla, setting main")


def c04(evidence: Evidence) -> Finding:
    """Gold against proxy: RL starts with the larger gap and peaks higher."""
    _, (_, gold, proxy) = evidence.curve(_RL, "main", "vanilla")
    bon = [(f"bon-{n}", *_at_end(evidence, "main", n)) for n in BEST_OF if evidence.has("main", f"bon-{n}")]
    if len(bon) < 4:
        raise NotMeasured("fewer than four arms bon-n in setting main")
    b_gold, b_proxy = np.stack([g for _, _, g, _ in bon], 1), np.stack([p for _, _, _, p in bon], 1)
    level = 0.5 * min(b_proxy.mean(0).max(), proxy.mean(0).max())

    def gap(rows: NDArray[np.int64]) -> float:
        rl = level - np.interp(level, proxy[rows].mean(0), gold[rows].mean(0))
        return rl - (level - np.interp(level, b_proxy[rows].mean(0), b_gold[rows].mean(0)))

    parts = [resample(f"gap at proxy {level:.2f}, RL less best-of-n", gap, len(gold))]
    parts.append(resample("highest gold, RL less best-of-n", lambda r: _top(gold, r) - _top(b_gold, r), len(gold)))
    return Finding(tuple(parts), "vanilla and bon-n on the axis of the standardised proxy, setting main")


def c05(evidence: Evidence) -> Finding:
    """A larger reward model has a higher peak and a smaller beta."""
    seeds = evidence.seeds(*((s, "vanilla") for s in SIZES))
    curves = [evidence.curve(_RL, s, "vanilla", seeds=seeds)[1] for s in SIZES]

    def beta(kl: Array, gold: Array, rows: NDArray[np.int64]) -> float:
        return forms.fit(np.sqrt(kl[rows]).mean(0), gold[rows].mean(0), "rl", least=NEAR).second

    parts = []
    for i in range(1, len(SIZES)):
        (kl0, g0, _), (kl1, g1, _) = curves[i - 1], curves[i]
        pair = f"{SIZES[i]} over {SIZES[i - 1]}"
        parts.append(resample(f"peak of mean gold, {pair}", lambda r, a=g1, b=g0: _top(a, r) - _top(b, r), len(seeds)))
        parts.append(resample(f"beta of the RL form, less of it, {pair}",
                              lambda r, a=(kl0, g0), b=(kl1, g1): beta(*a, r) - beta(*b, r), len(seeds)))  # fmt: skip
    return Finding(tuple(parts), "vanilla where the reward model sees 2, 4 and 6 of 6 features")


def c06(evidence: Evidence) -> Finding:
    """More labels: more gold and less fall; near nothing below a threshold; passes over them are no substitute."""
    runs = [("main", arm) for arm in DATA]
    seeds = evidence.seeds(*runs, ("epochs-4", "vanilla-n60"))
    golds = [evidence.curve(("gold",), *run, seeds=seeds)[1][0] for run in runs]
    parts = [
        resample(f"peak of mean gold, {DATA[i]} over {DATA[i - 1]}",
                 lambda r, a=golds[i], b=golds[i - 1]: _top(a, r) - _top(b, r), len(seeds))
        for i in range(1, len(DATA))
    ]  # fmt: skip
    parts.append(above("final gold, most labels over fewest", golds[-1][:, -1], golds[0][:, -1]))
    four = evidence.curve(("gold",), "epochs-4", "vanilla-n60", seeds=seeds)[1][0]
    gained = [c.mean(0).argmax() for c in (golds[1], four, golds[2])]
    once, passes, more = (c[:, p] for c, p in zip((golds[1], four, golds[2]), gained, strict=True))
    parts.append(above("four times the labels over four passes, at their peaks", more, passes))
    parts.append(above("four passes no better than one", once, passes, least=-EQUAL))
    return Finding(tuple(parts), "vanilla with 15, 60, 240 and 960 labels; 60 labels weighed four times (epochs-4)",
                   "the value of the threshold need not carry over, and is not tested")  # fmt: skip


def c07(evidence: Evidence) -> Finding:
    """A larger policy gains less and peaks at the same KL: here one whose base is tilted towards gold beforehand."""
    seeds = evidence.seeds(("main", "vanilla"), ("policy-large", "vanilla"))
    (kl0, g0), (kl1, g1) = (evidence.curve(("kl", "gold"), s, "vanilla", seeds=seeds)[1] for s in ("main", "policy-large"))

    def place(kl: Array, gold: Array, rows: NDArray[np.int64]) -> float:
        return float(np.sqrt(kl[rows]).mean(0)[gold[rows].mean(0).argmax()])

    gain = resample("highest mean gold, smaller policy over larger", lambda r: _top(g0, r) - _top(g1, r), len(seeds))
    one, other = (
        resample("sqrt(KL) of the peak", lambda r, k=k, g=g: place(k, g, r), len(seeds)) for k, g in ((kl0, g0), (kl1, g1))
    )
    overlap = min(one.high, other.high) - max(one.low, other.low)
    same = Part("overlap of the intervals of sqrt(KL) at the peak", overlap, overlap, overlap, len(seeds))
    return Finding((gain, same), "vanilla in main and in policy-large, each in standard deviations of its own base")


def c08(evidence: Evidence) -> Finding:
    """A KL penalty moves along the frontier of gold against KL, not beyond it, and leaves the larger gap to the proxy."""
    seeds = evidence.seeds(("main", "vanilla"), *(("main", arm) for arm in PENALTIES))
    free = evidence.curve(_RL, "main", "vanilla", seeds=seeds)[1]
    distances, gaps = [], []
    for arm in PENALTIES:
        kl, gold, proxy = evidence.curve(_RL, "main", arm, seeds=seeds)[1]
        for s in range(len(seeds)):
            end = np.sqrt(kl[s, -1])
            at = [np.interp(end, np.sqrt(free[0][s]), column[s]) for column in free[1:]]
            distances.append(gold[s, -1] - at[0])
            gaps.append((proxy[s, -1] - gold[s, -1]) - (at[1] - at[0]))
    off, gap = (np.reshape(v, (len(PENALTIES), -1)).mean(0) for v in (distances, gaps))
    parts = [above("gold at equal KL, with a penalty: not much above", -off, least=-EQUAL)]
    parts.append(above("gold at equal KL, with a penalty: not much below", off, least=-EQUAL))
    parts.append(above("gap of proxy and gold at equal KL, with a penalty over without", gap))
    return Finding(tuple(parts), f"ends of {', '.join(PENALTIES)} against vanilla at the same KL, setting main")


def _top(gold: Array, rows: NDArray[np.int64]) -> float:
    """Highest point of the mean curve of gold (seeds, points) over the seeds drawn."""
    return float(gold[rows].mean(0).max())


def _at_end(evidence: Evidence, setting: str, n: int) -> tuple[Array, Array, Array]:
    """sqrt(KL), gold and standardised proxy (seeds,) of bon-n."""
    run = (setting, f"bon-{n}")
    kl, gold, proxy = (evidence.final(c, run)[0] for c in ("kl", "gold", "proxy_standardised"))
    return np.sqrt(kl), gold, proxy


def _best_of_curve(evidence: Evidence, setting: str) -> tuple[Array, Array]:
    """sqrt(KL) and gold, (seeds, points), of the arms bon-n there are. NotMeasured for fewer than five."""
    there = [n for n in BEST_OF if evidence.has(setting, f"bon-{n}")]
    if len(there) < 5:
        raise NotMeasured(f"{len(there)} arms bon-n in setting {setting}; a curve needs 5")
    found = [_at_end(evidence, setting, n) for n in there]
    return np.stack([d for d, _, _ in found], 1), np.stack([g for _, g, _ in found], 1)


def _first_at(distance: Array, gold: Array, target: float) -> float:
    """Smallest distance with gold of at least the target, by straight lines from (0, 0); NaN if there is none."""
    d, g = np.concatenate([[0.0], distance]), np.concatenate([[0.0], gold])
    over = np.flatnonzero(g >= target)
    if not len(over):
        return float("nan")
    i = int(over[0])
    return float(d[i]) if i == 0 else float(d[i - 1] + (target - g[i - 1]) / (g[i] - g[i - 1]) * (d[i] - d[i - 1]))


