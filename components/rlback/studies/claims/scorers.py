"""Claims on ensembles of reward models and on methods without one: C9 to C13."""

from __future__ import annotations

import numpy as np

from rlback.studies.claims.evidence import Evidence, NotMeasured
from rlback.studies.claims.verdicts import Array, Finding, above, peak_against_end

#: n of best-of-n under ensembles, and how the members are joined.
ENSEMBLE_BEST_OF = (16, 64, 256, 1024)
#: KL penalties towards the base, as they stand in arm names; none first.
WEIGHTS = ("", "-kl-0.03", "-kl-0.1", "-kl-0.3")
#: DPO's beta, as it stands in arm names, smallest first.
DPO_BETAS = ("0.03", "0.3", "1", "3", "10", "30")
#: How far below a falling curve may end and still count as not falling, in standard deviations of the base.
LEVEL = 0.05


def c09(evidence: Evidence) -> Finding:
    """Under 25 % flipped labels best-of-n falls with an ensemble's mean, and not with its lowest or its cautious score."""
    parts = []
    for how in ("mean", "wco", "uwo"):
        runs = [("noise-25", f"bon-{how}-{n}") for n in ENSEMBLE_BEST_OF]
        gold = np.stack(evidence.final("gold", *runs), 1)
        falls, place = peak_against_end(f"gold of {how} at its peak over its end", gold)
        if how != "mean":
            peak = gold[np.arange(len(gold)), place]
            falls = above(f"gold of {how} at its end over its peak: not much below", gold[:, -1], peak, least=-LEVEL)
        parts.append(falls)
    return Finding(tuple(parts), "bon-mean-n, bon-wco-n, bon-uwo-n for n = 16 to 1024, setting noise-25")


def c10(evidence: Evidence) -> Finding:
    """With RL an ensemble's lowest or cautious score beats one model at every KL weight; with a little KL, much KL alone."""
    single = [("main", f"vanilla{w}") for w in WEIGHTS]
    parts = []
    for how in ("wco", "uwo"):
        golds = evidence.final("gold", *single, *(("main", f"vanilla-{how}{w}") for w in WEIGHTS))
        for i, weight in enumerate(WEIGHTS):
            name = weight.removeprefix("-kl-") or "0"
            # >=, so that being as good is enough.
            parts.append(above(f"final gold, {how} over one model at KL weight {name}", golds[len(WEIGHTS) + i], golds[i],
                               least=-LEVEL))  # fmt: skip
    little, much = evidence.final("gold", ("main", "vanilla-uwo-kl-0.03"), ("main", "vanilla-kl-0.3"))
    parts.append(above("final gold, uwo at KL weight 0.03 over one model at 0.3", little, much))
    return Finding(tuple(parts), "vanilla, vanilla-wco and vanilla-uwo at four KL weights, setting main")


def c11(evidence: Evidence) -> Finding:
    """The members' variance on the policy's samples grows twofold or more under the mean, and less under UWO."""
    runs = {how: [("main", f"reach-{how}-{k}") for k in ("0.1", "10")] for how in ("mean", "uwo")}
    seeds = evidence.seeds(*runs["mean"], *runs["uwo"])
    grown = {}
    for how, (near, far) in runs.items():
        start, end = (evidence.at_candidate("spread", *run, seeds) for run in (near, far))
        if not (np.isfinite(start).all() and np.isfinite(end).all()):
            raise NotMeasured("the spread of the members was not recorded")
        grown[how] = 2 * np.log(end / start)
    twofold = float(np.log(2))
    under = above("log of the ratio of variances, end to start, under the mean", grown["mean"], least=twofold)
    less = above("the same, mean over UWO", grown["mean"], grown["uwo"])
    return Finding((under, less), "reach-mean-k and reach-uwo-k after a tenth of a segment and after ten, setting main")


def c12(evidence: Evidence) -> Finding:
    """DPO's gold has a peak inside the range of beta; at a low one the policy is better before the end of the pass."""
    runs = [("main", f"dpo-beta-{b}") for b in DPO_BETAS]
    gold = np.stack(evidence.final("gold", *runs), 1)
    to_low, place = peak_against_end("final gold at the best beta over the largest", gold)
    rows = np.arange(len(gold))
    to_high = above("final gold at the best beta over the smallest", gold[rows, place], gold[:, 0])
    steps, (along,) = evidence.curve(("gold",), *runs[0])
    early = (steps >= 0.25 * steps[-1]) & (steps <= 0.5 * steps[-1])
    before = above("gold at 25 to 50 % of the pass over its end, smallest beta", along[:, early].mean(1), along[:, -1])
    return Finding((to_low, to_high, before), "dpo-beta-b along its one segment, b from 0.03 to 30, setting main")


def c13(evidence: Evidence) -> Finding:
    """Online beats offline at equal KL; the offline policy's implicit reward is the better classifier of base pairs."""
    online, offline = ("main", "dpo-online-all"), ("main", "dpo-offline-all")
    seeds = evidence.seeds(online, offline)
    rounds = evidence.rounds(*online)
    columns = ("kl", "gold", "accuracy_implicit")
    on = [evidence.by_round(c, *online, rounds, seeds) for c in columns]
    off = evidence.curve(columns, *offline, seeds=seeds)[1]
    for path in (on, off):  # both begin at the base policy, whose implicit reward is a tie everywhere
        path[:] = [
            np.concatenate([np.full((len(seeds), 1), start), column], 1)
            for start, column in zip((0.0, 0.0, 0.5), path, strict=True)
        ]
    shared = 0.9 * np.minimum(on[0].max(1), off[0].max(1))
    gold = above("gold at nine tenths of the KL that both reach", *(_at_kl(*path[:2], shared) for path in (on, off)))
    pairs = above(
        "base pairs ordered as gold does by the implicit reward, at the same KL, offline over online",
        *(_at_kl(path[0], path[2], shared) for path in (off, on)),
    )
    about = "dpo-online-all by rounds against dpo-offline-all by steps, both on all of equally many labels"
    return Finding((gold, pairs), about)


def _at_kl(kl: Array, gold: Array, wanted: Array) -> Array:
    """What a column is (seeds,) where paths (seeds, points) first reach the KL wanted, by straight lines between points."""
    found = np.full(len(wanted), np.nan)
    for s, target in enumerate(wanted):
        i = int(np.argmax(kl[s] >= target))
        if kl[s][i] >= target:
            found[s] = gold[s][i] if i == 0 else np.interp(target, kl[s][i - 1 : i + 1], gold[s][i - 1 : i + 1])
    return found
