"""What a report finds in its data and says in sentences: who ended where, and what was declined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlback.evaluation.svg import Data, number


def has_gold(data: Data) -> bool:
    """Whether anything in the report has a gold reward."""
    methods = list(data["methods"].values())
    if any(method.get("gold") is not None for method in methods):
        return True
    return any(point.get("gold") is not None for method in methods for point in method["curve"])


def gated_rounds(method: Data) -> Sequence[Data]:
    """The rounds of a method that has a gate; none for a method whose candidates all passed unseen."""
    rounds: Sequence[Data] = method.get("rounds") or []
    seen = any(r.get("win_rate") or r["decision"] != "approved" for r in rounds)
    return rounds if seen else []


def own_base(method: Data, base: Data) -> dict[str, Any]:
    """The base policy by the name the method has for it: each campaign registers its own copy."""
    rounds = method.get("rounds") or []
    return {**base, "name": rounds[0]["start"] if rounds else base["name"]}


def returns(method: Data) -> dict[int, str]:
    """Round number -> the checkpoint the policy went back to, for every declined round that was undone.

    A method that trains on from a declined candidate (no-rollback) went back to nothing.
    """
    rounds = gated_rounds(method)
    targets: dict[int, str] = {}
    declined: set[str] = set()
    for this, following in zip(rounds, [*rounds[1:], None], strict=False):
        if this["decision"] != "declined":
            continue
        target = following["start"] if following else this["start"]
        declined.add(this["candidate"])
        if target not in declined:
            targets[this["round"]] = target
    return targets if not _trains_on(rounds) else {}


def _trains_on(rounds: Sequence[Data]) -> bool:
    declined = {r["candidate"] for r in rounds if r["decision"] == "declined"}
    return any(r["start"] in declined for r in rounds)


def held(method: Data, base: Data) -> str:
    """The policy a method ends with: the last approved one, or the last one where nothing is ever undone."""
    rounds = gated_rounds(method)
    if _trains_on(rounds):
        return str(rounds[-1]["candidate"])
    return str(method.get("approved") or own_base(method, base)["name"])


def headline(data: Data) -> str:
    """The report in one sentence: where each method ended, and in so many words which one is ahead."""
    methods = list(data["methods"].values())
    scored = [m for m in methods if m.get("gold") is not None]
    if not scored:
        return " ".join(f"{_where_it_stands(m, data['base'])}." for m in methods)
    if len(methods) == 1:
        only = methods[0]
        stayed = " and stayed at the base" if _stayed(only, data["base"]) else ""
        budget = _labels(only.get("labels"))
        return f"{only['label']} ended at gold {number(only['gold'])}{stayed}, with {budget}."
    ranked = sorted(scored, key=lambda m: -m["gold"])
    budget = _budget(methods)
    if len(scored) == 1:
        only = scored[0]
        return f"Only {only['label']} has a gold reward, {number(only['gold'])}: nothing to compare it with."
    first, second, last = ranked[0], ranked[1], ranked[-1]
    lead = number(first["gold"] - second["gold"])
    if len(methods) > 3:
        return (
            f"{first['label']} ended highest of {len(methods)} methods, at gold {number(first['gold'])}, "
            f"{lead} ahead of {second['label']}; {last['label']} ended lowest, at {number(last['gold'])}; "
            f"{budget}."
        )
    ends = ", ".join(
        f"{m['label']} {'' if i else 'ended '}at gold {number(m.get('gold'))}" for i, m in enumerate(methods)
    )
    verdict = f"{first['label']} is ahead by {lead}" if lead != number(0.0) else "no difference at the top"
    return f"{ends}, {budget}: {verdict}."


def _budget(methods: Sequence[Data]) -> str:
    counts = [m.get("labels") for m in methods]
    if len(set(counts)) == 1:
        return f"{'both' if len(counts) == 2 else 'each'} with {_labels(counts[0])}"
    if len(counts) > 3:
        known = [c for c in counts if c is not None]
        return f"with {min(known):,} to {_labels(max(known))}, not the same for all"
    return f"with {_listed([_labels(count) for count in counts])}"


def story(data: Data) -> list[str]:
    """What a reader should know next: refusals and ways back, who is below the base, how far to trust it."""
    base, told = data["base"], []
    for method in data["methods"].values():
        if gated_rounds(method):
            told.append(_gate_story(method, base))
        peak, end = method.get("gold_peak"), method.get("gold")
        if peak is not None and end is not None and peak - end > 0.05:
            step, proxy = method.get("gold_peak_step", "?"), number(method.get("proxy"))
            told.append(
                f"{method['label']} passed gold {number(peak)} at step {step} and went on to {number(end)}, "
                f"with a proxy reward of {proxy}."
            )
    if base.get("gold") is not None:
        below = [
            m["label"]
            for m in data["methods"].values()
            if m.get("gold") is not None and m["gold"] < base["gold"]
        ]
        told.append(
            f"The base policy has gold {number(base['gold'])}"
            + (f"; {_listed(below)} ended below it." if below else "; no method ended below it.")
        )
    if len(data["methods"]) > 1:
        if has_gold(data):
            told.append("This is one seed: whether one method beats another takes several.")
        else:
            told.append(
                "No fixed scorer stands for the people here, so no method is named the better one; the win "
                "rates at the gates are the evidence."
            )
    return told


def _gate_story(method: Data, base: Data) -> str:
    rounds, back = gated_rounds(method), returns(method)
    declined = [r for r in rounds if r["decision"] == "declined"]
    if not declined:
        said = f"{method['label']}: no candidate was declined."
    elif not back:
        said = f"{method['label']} trained on from its declined candidates."
    else:
        times = {1: "once", 2: "twice"}.get(len(back), f"{len(back)} times")
        where = "; ".join(
            f"after round{'s' if len(own) > 1 else ''} {_listed([str(n) for n in own])} to {target}"
            for target, own in _by_target(back).items()
        )
        said = f"{method['label']} went back {times}: {where}."
    waiting = [r["candidate"] for r in rounds if r["decision"] == "open"]
    end = held(method, base)
    if _trains_on(rounds):
        now = f" It ended at {end}" + (", which was declined." if end == declined[-1]["candidate"] else ".")
    elif _moved(method, base):
        now = f" Approved now: {method['approved']}."
    else:
        now = f" Nothing was approved: the base {end} stays."
    return said + now + (f" {_listed(waiting)} waits for a decision." if waiting else "")


def _by_target(back: Mapping[int, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for round_, target in back.items():
        found.setdefault(target, []).append(round_)
    return found


def _stayed(method: Data, base: Data) -> bool:
    return bool(gated_rounds(method)) and held(method, base) == own_base(method, base)["name"]


def _moved(method: Data, base: Data) -> bool:
    return method.get("approved") not in (None, own_base(method, base)["name"])


def _where_it_stands(method: Data, base: Data) -> str:
    rounds = gated_rounds(method)
    if not rounds:
        return f"{method['label']} ended after {_labels(method.get('labels'))}, without a gate"
    approved = sum(r["decision"] == "approved" for r in rounds)
    holds = f"the base {held(method, base)}" if _stayed(method, base) else held(method, base)
    share = f"{approved} of {len(rounds)} candidates approved"
    return f"{method['label']}: {share} with {_labels(method.get('labels'))}; it holds {holds}"


def _labels(count: int | None) -> str:
    return "an unknown number of labels" if count is None else f"{count:,} label{'' if count == 1 else 's'}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
