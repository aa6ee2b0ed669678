"""Stages that train: base, fit_reward, optimise. Each leaves checkpoints in the registry."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rlback.campaign.context import Context, StageResult, code_identity, sample_completions
from rlback.campaign.foreign_base import require_unchanged
from rlback.campaign.observations import Observer, curve, exposure_sums, read_observations
from rlback.config import CampaignConfig
from rlback.errors import StageError, TrainingDiverged
from rlback.labelling.batches import counting_labels, stored
from rlback.ledger.store import Transaction
from rlback.records import CheckpointKind, PreferencePair, digest_of, seed_of
from rlback.registry.operations import Version, add_checkpoint, add_version, get_version, list_versions

if TYPE_CHECKING:
    from rlback.models.policy import Policy
    from rlback.models.reward_model import RewardModel
    from rlback.models.value_model import ValueModel
    from rlback.training.reward import TokenPair


def base_cache_key(context: Context) -> str:
    """What the base policy depends on, and nothing else: campaigns that agree in it share the policy."""
    config = context.config
    return digest_of(
        {
            "base": config.base.model_dump(mode="json"),
            "source": config.source.model_dump(mode="json"),
            "sampling": [config.optimise.max_new_tokens, config.optimise.temperature, config.evaluation.prompts],
            "seed": config.seed,
            "threads": config.threads,
            "data": context.output("data")["sha256"],
            "text": context.inputs.get("text", {}).get("sha256"),
            "code": code_identity()["digest"],
        }
    )


def run_base(context: Context) -> StageResult:
    """Trains the base policy, or reads it from disk, and registers it."""
    from rlback.models.checkpoint import save_policy
    from rlback.models.policy import import_policy, new_policy
    from rlback.training.supervised import train_base
    from rlback.training.threads import use_threads

    use_threads(context.config.threads)
    base, source = context.config.base, context.source
    run = context.mirror.start_run(
        context.campaign, "base", key=f"{context.campaign}/0/base", params=base.model_dump(mode="json"), tags={}
    )
    metrics: dict[str, float] = {}
    if base.path is not None:
        require_unchanged(context.project.root, context.inputs["base"])
        policy = import_policy(context.inputs["base"]["path"])
    else:
        assert base.shape is not None
        assert base.training is not None
        policy = new_policy(base.shape, source.tokenizer(), seed_of(context.config.seed, "base weights"))
        policy.model.to(context.config.device)
        metrics = train_base(
            policy,
            source.base_text(policy.tokenizer),
            base.training,
            seed=seed_of(context.config.seed, "base training"),
            report=context.report,
            state_dir=context.work / "state",
        )
    metrics |= _measure_base(context, policy)
    digest = save_policy(policy, context.work / "policy")
    ref = context.save(context.work / "policy", digest, "policy", metrics=metrics, run=run)
    context.mirror.log_metrics(run, [(0, metrics)])
    context.mirror.end_run(run, "FINISHED")
    return register_base(context, ref, metrics, base_cache_key(context))


def register_base(context: Context, ref: Any, metrics: dict[str, float], cache_key: str) -> StageResult:
    """Enters the base policy as a version; a base of the same digest is one version however often it is used."""
    held = [v for v in list_versions(context.project.store, context.policy) if v.digest == ref.digest]
    known = next((v for v in held if v.status == "base"), None)
    if known is not None:
        version = known.version
    else:
        key = f"{context.campaign}/0"
        version = context.mirror.create_version(context.policy, ref, key=key, tags={"status": "base"})

    def record(transaction: Transaction) -> None:
        add_checkpoint(transaction, context.project, ref)
        if known is None:
            add_version(
                transaction, policy=context.policy, version=version, digest=ref.digest, campaign=context.campaign,
                round_=0, parent=None, status="base", lineage=context.lineage(),
            )  # fmt: skip

    output = {"version": version, "digest": ref.digest, "model_id": ref.model_id, "location": ref.location}
    return StageResult({**output, "metrics": metrics}, record, cache_key)


def _measure_base(context: Context, policy: Policy) -> dict[str, float]:
    """Mean and spread of the gold reward of base samples; nothing where gold is not known."""
    if context.source.gold is None:
        return {}
    prompts = context.source.prompts("eval", context.config.evaluation.prompts, seed_of(context.config.seed, "eval"))
    drawn = sample_completions(policy, prompts, config=context.config, seed=context.seed("gold"))
    gold = [context.source.gold(p, c.text, c.finished) for p, c in zip(prompts, drawn, strict=True)]
    return {"gold": statistics.fmean(gold), "gold_sd": statistics.stdev(gold)}


def run_fit_reward(context: Context) -> StageResult:
    """Fits a fresh reward model to every preference so far, from the base policy's trunk, and rescales it."""
    from rlback.models.checkpoint import save_reward_model
    from rlback.models.reward_model import new_reward_model
    from rlback.training.reward import fit_reward
    from rlback.training.threads import use_threads

    use_threads(context.config.threads)
    base = context.load_policy(context.base)
    settings = context.config.reward_model
    given, held = context.source.given_pairs()
    limit = context.config.source.max_completion_tokens
    pairs = [_token_pair(base, pair, context.config.source.max_prompt_tokens, limit) for pair in given]
    pairs = [
        replace(tokens, weight=tokens.weight * settings.shorter_weight) if len(pair.chosen) < len(pair.rejected) else tokens
        for tokens, pair in zip(pairs, given, strict=True)
    ]
    labelled, counts = labelled_pairs(context, base)
    pairs += labelled
    if len(pairs) < 8:
        raise StageError(
            f"{context.campaign}: only {len(pairs)} decisive preferences are there to fit a reward model to "
            f"({counts['tie']} ties, {counts['skip']} skips); at least 8 are needed",
            remedy="label more comparisons",
        )
    model = new_reward_model(base, settings.shape, seed_of(context.config.seed, "reward weights"))
    key = f"{context.campaign}/{context.step.round}/fit_reward"
    run = context.mirror.start_run(
        context.campaign, f"reward-r{context.step.round}", key=key, params=settings.model_dump(mode="json"), tags={}
    )
    metrics = fit_reward(
        model, pairs, settings.training, seed=context.seed("fit"), report=context.report,
        state_dir=context.work / "state",
    )  # fmt: skip
    accuracy = _held_out(base, model, held, context)
    # The same base samples after every fit, so that a unit of score, and with it beta, keeps its meaning.
    from rlback.models.tokenizers import encode_prompt

    prompts = context.source.prompts("train", settings.reference_samples, seed_of(context.config.seed, "reference"))
    drawn = sample_completions(base, prompts, config=context.config, seed=seed_of(context.config.seed, "reference"))
    model.rescale([encode_prompt(base.tokenizer, p) for p in prompts], [c.ids for c in drawn])
    digest = save_reward_model(model, context.work / "reward-model")
    numbers = {**metrics, **{k: v for k, v in (accuracy or {}).items() if isinstance(v, float)}}
    ref = context.save(context.work / "reward-model", digest, "reward_model", metrics=numbers, run=run)
    context.mirror.log_metrics(run, [(0, numbers)])
    context.mirror.end_run(run, "FINISHED")
    output = {
        "digest": digest,
        "model_id": ref.model_id,
        "pairs": len(pairs),
        "given": len(given),
        "verdicts": counts,
        "metrics": metrics,
        "held_out": accuracy,
        "snapshot": context.output("snapshot")["md5"],
    }

    def record(transaction: Transaction) -> None:
        add_checkpoint(transaction, context.project, ref)

    return StageResult(output, record)


