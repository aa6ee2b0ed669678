"""The figures of a campaign, read off its recorded stages: for summary.json and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlback.campaign.context import load_recorded
from rlback.campaign.machine import config_of, label_count, load_campaign
from rlback.campaign.plan import Recorded, attempts
from rlback.project import Project
from rlback.registry.operations import get_version, list_aliases

EXPOSURE_KEYS = ("sign_wrong", "sign_all", "false_wrong", "false_all", "integrated")


def method_figures(project: Project, campaign: str) -> dict[str, Any]:
    """What one campaign came to: the kept policy's figures, its rounds and its curve."""
    row = load_campaign(project, campaign)
    recorded = load_recorded(project, campaign)
    rounds = [r for r in sorted({key[0] for key in recorded}) if r >= 1 and (r, "settle", 1) in recorded]
    per_round = [_round(project, row.policy, recorded, r) for r in rounds]
    kept_rounds = _lineage_rounds(recorded, rounds)
    base = recorded.get((0, "base", 1), {})
    last = per_round[kept_rounds[-1] - 1] if kept_rounds else None
    exposure = _kept_exposure(recorded, kept_rounds)
    held = list_aliases(project.store, row.policy)
    approved = [r["candidate"] for r in per_round if r["decision"] == "approved"]
    moves = by_hand(project, row.policy)
    if moves and "approved" in held:
        approved.append(f"{row.policy}@{held['approved']}")  # the rounds do not know of it
    return {
        "campaign": campaign,
        "labels": label_count(project, campaign),
        "gold": last["gold"] if last else base.get("metrics", {}).get("gold"),
        "proxy": last["proxy"] if last else 0.0,
        "kl": last["kl"] if last else 0.0,
        "misreward_kept": exposure,
        "kept_steps": sum(recorded[(r, "optimise", 1)]["steps"] for r in kept_rounds),
        "all_steps": sum(recorded[(r, "optimise", 1)].get("steps", 0) for r in rounds),
        "approved": approved[-1] if approved else None,
        "aliases": held,
        "by_hand": moves,
        "rounds": per_round,
        "curve": [
            {"round": r, "kept": r in kept_rounds, **point}
            for r, figures in zip(rounds, per_round, strict=True)
            for point in _points(recorded[(r, "optimise", 1)].get("curve", []), figures)
        ],
    }


def by_hand(project: Project, policy: str) -> list[dict[str, str]]:
    """Rollbacks that a person made of the policy itself, the oldest first: from which checkpoint to which."""
    return [
        {"from": f"{policy}@{e.payload['from']}", "to": f"{policy}@{e.payload['to']}"}
        for e in project.store.events(policy)
        if e.kind == "rolled-back" and "reason" in e.payload and e.payload.get("policy") == policy and e.payload.get("from")
    ]


