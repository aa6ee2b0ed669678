"""The stage that optimises a policy: from the round's start checkpoint to a candidate, by the method that is configured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlback.campaign.context import Context, StageResult
from rlback.campaign.observations import Observer, curve, exposure_sums, read_observations
from rlback.campaign.scoring import scorer_lineage, scorer_of
from rlback.config import CampaignConfig, DPOCampaign
from rlback.errors import TrainingDiverged
from rlback.ledger.store import Transaction
from rlback.models.manifest import verify_checkpoint
from rlback.records import CheckpointKind, CheckpointRef, seed_of
from rlback.registry.operations import Version, add_checkpoint, add_version, get_version

if TYPE_CHECKING:
    from rlback.models.policy import Policy
    from rlback.models.value_model import ValueModel


@dataclass(frozen=True)
class _Optimised:
    """What a method made: figures for the record, and a row of measurements for each step where there are any."""

    steps: int
    figures: dict[str, Any]
    rows: list[dict[str, Any]]


def run_optimise(context: Context) -> StageResult:
    """Optimises the policy from the round's start checkpoint, and registers step checkpoints and the candidate."""
    from rlback.models.checkpoint import save_policy
    from rlback.training.threads import use_threads

    use_threads(context.config.threads)
    config, settings, round_ = context.config, context.config.optimise, context.step.round
    start = _start_of(context)
    common = {"start": start.version, "start_digest": start.digest}
    if config.fits_reward_models:
        common["reward_model"] = context.reward_digest
    policy, reference = _policy_and_reference(context, start)
    key = f"{context.campaign}/{round_}/optimise"
    run = context.mirror.start_run(
        context.campaign, f"optimise-r{round_}", key=key, params={**asdict(settings), **common, "start": start.address},
        tags={},
    )  # fmt: skip
    method = _on_pairs if isinstance(settings, DPOCampaign) else _on_samples
    try:
        made = method(context, policy, reference, start)
    except TrainingDiverged as error:
        context.mirror.end_run(run, "FAILED")
        return StageResult({**common, "diverged": error.message})
    rows = [row for row in made.rows if row["step"] < made.steps]
    context.mirror.log_metrics(run, [(row["step"], {k: v for k, v in row.items() if k != "step"}) for row in rows])
    saved = _log_steps(context, rows, run)
    digest = save_policy(policy, context.work / "candidate")
    ref = context.save(context.work / "candidate", digest, _kind_of(config), step=made.steps, run=run)
    version = context.mirror.create_version(
        context.policy, ref, key=f"{context.campaign}/{round_}", tags={"campaign": context.campaign}
    )
    context.mirror.end_run(run, "FINISHED")
    output = {
        **common,
        "version": version,
        "digest": digest,
        "model_id": ref.model_id,
        "steps": made.steps,
        **made.figures,
        "step_checkpoints": [{"step": step, "digest": ref.digest, "model_id": ref.model_id} for step, ref in saved],
        "curve": curve(rows, made.steps),
        "exposure": exposure_sums(rows),
    }
    lineage = {
        **context.lineage(),
        "parent": start.version,
        "parent_digest": start.digest,
        **({} if isinstance(settings, DPOCampaign) else scorer_lineage(context)),
        "snapshot": _snapshot_before(context),
    }

    def record(transaction: Transaction) -> None:
        for _, step_ref in saved:
            add_checkpoint(transaction, context.project, step_ref)
        add_checkpoint(transaction, context.project, ref)
        add_version(
            transaction, policy=context.policy, version=version, digest=digest, campaign=context.campaign,
            round_=round_, parent=start.version, status="candidate", lineage=lineage,
        )  # fmt: skip

    return StageResult(output, record)