def labelled_pairs(context: Context, base: Policy) -> tuple[list[TokenPair], dict[str, int]]:
    """Decisive labels of all batches so far as pairs of the very token ids that were sampled."""
    from rlback.models.tokenizers import encode_prompt
    from rlback.training.reward import TokenPair

    pairs, counts = [], {"a": 0, "b": 0, "tie": 0, "skip": 0}
    for (round_, stage, attempt), output in sorted(context.recorded.items()):
        if stage != "label" or round_ > context.step.round:
            continue
        del attempt
        by_id = {item.id: item.comparison for item in stored(context.project.store, output["batch"])}
        for label in counting_labels(context.project.store, output["batch"]):
            counts[label.verdict] += 1
            item = by_id[label.comparison]
            if label.verdict in ("a", "b"):
                chosen, rejected = (item.a, item.b) if label.verdict == "a" else (item.b, item.a)
                if chosen.ids and rejected.ids and chosen.ids != rejected.ids:
                    pairs.append(TokenPair(encode_prompt(base.tokenizer, item.prompt), chosen.ids, rejected.ids))
    return pairs, counts


def _token_pair(base: Policy, pair: PreferencePair, prompt_limit: int, completion_limit: int) -> TokenPair:
    from rlback.models.tokenizers import encode_completion, encode_prompt
    from rlback.training.reward import TokenPair

    prompt = encode_prompt(base.tokenizer, pair.prompt)
    if len(prompt) > prompt_limit:
        prompt = [prompt[0], *prompt[-(prompt_limit - 1) :]]  # the end of a conversation is what is answered

    def completion(text: str) -> list[int]:
        ids = encode_completion(base.tokenizer, text)
        # The end token stays: the text had an end, we only do not read its middle part.
        return ids if len(ids) <= completion_limit else [*ids[: completion_limit - 1], ids[-1]]

    return TokenPair(prompt, completion(pair.chosen), completion(pair.rejected), pair.weight)


