"""Stages that train what a policy is optimised from and against: base, fit_reward. Each leaves a checkpoint."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlback.campaign.context import Context, StageResult, code_identity
from rlback.campaign.foreign_base import require_unchanged
from rlback.errors import StageError
from rlback.labelling.batches import counting_labels, stored
from rlback.ledger.store import Transaction
from rlback.records import PreferencePair, digest_of, seed_of
from rlback.registry.operations import add_checkpoint, add_version, list_versions

if TYPE_CHECKING:
    from rlback.config import SourceConfig
    from rlback.models.policy import Policy
    from rlback.models.reward_model import RewardModel
    from rlback.training.reward import TokenPair


#: Decisive preferences that a reward model, or DPO, learns from.
FEWEST_PREFERENCES = 8


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
    if base.model is not None:
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
    drawn = context.complete(policy, prompts, seed=context.seed("gold"))
    gold = [context.source.gold(p, c.text, c.finished) for p, c in zip(prompts, drawn, strict=True)]
    return {"gold": statistics.fmean(gold), "gold_sd": statistics.stdev(gold)}


def run_fit_reward(context: Context) -> StageResult:
    """Fits a fresh reward model to every preference so far, from the base policy's trunk, and rescales it."""
    from rlback.models.checkpoint import save_reward_model
    from rlback.models.reward_model import new_reward_model, warm_start
    from rlback.training.reward import fit_reward
    from rlback.training.threads import use_threads

    use_threads(context.config.threads)
    base = context.load_policy(context.base)
    settings = context.config.reward_model
    pairs, counts, given = pairs_so_far(context, base, ties=settings.training.use_ties)
    _, held = context.source.given_pairs()
    model = new_reward_model(base, settings.shape, seed_of(context.config.seed, "reward weights"))
    if settings.start == "warm" and context.step.round > 0:
        warm_start(model, context.load_reward_model(context.reward_digest))
    key = f"{context.campaign}/{context.step.round}/fit_reward"
    run = context.mirror.start_run(
        context.campaign, f"reward-r{context.step.round}", key=key, params=settings.model_dump(mode="json"), tags={}
    )
    metrics = fit_reward(
        model, pairs, settings.training, seed=context.seed("fit"), report=context.report,
        state_dir=context.work / "state",
    )  # fmt: skip
    # The same base samples after every fit, so that a unit of score, and with it beta, keeps its meaning.
    from rlback.models.conversations import prompt_ids

    context.part("drawing the reference samples")
    prompts = context.source.prompts("train", settings.reference_samples, seed_of(context.config.seed, "reference"))
    drawn = context.complete(base, prompts, seed=seed_of(context.config.seed, "reference"))
    model.rescale([prompt_ids(base.tokenizer, p) for p in prompts], [c.ids for c in drawn])
    accuracy = _held_out(base, model, held, context)
    digest = save_reward_model(model, context.work / "reward-model")
    numbers = {**metrics, **{k: v for k, v in (accuracy or {}).items() if isinstance(v, float)}}
    ref = context.save(context.work / "reward-model", digest, "reward_model", metrics=numbers, run=run)
    context.mirror.log_metrics(run, [(0, numbers)])
    context.mirror.end_run(run, "FINISHED")
    output = {
        "digest": digest,
        "model_id": ref.model_id,
        "pairs": len(pairs),
        "given": given,
        "verdicts": counts,
        "metrics": metrics,
        "held_out": accuracy,
        "snapshot": context.output("snapshot")["md5"],
    }

    def record(transaction: Transaction) -> None:
        add_checkpoint(transaction, context.project, ref)

    return StageResult(output, record)


