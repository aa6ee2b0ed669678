"""A policy, a reward model and data small enough to train in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from rlback.environments.episodes import sample_episodes
from rlback.models.adapters import add_adapter, without_adapter
from rlback.models.digests import weights_digest
from rlback.models.policy import Policy, new_policy
from rlback.models.reward_model import RewardModel, new_reward_model
from rlback.models.sampler import sample
from rlback.models.tokenizers import word_level
from rlback.models.value_model import ValueModel
from rlback.settings import (
    AdapterConfig,
    DPOConfig,
    GRPOConfig,
    ModelShape,
    OnlineDPOConfig,
    OnPolicy,
    PPOConfig,
    RewardConfig,
    RewardShape,
    RLOOConfig,
    SupervisedConfig,
)
from rlback.training.batches import Tokens
from rlback.training.dpo import fit_dpo
from rlback.training.on_policy import optimise
from rlback.training.reward import TokenPair, fit_reward
from rlback.training.scorers import AnnotatorScorer, FunctionScorer, Scorer
from rlback.training.supervised import Example, train_base
from tests.environments.scripted import Echo

TOKENIZER = word_level(list("abcdef"))
A, B = 0, 1
BOS, EOS = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id
PROMPTS = [[BOS, letter] for letter in range(6)]
#: Answers each turn of two tokens with those tokens backwards, three times.
ECHO = Echo(rounds=3, turn_tokens=2, farewell=(B,))


def policy(seed: int = 0) -> Policy:
    """An untrained policy over six letters."""
    return new_policy(ModelShape(16, 1, 2, 32, 24), TOKENIZER, seed)


def copying(count: int = 48) -> list[Example]:
    """The letter of the prompt, repeated one to four times (each as often, for each letter), then the end."""
    return [([BOS, i % 6], [i % 6] * (1 + i // 6 % 4) + [EOS]) for i in range(count)]


def letter_pairs(count: int, seed: int = 0, *, better: int = A) -> list[TokenPair]:
    """Random five-letter completions; the chosen one has more of `better` (at most five, at least one)."""
    draw = torch.Generator().manual_seed(seed)
    pairs: list[TokenPair] = []
    while len(pairs) < count:
        prompt, *sides = torch.randint(0, 6, (11,), generator=draw).split([1, 5, 5])
        sides = sorted(sides, key=lambda side: int((side == better).sum()))
        if (sides[0] == better).sum() < (sides[1] == better).sum():
            rejected, chosen = ([*side.tolist(), EOS] for side in sides)
            pairs.append(TokenPair([BOS, *prompt.tolist()], chosen, rejected))
    return pairs


def reward_model(base: Policy, *, pooling: str = "sum", surprise: bool = True) -> RewardModel:
    """An unfitted reward model on the policy's trunk."""
    return new_reward_model(base, RewardShape(pooling, surprise), seed=1)


class CountsLetter(nn.Module):
    """A scorer that counts how often one letter is in a completion; equal counts are nothing unusual."""

    graded = False

    def __init__(self, letter: int = A) -> None:
        super().__init__()
        self.letter = letter

    def identity(self) -> str:
        return f"counts letter {self.letter}"

    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        assert len(prompts) == len(completions)
        return torch.tensor([float(list(ids).count(self.letter)) for ids in completions])


def run_supervised(state_dir: Path | None) -> str:
    """Four steps on copied letters; the digest of the weights."""
    made = policy()
    config = SupervisedConfig(steps=4, batch=8, lr=5e-3, warmup=1)
    train_base(made, copying(20), config, seed=5, state_dir=state_dir, save_every_s=0)
    return weights_digest(made.model)


def run_reward(state_dir: Path | None) -> str:
    """Four steps on letter pairs; the digest of the weights."""
    made = reward_model(policy())
    config = RewardConfig(epochs=2, batch=6, lr=1e-3, warmup=1)
    fit_reward(made, letter_pairs(12), config, seed=5, state_dir=state_dir, save_every_s=0)
    return weights_digest(made)


def run_reward_ensemble(state_dir: Path | None) -> str:
    """Four steps of three members, two of their pairs a tie and a vote; the digest of the weights."""
    made = new_reward_model(policy(), RewardShape("sum", True, members=3, combine="worst_case"), seed=1)
    pairs = letter_pairs(12)
    pairs[:2] = [replace(pairs[0], target=0.5), replace(pairs[1], target=0.6, margin=0.1)]
    config = RewardConfig(epochs=2, batch=6, lr=1e-3, warmup=1, centering=0.01, use_ties=True)
    fit_reward(made, pairs, config, seed=5, state_dir=state_dir, save_every_s=0)
    return weights_digest(made)


