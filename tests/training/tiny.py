"""A policy, a reward model and data small enough to train in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from rlback.models.digests import weights_digest
from rlback.models.policy import Policy, new_policy
from rlback.models.reward_model import RewardModel, new_reward_model
from rlback.models.tokenizers import word_level
from rlback.models.value_model import ValueModel
from rlback.settings import (
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
from rlback.training.dpo import fit_dpo
from rlback.training.on_policy import optimise
from rlback.training.reward import TokenPair, fit_reward
from rlback.training.supervised import Example, train_base

TOKENIZER = word_level(list("abcdef"))
A, B = 0, 1
BOS, EOS = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id
PROMPTS = [[BOS, letter] for letter in range(6)]


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


def run_on_policy(config: OnPolicy, state_dir: Path | None) -> str:
    """Four updates on what a policy wrote; the digest of its weights."""
    made, reference = policy(), policy()
    judge = reward_model(reference, pooling="last", surprise=False)
    value = ValueModel(made) if isinstance(config, PPOConfig) else None
    optimise(
        made, reference, judge, PROMPTS, config, seed=5, value=value, state_dir=state_dir, save_every_s=0
    )
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
}


def run_dpo(state_dir: Path | None) -> str:
    """Four steps on letter pairs; the digest of the policy's weights."""
    made = policy()
    config = DPOConfig(lr=1e-2, beta=0.5, epochs=2, batch=6, warmup=1)
    fit_dpo(made, policy(), letter_pairs(12), config, seed=5, state_dir=state_dir, save_every_s=0)
    return weights_digest(made.model)


LOOPS = {
    "supervised": run_supervised,
    "reward": run_reward,
    "reward-ensemble": run_reward_ensemble,
    "dpo": run_dpo,
    **{name: partial(run_on_policy, config) for name, config in ON_POLICY.items()},
}
