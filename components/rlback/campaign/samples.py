"""Completions before and after, for the report: the same prompts under the base and the final policy."""

from __future__ import annotations

from typing import Any

from rlback.campaign.context import Context, load_campaign, load_recorded
from rlback.campaign.machine import config_of
from rlback.campaign.plan import Step
from rlback.project import Project
from rlback.records import Completion, seed_of, silent
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import get_version

PROMPTS = 24
KINDS = ("typical", "best", "worst")


def before_and_after(project: Project, label: str, campaign: str) -> list[dict[str, Any]]:
    """The typical, the best and the worst of some completions of a campaign's kept policy, beside the base's.

    Without gold, the first three prompts. Nothing where the campaign kept its base policy.
    """
    import json

    row, recorded = load_campaign(project, campaign), load_recorded(project, campaign)
    settled = [r for (r, stage, _) in recorded if stage == "settle"]
    if not settled:
        return []
    config = config_of(row)
    round_ = max(settled)
    context = Context(
        project, campaign, row.policy, config, json.loads(row.inputs), recorded, Step(round_, "evaluate"),
        row.kept_version, project.state, silent, MlflowStore(project.root),
    )  # fmt: skip
    kept = get_version(project.store, row.policy, recorded[(round_, "settle", 1)]["kept"])
    if kept.digest == context.base.digest:
        return []
    from rlback.training.threads import use_threads

    use_threads(config.threads)
    prompts = context.source.prompts("eval", PROMPTS, seed_of(config.seed, "report"))
    seed = seed_of(config.seed, "report samples")
    before = context.complete(context.load_policy(context.base), prompts, seed=seed)
    after = context.complete(context.load_policy(kept), prompts, seed=seed)
    rows = [_side_by_side(context, p, b, a) for p, b, a in zip(prompts, before, after, strict=True)]
    if context.source.gold is None:
        chosen = list(zip(("first", "second", "third"), rows, strict=False))
    else:
        order = sorted(rows, key=lambda r: r["after"]["gold"])
        chosen = list(zip(KINDS, (order[len(order) // 2], order[-1], order[0]), strict=True))
    return [{**row, "source": f"{label}, {kept.address}, {kind} of {len(rows)}"} for kind, row in chosen]


def _side_by_side(context: Context, prompt: str, before: Completion, after: Completion) -> dict[str, Any]:
    def side(completion: Completion) -> dict[str, Any]:
        gold = context.source.gold
        return {
            "text": completion.text,
            "gold": gold(prompt, completion.text, completion.finished) if gold else None,
            "note": context.source.describe(prompt, completion.text, completion.finished),
        }

    return {"prompt": prompt, "before": side(before), "after": side(after)}