def _on_samples(context: Context, policy: Policy, reference: Policy, start: Version) -> _Optimised:
    """Optimises on the policy's own samples, against whatever scores them."""
    from rlback.models.conversations import prompt_ids
    from rlback.settings import PPOConfig
    from rlback.training.on_policy import optimise

    config, settings = context.config, context.config.optimise
    base = None if start.digest == context.base.digest else context.load_policy(context.base)
    count = settings.steps * settings.prompts_per_step
    prompts = context.source.prompts("train", count, context.seed("prompts"))
    tokens = [tuple(prompt_ids(policy.tokenizer, prompt)) for prompt in prompts]
    texts = dict(zip(tokens, prompts, strict=True))
    file = context.work / "observations.jsonl"
    observer = Observer(
        file,
        texts=texts,
        gold=context.source.gold,
        gold_sd=context.output("base", 0)["metrics"].get("gold_sd", 1.0),
        eps=config.evaluation.eps,
        lr=settings.lr,
        reference=reference,
        base=base,
    )
    result = optimise(
        policy, reference, scorer_of(context, policy, texts), tokens, settings,
        value=_value_of(policy) if isinstance(settings, PPOConfig) else None,
        sampler=context.source.sampler(policy.tokenizer), sampler_identity=config.source.world or "",
        seed=context.seed("optimise"), report=context.report, state_dir=context.work / "state", observe=observer,
        on_checkpoint=lambda done, current: _keep_step(context.work, done, settings.steps, current),
    )  # fmt: skip
    figures = {
        "stopped": result.stopped,
        "start_state": result.start_state,
        "proxy_last": result.proxy,
        "kl_ref_last": result.kl_ref,
    }
    return _Optimised(result.steps, figures, read_observations(file))


def _on_pairs(context: Context, policy: Policy, reference: Policy, start: Version) -> _Optimised:
    """Optimises on every preference so far, without a reward model and without samples."""
    import math

    from rlback.campaign.stages_train import pairs_so_far
    from rlback.training.dpo import fit_dpo

    del start
    settings = context.config.optimise
    assert isinstance(settings, DPOCampaign)
    pairs, counts, given = pairs_so_far(context, policy, ties=False)
    steps = max(1, math.ceil(settings.epochs * len(pairs) / settings.batch))
    metrics = fit_dpo(
        policy, reference, pairs, settings, own=context.source.own_tokens(policy.tokenizer),
        seed=context.seed("optimise"), report=context.report, state_dir=context.work / "state",
        on_checkpoint=lambda done, current: _keep_step(context.work, done, steps, current),
    )  # fmt: skip
    return _Optimised(steps, {"stopped": "steps", "pairs": len(pairs), "given": given, "verdicts": counts, "dpo": metrics}, [])


def _keep_step(work: Path, done: int, steps: int, policy: Policy) -> None:
    """Writes a step checkpoint, unless it is there already or is the candidate itself."""
    from rlback.models.checkpoint import save_policy

    directory = work / f"step-{done:05d}"
    if done < steps and not directory.exists():
        save_policy(policy, directory)


def _log_steps(context: Context, rows: list[dict[str, Any]], run: str) -> list[tuple[int, CheckpointRef]]:
    """Stores the step checkpoints that were kept, all at once; (step, where it is) in order."""
    steps, found = [], []
    for directory in sorted(context.work.glob("step-*[0-9]")):
        step = int(directory.name.removeprefix("step-"))
        # From the directory itself, which is there whole or not at all: a kill may fall between two files.
        digest = verify_checkpoint(directory).digest
        at = rows[step - 1] if step <= len(rows) else {}
        metrics = {k: v for k, v in at.items() if k in ("proxy", "gold", "kl_ref")}
        steps.append(step)
        found.append(context.new_checkpoint(directory, digest, _kind_of(context.config), step=step, metrics=metrics))
    refs = context.mirror.log_checkpoints(found, experiment=context.campaign, run_id=run)
    return list(zip(steps, refs, strict=True))


def _kind_of(config: CampaignConfig) -> CheckpointKind:
    return "policy" if config.adapter is None else "adapter"


def _policy_and_reference(context: Context, start: Version) -> tuple[Policy, Policy]:
    """What is trained, from the start checkpoint, and the frozen start; with an adapter both share the base's weights."""
    from rlback.models.adapters import add_adapter, without_adapter

    policy, settings = context.load_policy(start), context.config.adapter
    if settings is None:
        return policy, context.load_policy(start)
    if policy.adapter is None:
        policy = add_adapter(policy, settings, seed_of(context.config.seed, "adapter weights"))
        return policy, without_adapter(policy)
    return policy, context.load_policy(start, base=policy.adapter.base)


def _value_of(policy: Policy) -> ValueModel:
    """A new value model on the start checkpoint's trunk."""
    from rlback.models.adapters import merge
    from rlback.models.value_model import ValueModel

    return ValueModel(policy if policy.adapter is None else merge(policy))


def _start_of(context: Context) -> Version:
    config, store = context.config, context.project.store
    if config.start == "base" or context.kept_version is None:
        return context.base
    return get_version(store, context.policy, context.kept_version)


def _snapshot_before(context: Context) -> dict[str, Any]:
    rounds = [r for (r, stage, _) in context.recorded if stage == "snapshot" and r < context.step.round]
    return json.loads(json.dumps(context.output("snapshot", max(rounds)))) if rounds else {}

