"""Which samples stand at a gate: some drawn, those the reward model likes least, and those that annotators flagged. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from rlback.labelling.batches import Stored
from rlback.records import Comparison

SHOWN, WORST, FLAGGED = 10, 3, 2


def choose(
    cross: Sequence[Stored], margins: Mapping[str, float], flags: Mapping[str, Sequence[str]], seed: int
) -> list[dict[str, Any]]:
    """At most ten comparisons of candidate and start, as evidence holds them, each with why it is there.

    Three are `worst`: the reward model scores the candidate lowest against the start. Two are `flagged`, by most
    flags. The rest are `random`. The kinds take turns, so that the first three are one of each where there are all.
    """
    left = {item.id: item for item in cross}
    worst = sorted((i for i in left if margins.get(i, 0.0) < 0), key=lambda i: (margins[i], i))[:WORST]
    flagged = sorted((i for i in left if flags.get(i) and i not in worst), key=lambda i: (-len(flags[i]), i))[:FLAGGED]
    others = [i for i in left if i not in worst and i not in flagged]
    drawn = random.Random(seed).sample(others, min(len(others), SHOWN - len(worst) - len(flagged)))
    kinds = [("random", drawn), ("worst", worst), ("flagged", flagged)]
    ordered = [(why, ids[n]) for n in range(SHOWN) for why, ids in kinds if n < len(ids)]
    return [
        {**_sample(left[i].comparison), "why": why, **({"flags": sorted(set(flags[i]))} if why == "flagged" else {})}
        for why, i in ordered
    ]  # fmt: skip


def why_shown(sample: Mapping[str, Any]) -> str:
    """In words why a sample stands at its gate; empty where older evidence does not say."""
    words = {"random": "drawn", "worst": "lowest by the reward model, against start"}
    why = sample.get("why", "")
    return f"flagged by annotators: {', '.join(sample['flags'])}" if why == "flagged" else words.get(why, "")


def _sample(c: Comparison) -> dict[str, Any]:
    """Where an environment wrote, on either side, is said; nothing where none did."""
    answers = {side: [list(a) for a in of.answers] for side, of in (("candidate", c.a), ("start", c.b))}
    finished = [c.a.finished, c.b.finished]
    found = {"prompt": c.prompt, "candidate": c.a.text, "start": c.b.text, "finished": finished}
    return {**found, "answers": answers} if any(answers.values()) else found