def _held_out(base: Policy, model: RewardModel, held: list[PreferencePair], context: Context) -> dict[str, Any] | None:
    """Accuracy on held-out groups, also where the longer and where the shorter completion was chosen."""
    from rlback.maths.bradley_terry import accuracy
    from rlback.training.reward import pair_scores

    if not held:
        return None
    source = context.config.source
    tokens = [_token_pair(base, p, source.max_prompt_tokens, source.max_completion_tokens) for p in held]
    chosen, rejected = pair_scores(model, tokens)

    def over(rows: list[int]) -> float | None:
        return float(accuracy(chosen[rows], rejected[rows])) if rows else None

    return {
        "accuracy": over(list(range(len(held)))),
        "accuracy_longer_chosen": over([i for i, p in enumerate(held) if len(p.chosen) > len(p.rejected)]),
        "accuracy_shorter_chosen": over([i for i, p in enumerate(held) if len(p.chosen) < len(p.rejected)]),
        "pairs": len(held),
    }


def run_optimise(context: Context) -> StageResult:
    """Optimises the policy against the current reward model from the round's start checkpoint."""
    from rlback.models.checkpoint import save_policy
    from rlback.models.tokenizers import encode_prompt
    from rlback.settings import PPOConfig
    from rlback.training.on_policy import optimise
    from rlback.training.threads import use_threads

    use_threads(context.config.threads)
    config, settings, round_ = context.config, context.config.optimise, context.step.round
    start = _start_of(context)
    reward_digest = context.reward_digest
    common = {"start": start.version, "start_digest": start.digest, "reward_model": reward_digest}
    policy, reference = _policy_and_reference(context, start)
    base = None if start.digest == context.base.digest else context.load_policy(context.base)
    reward_model = context.load_reward_model(reward_digest)
    count = settings.steps * settings.prompts_per_step
    prompts = context.source.prompts("train", count, context.seed("prompts"))
    tokens = [tuple(encode_prompt(policy.tokenizer, prompt)) for prompt in prompts]
    file = context.work / "observations.jsonl"
    observer = Observer(
        file,
        texts=dict(zip(tokens, prompts, strict=True)),
        gold=context.source.gold,
        gold_sd=context.output("base", 0)["metrics"].get("gold_sd", 1.0),
        eps=config.evaluation.eps,
        lr=settings.lr,
        reference=reference,
        base=base,
    )
    key = f"{context.campaign}/{round_}/optimise"
    run = context.mirror.start_run(
        context.campaign, f"optimise-r{round_}", key=key,
        params={**asdict(settings), "start": start.address, "reward_model": reward_digest}, tags={},
    )  # fmt: skip

    def on_checkpoint(done: int, current: Policy) -> None:
        if done < settings.steps and not (context.work / f"step-{done:05d}").exists():
            digest = save_policy(current, context.work / f"step-{done:05d}")
            (context.work / f"step-{done:05d}.digest").write_text(digest)

    try:
        result = optimise(
            policy, reference, reward_model, tokens, settings,
            value=_value_of(policy) if isinstance(settings, PPOConfig) else None,
            seed=context.seed("optimise"), report=context.report,
            state_dir=context.work / "state", on_checkpoint=on_checkpoint, observe=observer,
        )  # fmt: skip
    except TrainingDiverged as error:
        context.mirror.end_run(run, "FAILED")
        return StageResult({**common, "diverged": error.message})
    rows = [row for row in read_observations(file) if row["step"] < result.steps]
    context.mirror.log_metrics(run, [(row["step"], {k: v for k, v in row.items() if k != "step"}) for row in rows])
    saved = [_log_step(context, directory, rows, run) for directory in sorted(context.work.glob("step-*[0-9]"))]
    digest = save_policy(policy, context.work / "candidate")
    ref = context.save(context.work / "candidate", digest, _kind_of(config), step=result.steps, run=run)
    version = context.mirror.create_version(
        context.policy, ref, key=f"{context.campaign}/{round_}", tags={"campaign": context.campaign}
    )
    context.mirror.end_run(run, "FINISHED")
    output = {
        **common,
        "version": version,
        "digest": digest,
        "model_id": ref.model_id,
        "steps": result.steps,
        "stopped": result.stopped,
        "start_state": result.start_state,
        "proxy_last": result.proxy,
        "kl_ref_last": result.kl_ref,
        "step_checkpoints": [{"step": step, "digest": ref.digest, "model_id": ref.model_id} for step, ref in saved],
        "curve": curve(rows, result.steps),
        "exposure": exposure_sums(rows),
    }
    lineage = {
        **context.lineage(),
        "parent": start.version,
        "parent_digest": start.digest,
        "reward_model": reward_digest,
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


def _log_step(context: Context, directory: Any, rows: list[dict[str, Any]], run: str) -> tuple[int, Any]:
    step = int(directory.name.removeprefix("step-"))
    digest = directory.with_name(directory.name + ".digest").read_text()
    metrics = {k: v for k, v in rows[step - 1].items() if k in ("proxy", "gold", "kl_ref")}
    return step, context.save(directory, digest, _kind_of(context.config), step=step, metrics=metrics, run=run)


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