def adapted() -> Policy:
    """The same with an adapter, which alone is trained."""
    return add_adapter(policy(), AdapterConfig(rank=4, alpha=8.0), seed=2)


def prefers_a(prompt: Tokens, a: Tokens, b: Tokens) -> Literal["a", "b", "tie"]:
    """An annotator's verdict: the completion with more of the letter A."""
    more = list(a).count(A) - list(b).count(A)
    return "a" if more > 0 else "b" if more < 0 else "tie"


def run_on_policy(
    config: OnPolicy, state_dir: Path | None, *, scorer: Scorer | None = None, lora: bool = False, turns: bool = False
) -> str:
    """Four updates on what a policy wrote; the digest of its weights. With `turns` an environment answers in between."""
    made = adapted() if lora else policy()
    reference = without_adapter(made) if lora else policy()
    judge = scorer or reward_model(reference, pooling="last", surprise=False)
    value = ValueModel(made) if isinstance(config, PPOConfig) else None
    sampler = partial(sample_episodes, environment=ECHO) if turns else sample
    optimise(
        made, reference, judge, PROMPTS, config, seed=5, value=value, sampler=sampler, sampler_identity=str(turns),
        state_dir=state_dir, save_every_s=0,
    )  # fmt: skip
    return weights_digest(made.model)


_SHARED = {"prompts_per_step": 3, "samples_per_prompt": 2, "lr": 1e-2, "beta": 0.05, "max_new_tokens": 8}
#: Four updates each: one a step, or two or four inside one rollout.
ON_POLICY: dict[str, OnPolicy] = {
    "rloo": RLOOConfig(steps=4, **_SHARED),
    "rloo-token": RLOOConfig(steps=2, epochs=2, objective="token", kl_target=0.5, kl_horizon=12.0, **_SHARED),
    "grpo": GRPOConfig(steps=1, epochs=2, minibatches=2, **_SHARED),
    "dr-grpo": GRPOConfig(steps=2, minibatches=2, variant="dr_grpo", **_SHARED),
    "ppo": PPOConfig(steps=2, epochs=1, minibatches=2, **_SHARED),
    "online-dpo": OnlineDPOConfig(steps=4, **_SHARED),
    "online-ipo": OnlineDPOConfig(steps=4, loss="ipo", **_SHARED),
}
#: Two updates inside each of two rollouts, for what is not a method but goes with every one.
_TWICE = RLOOConfig(steps=2, epochs=2, **_SHARED)
_OUTCOME = FunctionScorer(lambda prompt, completion: float(completion.count("a")), "letters a", TOKENIZER.decode)


def run_dpo(state_dir: Path | None, *, loss: Literal["dpo", "ipo"] = "dpo", lora: bool = False) -> str:
    """Four steps on letter pairs; the digest of the policy's weights."""
    made = adapted() if lora else policy()
    config = DPOConfig(lr=1e-2, beta=0.5, epochs=2, batch=6, warmup=1, loss=loss)
    reference = without_adapter(made) if lora else policy()
    fit_dpo(made, reference, letter_pairs(12), config, seed=5, state_dir=state_dir, save_every_s=0)
    return weights_digest(made.model)


#: What goes with a method (an adapter, another scorer, turns) and is saved by the same code.
VARIANTS = {
    "ipo": partial(run_dpo, loss="ipo"),
    "dpo-lora": partial(run_dpo, lora=True),
    "direct": partial(run_on_policy, _TWICE, scorer=AnnotatorScorer(prefers_a, "prefers a")),
    "outcome": partial(run_on_policy, _TWICE, scorer=_OUTCOME),
    "rloo-bf16": partial(run_on_policy, replace(ON_POLICY["rloo"], precision="bf16")),
    "rloo-bf16-twice": partial(run_on_policy, replace(_TWICE, precision="bf16")),
    "rloo-lora": partial(run_on_policy, _TWICE, lora=True),
    "ppo-lora": partial(run_on_policy, ON_POLICY["ppo"], lora=True),
    "rloo-turns": partial(run_on_policy, _TWICE, turns=True),
    "ppo-turns": partial(run_on_policy, ON_POLICY["ppo"], turns=True),
}
LOOPS = {
    "supervised": run_supervised,
    "reward": run_reward,
    "reward-ensemble": run_reward_ensemble,
    "dpo": run_dpo,
    **{name: partial(run_on_policy, config) for name, config in ON_POLICY.items()},
    **VARIANTS,
}
