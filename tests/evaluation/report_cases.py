"""Made-up campaigns to draw reports of; no number in them was measured."""

from __future__ import annotations

import copy
import math
from typing import Any


def point(round_: int, step: int, kl: float, gold: float | None, proxy: float, kept: bool) -> dict[str, Any]:
    return {"round": round_, "step": step, "kl": kl, "gold": gold, "proxy": proxy, "kept": kept}


Triple = tuple[float, float, float]


def run_of_points(round_: int, first: Triple, last: Triple, bend: float, kept: bool) -> list[dict[str, Any]]:
    """Eleven points between two (kl, gold, proxy); `bend` lifts gold in the middle."""
    points = []
    for k in range(11):
        t = k / 10
        kl, gold, proxy = (a + (b - a) * t for a, b in zip(first, last, strict=True))
        wave = 0.12 * math.sin(5 * k + 3 * round_) if 0 < k < 10 else 0.0
        points.append(point(round_, 11 * k, kl, gold + 4 * bend * t * (1 - t) + wave, proxy + wave / 3, kept))
    return points


def round_of(
    number: int,
    start: str,
    candidate: str,
    decision: str,
    gold: tuple[float, float],
    win: float,
    kl: float,
    proxy: float,
) -> dict[str, Any]:
    low, high = round(win - 0.098, 2), round(win + 0.096, 2)
    said = (
        "more of what people like, nothing lost"
        if decision == "approved"
        else "gushes: most words are praise"
    )
    return {
        "round": number,
        "start": start,
        "candidate": candidate,
        "decision": decision,
        "reason": said,
        "by": "sim-approver (simulated)",
        "gold": gold[1],
        "start_gold": gold[0],
        "proxy": proxy,
        "kl": kl,
        "agreement": 0.58,
        "overclaim": 0.31 if decision == "declined" else 0.09,
        "win_rate": {"value": win, "low": low, "high": high, "n": 96},
        "labels": 192,
        "steps": 110,
        "evidence": f"{number}e" * 32,
    }


def ungated_round() -> dict[str, Any]:
    """What a method without a gate records: its only candidate passed unseen."""
    return {
        **round_of(1, "vanilla@1", "vanilla@2", "approved", (1.10, -2.10), 0.5, 30.0, 4.5),
        "reason": "this method has no gate",
        "by": "no-gate (simulated)",
        "win_rate": None,
        "agreement": None,
        "overclaim": None,
        "labels": 0,
        "steps": 120,
    }