def pairs_so_far(context: Context, base: Policy, *, ties: bool) -> tuple[list[TokenPair], dict[str, int], int]:
    """Every preference so far that is learned from: (pairs, verdicts of all labels, how many were given beforehand).

    Ties are among the pairs only with `ties`, so that a record of how many there were counts what was used.

    Raises:
        StageError: there are too few to learn from.
    """
    settings, source = context.config.reward_model, context.config.source
    given, _ = context.source.given_pairs()
    pairs = [_token_pair(base, pair, source) for pair in given]
    pairs = [
        replace(tokens, weight=tokens.weight * settings.shorter_weight) if len(pair.chosen) < len(pair.rejected) else tokens
        for tokens, pair in zip(pairs, given, strict=True)
    ]
    labelled, counts = labelled_pairs(context, base)
    pairs += labelled
    decisive = sum(pair.target != 0.5 for pair in pairs)
    if decisive < FEWEST_PREFERENCES:
        raise StageError(
            f"{context.campaign}: only {decisive} decisive preferences are there to learn from "
            f"({counts['tie']} ties, {counts['skip']} skips); at least {FEWEST_PREFERENCES} are needed",
            remedy="label more comparisons",
        )
    return [pair for pair in pairs if ties or pair.target != 0.5], counts, len(given)


def labelled_pairs(context: Context, base: Policy) -> tuple[list[TokenPair], dict[str, int]]:
    """Labels of all batches so far as pairs of the very token ids that were sampled; ties have the target 1/2."""
    from rlback.models.conversations import prompt_ids
    from rlback.training.reward import TokenPair

    source = context.config.source
    frozen = [round_ for (round_, stage, _) in context.recorded if stage == "snapshot"]
    # As of the newest snapshot: what is in quarantine since then leaves the next one.
    until = context.output("snapshot", max(frozen)).get("quarantine", 0) if frozen else None
    pairs, counts = [], {"a": 0, "b": 0, "tie": 0, "skip": 0}
    for (round_, stage, attempt), output in sorted(context.recorded.items()):
        if stage != "label" or round_ > context.step.round:
            continue
        del attempt
        by_id = {item.id: item.comparison for item in stored(context.project.store, output["batch"])}
        for label in counting_labels(context.project.store, output["batch"], until=until):
            counts[label.verdict] += 1
            item = by_id[label.comparison]
            if label.verdict == "skip" or not (item.a.ids and item.b.ids) or item.a.ids == item.b.ids:
                continue
            chosen, rejected = (item.b, item.a) if label.verdict == "b" else (item.a, item.b)
            target = 0.5 if label.verdict == "tie" else 1.0
            prompt = prompt_ids(base.tokenizer, item.prompt)
            pairs.append(TokenPair(prompt, chosen.ids, rejected.ids, target=target))
    for batch in _imported(context, frozen):
        imported = {item.id: item.comparison for item in stored(context.project.store, batch)}
        for label in counting_labels(context.project.store, batch, until=until):
            counts[label.verdict] += 1
            item = imported[label.comparison]
            if label.verdict == "skip" or item.a.text == item.b.text:
                continue
            chosen, rejected = (item.b, item.a) if label.verdict == "b" else (item.a, item.b)
            pair = PreferencePair(item.prompt, chosen.text, rejected.text)
            tokens = _token_pair(base, pair, source)
            pairs.append(replace(tokens, target=0.5 if label.verdict == "tie" else 1.0))
    return pairs, counts


def _imported(context: Context, frozen: list[int]) -> list[str]:
    """The batches of the newest snapshot that came from files."""
    made = {output["batch"] for (_, stage, _), output in context.recorded.items() if stage == "label"}
    return [batch for batch in context.output("snapshot", max(frozen)).get("batches", ()) if batch not in made] if frozen else []


def _token_pair(base: Policy, pair: PreferencePair, source: SourceConfig) -> TokenPair:
    from rlback.training.given_pairs import token_pair

    return token_pair(base.tokenizer, pair, source.max_prompt_tokens, source.max_completion_tokens)


def _held_out(base: Policy, model: RewardModel, held: list[PreferencePair], context: Context) -> dict[str, Any] | None:
    """Accuracy on held-out groups, also where the longer and where the shorter completion was chosen."""
    from rlback.training.given_pairs import accuracy_on

    if not held:
        return None
    report = context.part("scoring held-out pairs")
    return accuracy_on(model, held, [_token_pair(base, p, context.config.source) for p in held], report=report)