def _points(curve: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A round's curve up to its candidate. The last point is what the table gives for the candidate: measured on the
    evaluation prompts, where the points before it are means over training batches.
    """
    if figures["kl"] is None:
        return list(curve)
    last = {"step": figures["steps"], **{key: figures[key] for key in ("kl", "proxy", "gold")}}
    return [*(point for point in curve if point["step"] < figures["steps"]), last]


def _round(project: Project, policy: str, recorded: Recorded, number: int) -> dict[str, Any]:
    optimised, settled = recorded[(number, "optimise", 1)], recorded[(number, "settle", 1)]
    start = get_version(project.store, policy, optimised["start"])
    common = {
        "round": number,
        "start": start.address,
        "decision": settled["decision"],
        "reason": settled["reason"],
        "by": settled.get("by", ""),
        "start_gold": _gold_of(recorded, optimised["start"]),
    }
    if "diverged" in optimised:
        empty = dict.fromkeys(("candidate", "gold", "proxy", "kl", "agreement", "overclaim", "win_rate", "evidence"))
        return {**common, **empty, "labels": 0, "steps": 0, "diverged": True}
    last = attempts(recorded, number)
    evaluated = recorded[(number, "evaluate", last)]
    measured, found = evaluated["measured"], evaluated["statistics"]
    labels = [recorded.get((number, "label", a), {}).get("labels", 0) for a in range(1, last + 1)]
    return {
        **common,
        "candidate": f"{policy}@{optimised['version']}",
        "gold": measured["gold"],
        "proxy": measured["proxy"],
        "kl": measured["kl_base"],
        "agreement": found["agreement_cross"]["value"] if found and found["agreement_cross"] else None,
        "overclaim": found["overclaim"] if found else None,
        "win_rate": found["win_rate"] if found else None,
        "labels": sum(labels),
        "steps": optimised["steps"],
        "evidence": evaluated["evidence_digest"],
    }


def _gold_of(recorded: Recorded, version: int) -> float | None:
    if recorded[(0, "base", 1)]["version"] == version:
        return recorded[(0, "base", 1)]["metrics"].get("gold")
    for (round_, stage, _), output in recorded.items():
        if stage == "optimise" and output.get("version") == version:
            evaluated = recorded.get((round_, "evaluate", attempts(recorded, round_)))
            return evaluated["measured"]["gold"] if evaluated else None
    return None


def _lineage_rounds(recorded: Recorded, rounds: Sequence[int]) -> list[int]:
    """The rounds whose updates are in the kept policy: from its last checkpoint back along the parents."""
    kept = recorded[(rounds[-1], "settle", 1)]["kept"] if rounds else None
    by_version = {recorded[(r, "optimise", 1)].get("version"): r for r in rounds}
    path: list[int] = []
    while kept in by_version and by_version[kept] not in path:
        path.append(by_version[kept])
        kept = recorded[(path[-1], "optimise", 1)]["start"]
    return sorted(path)


def _kept_exposure(recorded: Recorded, rounds: Sequence[int]) -> float | None:
    """MX_sign over the updates on the kept lineage (science 2.2); None where gold is not known, 0 without any."""
    sums: dict[str, float] = dict.fromkeys(EXPOSURE_KEYS, 0.0)
    for number in rounds:
        found: Mapping[str, float] | None = recorded[(number, "optimise", 1)]["exposure"]
        if found is None:
            return None
        for key in EXPOSURE_KEYS:
            sums[key] += found[key]
    return sums["sign_wrong"] / sums["sign_all"] if sums["sign_all"] else 0.0


def gold_peak(figures: Mapping[str, Any]) -> tuple[float, int] | None:
    """The highest gold on a method's curve and its step: what stopping at the right moment would have given."""
    points = [p for p in figures["curve"] if p["gold"] is not None]
    if not points:
        return None
    best = max(points, key=lambda p: p["gold"])
    return best["gold"], best["step"]


def report_data(
    project: Project, methods: Mapping[str, tuple[str, str]], *, title: str, command: str, created: str, seconds: float,
    verified: bool,
) -> dict[str, Any]:
    """Everything the HTML report shows. `methods`: key -> (label, campaign); the first is the one audited."""
    from rlback.campaign.context import code_identity

    first = next(iter(methods.values()))[1]
    row, recorded = load_campaign(project, first), load_recorded(project, first)
    config, base = config_of(row), recorded[(0, "base", 1)]
    figures = {}
    for key, (label, campaign) in methods.items():
        figures[key] = {"label": label, **method_figures(project, campaign)}
        peak = gold_peak(figures[key])
        if peak is not None and len(figures[key]["rounds"]) == 1:
            figures[key]["gold_peak"], figures[key]["gold_peak_step"] = peak
    revision = code_identity()["revision"]
    events = project.store.events(first)
    return {
        "title": title,
        "world": config.source.world or "",
        "seed": config.seed,
        "command": command,
        "commit": revision or code_identity()["digest"][:12],
        "created": created,
        "data_version": recorded[(0, "data", 1)]["data_version"],
        "seconds": seconds,
        "base": {"name": f"{row.policy}@{base['version']}", "gold": base["metrics"].get("gold"), "proxy": 0.0},
        "methods": figures,
        "samples": [s for label, campaign in methods.values() for s in _samples(project, label, campaign)],
        "audit": [
            {"seq": e.seq, "time": e.time, "kind": e.kind, "actor": f"{e.actor} ({e.actor_kind})",
             "text": _event_text(e.kind, e.payload)}
            for e in events if e.kind not in ("stage.done", "label.given")
        ],
        "ledger": {"events": project.store.event_count(), "verified": verified},
        "notes": _notes(config),
        "approval": {"simulated": config.gate.approver != "human"},
    }  # fmt: skip


def _notes(config: Any) -> list[str]:
    notes = []
    if config.gate.approver != "human":
        notes.append("The approver was simulated: nothing it approved can ever be deployed.")
    if config.labels.annotators == "simulated":
        notes.append(
            "The annotators were simulated from the gold reward "
            f"(temperature {config.labels.temperature}, lapses {config.labels.lapse:.0%})."
        )
    if config.source.world is None:
        notes.append("The policy is far too small to write fluent text; what is shown is the loop, not a chat model.")
    return notes


def _samples(project: Project, label: str, campaign: str) -> list[dict[str, Any]]:
    """Up to three completions of the last candidate beside the base policy's, on the same prompts."""
    from rlback.campaign.samples import before_and_after

    return before_and_after(project, label, campaign)


def _event_text(kind: str, payload: Mapping[str, Any]) -> str:
    """An event's payload in a line a person reads."""
    if kind == "rolled-back":
        return f"{payload['policy']}@{payload['from']} → {payload['policy']}@{payload['to']}"
    shown = []
    for key, value in payload.items():
        if isinstance(value, str) and len(value) == 64:
            value = value[:12]
        if isinstance(value, (dict, list)):
            continue
        if value not in (None, ""):
            shown.append(f"{key} {value}")
    return ", ".join(shown)


def demo_summary(
    project: Project,
    started: Mapping[str, str],
    *,
    seed: int,
    seconds: float,
    report: str,
    events: int,
    verified: bool,
) -> dict[str, Any]:
    """reports/demo/summary.json: measured figures, whatever they are."""
    methods = {}
    for method, campaign in started.items():
        figures = method_figures(project, campaign)
        peak = gold_peak(figures)
        figures["gold_peak"], figures["gold_peak_step"] = peak if peak else (None, None)
        figures.pop("curve")
        figures.pop("aliases")
        figures.pop("by_hand")
        methods[method] = figures
    first = started["rollback"]
    recorded = load_recorded(project, first)
    config = config_of(load_campaign(project, first))
    data = recorded[(0, "data", 1)]
    return {
        "seconds": round(seconds, 1),
        "world": config.source.world,
        "seed": seed,
        "methods": methods,
        "base": {"gold": recorded[(0, "base", 1)]["metrics"].get("gold")},
        "rollbacks": sum(r["decision"] == "declined" for r in methods["rollback"]["rounds"]),
        "approved": methods["rollback"]["approved"],
        "ledger": {"events": events, "verified": verified},
        "data_version": data["data_version"],
        "data_matches_pointer": data["matches_pointer"],
        "report": report,
    }