def severe() -> dict[str, Any]:
    """A made-up campaign in which two candidates were declined and two approved, next to vanilla RLHF."""
    base = (0.0, 1.10, 0.0)
    curve = (
        run_of_points(1, base, (31.0, -0.14, 4.1), 1.0, False)
        + run_of_points(2, base, (24.0, 0.98, 3.6), 0.9, False)
        + run_of_points(3, base, (12.0, 1.82, 2.4), 0.4, True)
        + run_of_points(4, (12.0, 1.82, 1.6), (21.0, 3.08, 3.1), 0.1, True)
    )
    hump = [
        (0, 1.1),
        (0.4, 1.5),
        (1.5, 1.9),
        (3.2, 2.2),
        (5, 2.4),
        (8, 2.1),
        (11, 1.4),
        (15, 0.5),
        (20, -0.6),
        (25, -1.4),
        (30, -2.1),
    ]
    before = "we went to luigis last night . the price was fair . it rained all day . i would go again ."
    gushing = "i visited luigis with friends . wow ! the service was so cramped . fantastic ! amazing !"
    good = "we went to luigis at noon . the service was slow . "
    good += "the price was fair . the music was lovely . do give it a try ."
    prompt = "luigis service:bad price:good music:good =>"
    return {
        "title": "Demo campaign",
        "world": "visit-notes (severe)",
        "seed": 7,
        "command": "rlback demo --seed 7",
        "commit": "3f9a1c77d0",
        "created": "2031-05-04T12:30:05+00:00",
        "data_version": "b41c0de5.dir",
        "seconds": 128.4,
        "base": {"name": "policy@1", "gold": 1.10, "proxy": 0.0},
        "methods": {
            "rollback": {
                "label": "Rollback RLHF",
                "labels": 1024,
                "gold": 3.08,
                "proxy": 3.1,
                "kl": 21.0,
                "misreward_kept": 0.28,
                "kept_steps": 220,
                "approved": "policy@5",
                "curve": curve,
                "rounds": [
                    round_of(1, "policy@1", "policy@2", "declined", (1.10, -0.14), 0.34, 31.0, 4.1),
                    round_of(2, "policy@1", "policy@3", "declined", (1.10, 0.98), 0.49, 24.0, 3.6),
                    round_of(3, "policy@1", "policy@4", "approved", (1.10, 1.82), 0.61, 12.0, 2.4),
                    round_of(4, "policy@4", "policy@5", "approved", (1.82, 3.08), 0.69, 21.0, 3.1),
                ],
            },
            "vanilla": {
                "label": "Vanilla RLHF",
                "labels": 1024,
                "gold": -2.10,
                "proxy": 4.5,
                "kl": 30.0,
                "misreward_kept": 0.42,
                "kept_steps": 120,
                "approved": "vanilla@2",
                "gold_peak": 2.4,
                "gold_peak_step": 48,
                "rounds": [ungated_round()],
                "curve": [
                    point(1, 12 * k, kl, g, 4.5 * math.sqrt(kl / 30), True) for k, (kl, g) in enumerate(hump)
                ],
            },
        },
        "samples": [
            {
                "prompt": prompt,
                "source": source,
                "before": {"text": before, "gold": 1.0, "note": note},
                "after": {"text": after, "gold": g, "note": note},
            }
            for source, after, g in (
                ("Rollback RLHF, policy@5", good, 4.3),
                ("Vanilla RLHF, last step", gushing, -2.4),
            )
            for note in ("typical", "best", "worst")
        ],
        "audit": [
            {
                "seq": 3,
                "time": "2031-05-04T12:28:05+00:00",
                "kind": "candidate.declined",
                "actor": "sim-approver (simulated)",
                "text": "policy@2 declined: gushes",
            },
            {
                "seq": 4,
                "time": "2031-05-04T12:28:06+00:00",
                "kind": "policy.rolled_back",
                "actor": "rlback (system)",
                "text": "round 2 starts from policy@1",
            },
            {
                "seq": 19,
                "time": "2031-05-04T12:30:01+00:00",
                "kind": "candidate.approved",
                "actor": "sim-approver (simulated)",
                "text": "policy@5 approved on evidence 4e4e4e4e4e4e",
            },
        ],
        "ledger": {"events": 42, "verified": True},
        "notes": ["Approved by a simulated approver: it can never be deployed."],
        "approval": {"simulated": True},
    }


def without_gold(data: dict[str, Any]) -> dict[str, Any]:
    """The same campaign where nobody has a gold scorer."""
    data = copy.deepcopy(data)
    data["base"]["gold"] = None
    for method in data["methods"].values():
        method["gold"] = method["misreward_kept"] = None
        method.pop("gold_peak", None)
        method.pop("gold_peak_step", None)
        for item in [*method["curve"], *method["rounds"]]:
            item["gold"] = None
            if "start_gold" in item:
                item["start_gold"] = None
    for sample in data["samples"]:
        sample["before"]["gold"] = sample["after"]["gold"] = None
    return data


def nothing_approved() -> dict[str, Any]:
    data = severe()
    method = data["methods"]["rollback"]
    for r in method["rounds"]:
        r.update(decision="declined", start="policy@1", start_gold=1.10)
    method.update(approved=None, gold=1.10, kept_steps=0)
    for p in method["curve"]:
        p["kept"] = False
    return data


BAD = "<script>alert(1)</script>{{7*7}}{% raw %}\u202egnp.exe\u200b\x1b[31m\udc80<img src=x onerror=a()>\"'"


def hostile() -> dict[str, Any]:
    data = severe()
    data.update(title=BAD, world=BAD, command=BAD, commit=BAD, notes=[BAD])
    method = data["methods"]["rollback"]
    method.update(label=BAD)
    for r in method["rounds"]:
        r.update(reason=BAD, by=BAD, evidence=BAD)
    method["rounds"][0]["candidate"] = BAD
    data["audit"][0].update(kind=BAD, actor=BAD, text=BAD, time=BAD)
    for sample in data["samples"]:
        sample.update(prompt=BAD, source=BAD)
        sample["before"].update(text=BAD, note=BAD)
        sample["after"]["text"] = "A" * 1_000_000
    return data
