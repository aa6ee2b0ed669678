"""Stages around a gate: evaluate (build the evidence), decide, settle (promote or roll back)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from rlback.campaign.context import Context, StageResult, completions_of
from rlback.campaign.gate_samples import choose
from rlback.campaign.plan import attempts
from rlback.errors import StageError
from rlback.evaluation.gate_statistics import agreement, overclaim, win_rate
from rlback.labelling.batches import HIDDEN, Label, Stored, counting_labels, flags_given, given, labels_digest, stored
from rlback.labelling.quarantines import in_force
from rlback.ledger.store import Transaction
from rlback.ledger.tables import campaigns, gates
from rlback.records import SYSTEM, Actor, digest_of, seed_of
from rlback.registry.gates import decide, find_gate, gate_id, open_gate
from rlback.registry.operations import decline, get_version, promote, rolled_back_since
from rlback.registry.quarantine import supersede_if_changed

if TYPE_CHECKING:
    from rlback.models.policy import Policy
    from rlback.models.reward_model import RewardModel

SIMULATED_APPROVER = Actor("sim-approver", "simulated")
NO_GATE = Actor("no-gate", "simulated")


def run_evaluate(context: Context) -> StageResult:
    """Measures the candidate, builds the evidence of all labels of this round, and opens the gate on it."""
    from rlback.training.threads import use_threads

    use_threads(context.config.threads)
    items, labels = _labelled(context)
    # Read once, and every byte checked, for both of what follows.
    policy = context.load_policy(context.candidate)
    rewards = context.load_reward_model(context.reward_digest) if context.config.fits_reward_models else None
    margins, scale = _reward_margins(rewards, policy, items) if items and rewards is not None else ({}, 1.0)
    evidence = _evidence(context, items, labels, margins, scale)
    measured = _measure(context, policy, rewards)
    evidence["measured"] = {key: measured[key] for key in ("proxy", "kl_ref", "kl_base", "finished")}
    id_ = gate_id(context.campaign, context.step.round, context.step.attempt)

    def record(transaction: Transaction) -> None:
        open_gate(transaction, context.campaign, context.step.round, context.step.attempt, evidence, SYSTEM)
        # Labels may have gone into quarantine while the candidate was measured.
        opened = transaction.rows(select(gates).where(gates.c.id == id_))[0]
        supersede_if_changed(transaction, opened, SYSTEM, "labels changed while the candidate was measured")

    # Gold stands beside the evidence, never in it: an approver does not see what only a simulation knows.
    output = {"gate": id_, "evidence_digest": digest_of(evidence), "measured": measured}
    # For the page of the batch: where people and the reward model part.
    kept = {"margins": {id_: round(margin, 6) for id_, margin in margins.items()}} if margins else {}
    return StageResult({**output, "statistics": evidence["statistics"], **kept}, record)


def _evidence(
    context: Context, items: dict[str, Stored], labels: list[Label], margins: dict[str, float], scale: float
) -> dict[str, Any]:
    start, candidate = context.start, context.candidate
    statistics_ = _statistics(context, items, labels, margins, scale) if items else {}
    cross = [item for item in items.values() if item.comparison.source == "cross"]
    flags = flags_given(context.project.store, labels)
    return {
        "campaign": context.campaign,
        "round": context.step.round,
        "attempt": context.step.attempt,
        "candidate": {"address": candidate.address, "digest": candidate.digest},
        "start": {"address": start.address, "digest": start.digest},
        "reward_model": context.reward_digest if context.config.fits_reward_models else None,
        "labels": {
            "count": len(labels),
            "digest": labels_digest(labels),
            "annotators": sorted({label.annotator for label in labels}),
            **_set_aside(context, labels),
        },
        "rule": {"statistic": "win_rate", "at_least": context.config.gate.win_rate},
        "statistics": statistics_,
        "samples": choose(cross, margins, flags, seed_of(context.config.seed, "gate samples", context.step.round)),
    }


def _set_aside(context: Context, counted: Sequence[Label]) -> dict[str, Any]:
    """What of this round is in quarantine, by whom and why; nothing where none is, so that such evidence is as ever."""
    store, kept = context.project.store, {(label.comparison, label.annotator) for label in counted}
    found: dict[int, dict[str, Any]] = {}
    held = in_force(store)
    for batch in _batches(context):
        for comparison, annotator in given(store, batch):
            one = held.over(annotator, batch, comparison)
            if one is not None and (comparison, annotator) not in kept:
                entry = found.setdefault(
                    one.id, {"annotator": annotator, "labels": 0, "reason": one.reason, "by": one.by, "quarantine": one.id}
                )
                entry["labels"] += 1
    return {"quarantined": [found[number] for number in sorted(found)]} if found else {}


def _batches(context: Context) -> list[str]:
    """The batches of this round so far, in order."""
    recorded = [context.recorded.get((context.step.round, "label", n)) for n in range(1, context.step.attempt + 1)]
    return [output["batch"] for output in recorded if output is not None]


def _labelled(context: Context) -> tuple[dict[str, Stored], list[Label]]:
    items: dict[str, Stored] = {}
    labels: list[Label] = []
    for batch in _batches(context):
        items |= {item.id: item for item in stored(context.project.store, batch) if item.comparison.source not in HIDDEN}
        labels += counting_labels(context.project.store, batch)
    return items, labels


def _statistics(
    context: Context, items: dict[str, Stored], labels: Sequence[Label], margins: dict[str, float], scale: float
) -> dict[str, Any]:
    def of(source: str) -> list[Label]:
        return [label for label in labels if items[label.comparison].comparison.source == source]

    cross, inside = of("cross"), of("inside")
    cross_verdicts, inside_verdicts = ([label.verdict for label in kept] for kept in (cross, inside))
    agreed: dict[str, Any] = dict.fromkeys(("agreement_cross", "agreement_inside", "overclaim"))
    if context.config.fits_reward_models:
        cross_margins, inside_margins = ([margins[label.comparison] for label in kept] for kept in (cross, inside))
        agreed = {
            "agreement_cross": asdict(agreement(cross_verdicts, cross_margins)),
            "agreement_inside": asdict(agreement(inside_verdicts, inside_margins)) if inside else None,
            "overclaim": overclaim(cross_verdicts, [margin * scale for margin in cross_margins]),
        }
    return {
        "win_rate": asdict(win_rate(cross_verdicts)),
        **agreed,
        "skips": sum(verdict == "skip" for verdict in (*cross_verdicts, *inside_verdicts)),
        "ties": sum(verdict == "tie" for verdict in (*cross_verdicts, *inside_verdicts)),
    }


def _reward_margins(model: RewardModel, policy: Policy, items: dict[str, Stored]) -> tuple[dict[str, float], float]:
    """Score of side a less that of side b for each comparison, and what makes a Bradley-Terry log-odds of it."""
    from rlback.models.conversations import prompt_ids

    order = list(items)
    prompts = [prompt_ids(policy.tokenizer, items[i].comparison.prompt) for i in order]

    def scores(side: str) -> list[float]:
        return model.score(prompts, [getattr(items[i].comparison, side).ids for i in order]).tolist()

    margins = dict(zip(order, (a - b for a, b in zip(scores("a"), scores("b"), strict=True)), strict=True))
    # Log-odds are differences of raw scores; the standardised ones are divided by the scale.
    return margins, model.raw_scale


def _measure(context: Context, policy: Policy, rewards: RewardModel | None) -> dict[str, Any]:
    """Proxy, gold and KL (nats per completion, k1) of candidate samples on prompts kept for evaluation."""
    import torch

    from rlback.models.conversations import prompt_ids
    from rlback.models.policy import token_logps

    config, source = context.config, context.source
    prompts = source.prompts("eval", config.evaluation.prompts, seed_of(config.seed, "eval"))
    samples = context.draw(policy, prompts, seed=seed_of(config.seed, "eval samples"))
    drawn = completions_of(policy, samples)
    tokens, ids = [prompt_ids(policy.tokenizer, p) for p in prompts], [c.ids for c in drawn]
    proxy = None if rewards is None else float(rewards.score(tokens, ids).mean())

    @torch.no_grad()
    def log_probability(which: Any) -> torch.Tensor:
        parts = []
        for i in range(0, len(ids), 64):
            pad = which.tokenizer.pad_token_id
            logps, _ = token_logps(which.model, tokens[i : i + 64], ids[i : i + 64], pad, config.optimise.temperature)
            # What an environment wrote is no choice of the policy's.
            parts.append((logps * samples.mask[i : i + 64, : logps.shape[1]]).sum(1).cpu())
        return torch.cat(parts)

    own = log_probability(policy)
    start, base = context.start, context.base
    kl_ref = float((own - log_probability(context.load_policy(start))).mean())
    # Until a candidate is approved the start is the base.
    kl_base = kl_ref if base.digest == start.digest else float((own - log_probability(context.load_policy(base))).mean())
    gold = None
    if source.gold is not None:
        gold = statistics.fmean(source.gold(p, c.text, c.finished) for p, c in zip(prompts, drawn, strict=True))
    return {
        "proxy": proxy,
        "gold": gold,
        "kl_ref": kl_ref,
        "kl_base": kl_base,
        "finished": sum(c.finished for c in drawn) / len(drawn),
        "prompts": len(prompts),
    }


def run_decide(context: Context) -> StageResult:
    """Records the decision at the gate; a simulated approver makes it here, by the rule in the evidence."""
    store = context.project.store
    gate = find_gate(store, context.output("evaluate", attempt=context.step.attempt)["gate"])
    if gate.state == "open" and context.config.gate.approver == "always":
        gate = decide(store, gate.id, "approve", NO_GATE, digest=gate.digest, reason="this method has no gate")
    elif gate.state == "open":
        observed = gate.evidence["statistics"]["win_rate"]
        threshold = gate.evidence["rule"]["at_least"]
        passed = observed["n"] > 0 and observed["value"] >= threshold
        sign = "at least" if passed else "below"
        reason = f"win rate {observed['value']:.2f} over {observed['n']} labels is {sign} {threshold:.2f}"
        verdict = "approve" if passed else "decline"
        gate = decide(store, gate.id, verdict, SIMULATED_APPROVER, digest=gate.digest, reason=reason)
    if gate.state == "superseded":
        reason = "labels behind its evidence went into quarantine or came out of it"
        return StageResult({"gate": gate.id, "verdict": "superseded", "reason": reason})
    if gate.decision is None:
        return StageResult({"gate": gate.id, "verdict": "expired", "reason": "the policy was rolled back meanwhile"})
    keys = ("verdict", "approver", "approver_kind", "reason", "evidence_digest")
    return StageResult({"gate": gate.id, **{key: gate.decision[key] for key in keys}})


def run_settle(context: Context) -> StageResult:
    """Promotes the candidate, or rolls the policy back to the checkpoint the round started from."""
    output = context.output("optimise")
    store, round_ = context.project.store, context.step.round
    start = get_version(store, context.policy, output["start"])
    if "diverged" in output:
        reason = output["diverged"]

        def stay(transaction: Transaction) -> None:
            transaction.event(
                "training.diverged", context.campaign, SYSTEM, {"round": round_, "reason": reason, "kept": start.version}
            )
            _keep(transaction, context.campaign, start.version)

        return StageResult({"decision": "declined", "reason": reason, "kept": start.version, "diverged": True}, stay)

    decision = context.output("decide", attempt=attempts(context.recorded, round_))
    candidate = context.candidate
    actor = Actor(decision.get("approver", SYSTEM.name), decision.get("approver_kind", SYSTEM.kind))
    moved = context.kept_version not in (None, start.version) and context.config.start == "approved"
    undone = rolled_back_since(store.rows, context.policy, context.campaign, decision["gate"])
    approved = decision["verdict"] == "approve" and not moved and not undone
    reason = f"{decision['reason']} (rolled back after the decision)".strip() if undone else decision["reason"]
    # Without rollback the policy goes on from its candidate whatever people say of it.
    goes_on = approved or context.config.start == "candidate"
    kept = candidate.version if goes_on else (context.kept_version if moved else start.version)
    evidence = {"gate": decision["gate"], "reason": reason, "evidence": decision.get("evidence_digest")}

    def record(transaction: Transaction) -> None:
        row = transaction.execute(select(campaigns.c.kept_version).where(campaigns.c.name == context.campaign)).one()
        now_undone = rolled_back_since(transaction.rows, context.policy, context.campaign, decision["gate"])
        if (row.kept_version, now_undone) != (context.kept_version, undone):
            raise StageError(
                f"{context.policy} was rolled back while round {round_} of {context.campaign} was being settled",
                remedy=f"settle it anew: rlback advance {context.campaign}",
            )
        if approved:
            promote(transaction, candidate, actor, evidence)
        else:
            decline(transaction, candidate, get_version(store, context.policy, kept), actor, evidence)
        _keep(transaction, context.campaign, kept)

    return StageResult(
        {
            "decision": "approved" if approved else "declined",
            "reason": reason,
            "by": f"{actor.name} ({actor.kind})",
            "kept": kept,
            "candidate": candidate.version,
            "rolled_back": not approved and not goes_on,
        },
        record,
    )


def _keep(transaction: Transaction, campaign: str, version: int | None) -> None:
    held = transaction.execute(select(campaigns.c.kept_version).where(campaigns.c.name == campaign)).scalar()
    if held != version:
        transaction.execute(update(campaigns).where(campaigns.c.name == campaign).values(kept_version=version))
