"""Our side of each workload. A settings class is made in one place each, by keyword."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks import materials
from benchmarks.clock import Clock, NotThere
from benchmarks.materials import Facts
from benchmarks.shapes import (
    DPO_BETA,
    KL_BETA,
    LR,
    NEW_TOKENS,
    PAIRS_PER_STEP,
    PROMPTS_PER_STEP,
    ROW_TOKENS,
    ROWS,
    SAMPLES_PER_PROMPT,
    Shape,
    Variant,
)
from rlback import settings
from rlback.models.digests import weights_digest
from rlback.models.sampler import sample
from rlback.records import Report, seed_of
from rlback.training.state import tokens_digest


def run(workload: str, shape: Shape, variant: Variant, clock: Clock) -> Facts:
    """Runs one workload with `clock` called after every step; returns what the driver compares between sides."""
    return {"rloo": _rloo, "reward": _reward, "dpo": _dpo, "generate": _generate}[workload](shape, variant, clock)


def _settings(kind: Any, precision: str, **values: Any) -> Any:
    """An instance of a settings class. Raises NotThere when it has no bf16 and bf16 is asked for."""
    names = {field.name for field in dataclasses.fields(kind)}
    if "precision" in names:
        values["precision"] = precision
    elif precision != "fp32":
        raise NotThere(f"{kind.__name__} has no precision setting")
    return kind(**values)


def _report(clock: Clock) -> Report:
    def report(done: int, total: int, metrics: Mapping[str, float]) -> None:
        del done, total, metrics
        clock.tick()

    return report


def _rloo(shape: Shape, variant: Variant, clock: Clock) -> Facts:
    from rlback.training.on_policy import StepRecord, optimise

    policy, reference = (materials.policy(shape, endless=True) for _ in range(2))
    reward = materials.reward_model(policy)
    config = _settings(
        settings.RLOOConfig,
        variant.precision,
        steps=clock.plan.total,
        prompts_per_step=PROMPTS_PER_STEP,
        samples_per_prompt=SAMPLES_PER_PROMPT,
        max_new_tokens=NEW_TOKENS,
        lr=LR,
        beta=KL_BETA,
    )
    prompts = materials.prompts(shape, config.steps * config.prompts_per_step)
    facts: Facts = {"weights": weights_digest(policy.model), "data": tokens_digest(prompts)}
    tokens: list[int] = []

    def observe(record: StepRecord) -> None:
        tokens.append(sum(map(len, record.prompts)) + sum(map(len, record.completions)))

    optimise(
        policy, reference, reward, prompts, config, seed=seed_of("benchmark"), report=_report(clock), observe=observe
    )
    return {**facts, "tokens": sum(tokens) / len(tokens)}


def _reward(shape: Shape, variant: Variant, clock: Clock) -> Facts:
    from rlback.training.reward import fit_reward

    model = materials.reward_model(materials.policy(shape, endless=False))
    config = _settings(settings.RewardConfig, variant.precision, epochs=1, batch=PAIRS_PER_STEP, lr=LR)
    pairs = materials.pairs(shape, clock.plan.total * PAIRS_PER_STEP)
    facts = {"weights": weights_digest(model.trunk), "data": materials.pairs_digest(pairs)}
    fit_reward(model, pairs, config, seed=seed_of("benchmark"), report=_report(clock))
    return {**facts, "tokens": 2.0 * PAIRS_PER_STEP * ROW_TOKENS}


def _dpo(shape: Shape, variant: Variant, clock: Clock) -> Facts:
    """As `_reward`. `before_s`: (wall, processor) seconds before the first step, for the reference's log-probs."""
    from rlback.training.dpo import fit_dpo

    policy, reference = (materials.policy(shape, endless=False) for _ in range(2))
    config = _settings(settings.DPOConfig, variant.precision, epochs=1, batch=PAIRS_PER_STEP, lr=LR, beta=DPO_BETA)
    pairs = materials.pairs(shape, clock.plan.total * PAIRS_PER_STEP)
    facts: Facts = {"weights": weights_digest(policy.model), "data": materials.pairs_digest(pairs)}
    clock.start()
    fit_dpo(policy, reference, pairs, config, seed=seed_of("benchmark"), report=_report(clock))
    return {**facts, "before_s": clock.before(), "tokens": 2.0 * PAIRS_PER_STEP * ROW_TOKENS}


def _generate(shape: Shape, variant: Variant, clock: Clock) -> Facts:
    policy = materials.policy(shape, endless=True)
    prompts = materials.prompts(shape, ROWS)
    facts: Facts = {"weights": weights_digest(policy.model), "data": tokens_digest(prompts)}
    extra: dict[str, Any] = {}
    if "precision" in inspect.signature(sample).parameters:
        extra["precision"] = variant.precision
    elif variant.precision == "bf16":
        policy.model.to(torch.bfloat16)
    for step in range(clock.plan.total):
        drawn = sample(policy, prompts, max_new_tokens=NEW_TOKENS, seed=seed_of("benchmark", step), **extra)
        assert drawn.ids.shape == (ROWS, NEW_TOKENS)
        clock.tick()
    return {**facts, "tokens": float(ROWS * ROW_TOKENS)}
