"""Claims on refreshing, on which labels and which start, and on what a reward model is worth to another policy: C14 to C21."""

from __future__ import annotations

import numpy as np

from rlback.studies.claims.evidence import Evidence, NotMeasured
from rlback.studies.claims.verdicts import Finding, above, falling, ordered, peak_against_end

#: Rounds that claims look at one by one; later ones differ by little.
ROUNDS = 4
#: Lengths, in segments, of the arms reach-k, which are vanilla's path measured in full where it is that long.
REACH = ("0.1", "0.5", "1", "2", "3")
#: Segments that the sampler of arm relearn-k was trained for.
SAMPLERS = (1, 3, 6)


def c14(evidence: Evidence) -> Finding:
    """Refreshing shrinks the gap between proxy and gold from round to round, and buys less and less gold."""
    seeds = evidence.seeds(("main", "from-base-segment"))
    gold, proxy = (
        evidence.by_round(c, "main", "from-base-segment", ROUNDS, seeds) for c in ("gold", "proxy_standardised")
    )
    gap = proxy - gold
    gains = np.diff(gold, axis=1)
    parts = [above("gap after the first round over the gap after the last", gap[:, 0], gap[:, -1])]
    parts += falling("gap after round", gap)
    parts.append(above("gain of the second round over the gain of the last", gains[:, 0], gains[:, -1]))
    return Finding(tuple(parts), f"from-base-segment, rounds 1 to {ROUNDS}, equally long each, setting main")


def c15(evidence: Evidence) -> Finding:
    """Data: all so far beats the last and a sample. Start: the base beats half way, which beats the last policy."""
    arms = ("from-base", "from-base-data-last", "from-base-data-sampled", "liti-0.5", "take-last")
    gold = dict(zip(arms, evidence.final("gold", *(("main", arm) for arm in arms)), strict=True))
    parts = [above(f"final gold, all data over {n}", gold["from-base"], gold[f"from-base-data-{n}"]) for n in ("last", "sampled")]
    chain = ("from-base", "liti-0.5", "take-last")
    parts += ordered([f"final gold, {c}" for c in chain], [gold[c] for c in chain])
    return Finding(tuple(parts), f"{', '.join(arms)}, setting main")


def c16(evidence: Evidence) -> Finding:
    """From one and the same overoptimised policy, going on stays behind going back to the base, labels being equal."""
    one, other = ("main", "overrun-take-last"), ("main", "overrun-back")
    seeds = evidence.seeds(one, other)
    on, back = (evidence.by_round("gold", *run, 3, seeds) for run in (one, other))
    _, (along,) = evidence.curve(("gold",), *one, seeds=seeds)
    fell, _ = peak_against_end("before it, the first round fell from its peak", along)
    same = float(np.nanmax(np.abs(on[:, 0] - back[:, 0])))
    if same > 1e-9:
        raise NotMeasured(f"the twins do not start from the same policy: gold differs by {same:.3g} after the first round")
    parts = [above(f"gold after round {r + 1}, back over on", back[:, r], on[:, r]) for r in (1, 2)]
    compared = "overrun-take-last and overrun-back: rounds of eight segments, the first the same, setting main"
    return Finding((fell, *parts), compared)


def c17(evidence: Evidence) -> Finding:
    """On the policy's own samples a reward model gets worse with KL; a refresh restores it."""
    runs = [("main", f"reach-{k}") for k in REACH]
    seeds = evidence.seeds(*runs, ("main", "take-last"))
    accuracy, kl = (np.stack([evidence.at_candidate(c, *run, seeds) for run in runs], 1) for c in ("accuracy_on_policy", "kl"))
    d = np.sqrt(kl) - np.sqrt(kl).mean(1, keepdims=True)
    slope = (d * accuracy).sum(1) / (d**2).sum(1)
    refreshed = evidence.by_round("accuracy_on_policy", "main", "take-last", int(REACH[-1]), seeds)[:, -1]
    parts = (
        above("fall of accuracy per unit of sqrt(KL), one reward model", -slope),
        above(f"accuracy after {REACH[-1]} segments, refreshed after each over never", refreshed, accuracy[:, -1]),
    )
    return Finding(parts, f"ends of reach-k, k = {', '.join(REACH)} segments; take-last after {REACH[-1]} rounds, setting main")


def c18(evidence: Evidence) -> Finding:
    """With as many labels, those on the policy's own samples beat those on the base alone, the training being the same."""
    mixed, base = evidence.final("gold", ("main", "take-last"), ("main", "take-last-up-front"))
    return Finding((above("final gold, policy data mixed in over base data alone", mixed, base),),
                   "take-last and take-last-up-front: equal labels and steps, setting main")  # fmt: skip


def c19(evidence: Evidence) -> Finding:
    """Labels throughout beat labels at the start, in equal number."""
    runs = ("main", "take-last"), ("main", "vanilla-up-front")
    throughout, start = evidence.final("gold", *runs)
    labels = [np.nanmean(v) for v in evidence.final("labels", *runs)]
    if abs(labels[0] - labels[1]) > 0.1 * labels[1]:
        raise NotMeasured(f"labels differ: {labels[0]:.0f} throughout, {labels[1]:.0f} at the start")
    return Finding((above("final gold, throughout over at the start", throughout, start),),
                   "take-last and vanilla-up-front, setting main")  # fmt: skip


def c20(evidence: Evidence) -> Finding:
    """For their labels, offline < periodic < online; online without a safeguard collapses in some runs."""
    arms = ("online", "from-base", "vanilla-up-front")
    runs = [("main", arm) for arm in arms]
    gold, labels = evidence.final("gold", *runs), [float(np.nanmean(v)) for v in evidence.final("labels", *runs)]
    if max(labels) > 1.1 * min(labels):
        shown = ", ".join(f"{a} {n:.0f}" for a, n in zip(arms, labels, strict=True))
        raise NotMeasured(f"the arms' labels differ by more than a tenth: {shown}")
    unsafe, safe = evidence.final("gold", ("main", "online-last"), ("main", "online"))
    collapsed = [np.where(np.isfinite(g), g < 0, True).astype(float) for g in (unsafe, safe)]
    parts = ordered([f"final gold, {a}" for a in arms], gold)
    parts.append(above("share of runs that end below the base, online-last over online", collapsed[0], collapsed[1]))
    return Finding(tuple(parts), "vanilla-up-front, from-base, online (short rounds), online-last (its last labels only)",
                   "order is tested at equal labels, not as labels to a win rate")  # fmt: skip


def c21(evidence: Evidence) -> Finding:
    """A reward model fitted to the samples of a longer-trained policy serves a fresh one worse."""
    runs = [("main", f"relearn-{k}") for k in SAMPLERS]
    seeds = evidence.seeds(*runs)
    ends = []
    for run in runs:
        steps, (gold,) = evidence.curve(("gold",), *run, round_=2, seeds=seeds)
        ends.append((steps, gold))
    last = min(steps[-1] for steps, _ in ends)
    relearned = [gold[:, int(np.searchsorted(steps, last))] for steps, gold in ends]
    names = [f"gold of a fresh policy, sampler of {k} segments" for k in SAMPLERS]
    return Finding(tuple(ordered(names, relearned)),
                   "relearn-k: labels on a policy of k segments alone, then a new one from the base")  # fmt: skip
