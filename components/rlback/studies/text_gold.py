"""Gold of the world "arguments": a reward model fitted to all human pairs of the held-out debates, larger than any proxy.

What it is worth is told by cross-validation on whole debates: fitted without some of them, how often does it order
people's pairs in those as people did?
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from rlback.data.split import length_baseline
from rlback.models.policy import Policy, import_policy, new_policy
from rlback.models.reward_model import RewardModel, new_reward_model
from rlback.records import Completion, PreferencePair, digest_of, seed_of
from rlback.settings import RewardConfig
from rlback.studies.shared import POLICY, REWARD, Facts, facts_once, known_facts, once
from rlback.studies.text_settings import GoldSettings
from rlback.training.given_pairs import accuracy_on, base_streams, completion_tokens, prompt_tokens, texts_of
from rlback.training.reward import TokenPair, fit_reward
from rlback.training.supervised import train_base

#: Tokens, padding included, that are scored at once.
_MAX_PADDED = 8192


@dataclass(frozen=True)
class GoldData:
    """held: the pairs it is fitted to. other: of the other debates, for a test on what it never saw. share: of the
    trunk's windows from plain text. key: plain values that determine all this, where it runs, and a trunk read from disk.
    """

    held: tuple[PreferencePair, ...]
    other: tuple[PreferencePair, ...]
    share: float
    prompt_limit: int
    key: Any


@dataclass(frozen=True)
class Gold:
    """The gold reward of one study. tokenizer, plain: asked for when its trunk is to be trained."""

    settings: GoldSettings
    data: GoldData
    device: torch.device
    shared: Path | None
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    plain: Callable[[], str | None]

    @property
    def trunk_name(self) -> str:
        """What its trunk is kept as."""
        s = self.settings
        own = [None if part is None else asdict(part) for part in (s.shape, s.training)]
        return f"gold-trunk-{digest_of([self.data.key, *own])[:16]}"

    @property
    def name(self) -> str:
        """What the model is kept as."""
        return f"gold-{digest_of([self.data.key, asdict(replace(self.settings, model=None))])[:16]}"

    def fold_name(self, fold: int) -> str:
        """What the accuracy of one fold is kept as."""
        return f"{self.name}-fold-{fold}"

    @cached_property
    def model(self) -> RewardModel:
        """Made once for all processes, with its cross-validation."""
        found = once(self.shared, self.name, REWARD, lambda state: self.fit(self.data.held, state), self._tested)
        if self.shared is not None:
            for fold in range(self.settings.folds):
                facts_once(self.shared, self.fold_name(fold), lambda state, fold=fold: self._without(fold, state))
        return found.to(self.device)

    def scores(self, prompts: Sequence[str], completions: Sequence[Completion]) -> tuple[float, ...]:
        """Log-odds of Bradley-Terry as the fit left them, of each completion; an end counts where it was sampled."""
        if not prompts:
            return ()
        tokenizer, limit = self.model.tokenizer, self.settings.completion_tokens
        known = {prompt: prompt_tokens(tokenizer, prompt, self.data.prompt_limit) for prompt in set(prompts)}
        written = [completion_tokens(tokenizer, c.text, limit, finished=c.finished) for c in completions]
        return tuple(self.model.score([known[p] for p in prompts], written, _MAX_PADDED).tolist())

    def trunk(self, state: Path | None) -> Policy:
        """The language model that it starts from, trained here or read."""
        s = self.settings
        if s.model is not None:
            policy = import_policy(s.model)
            policy.model.to(self.device)
            return policy
        assert s.shape is not None
        assert s.training is not None
        tokenizer = self.tokenizer()
        policy = new_policy(s.shape, tokenizer, seed_of("gold weights"))
        policy.model.to(self.device)
        streams = base_streams(tokenizer, texts_of(self.data.held), self.plain(), s.training.window, self.data.share)
        train_base(policy, streams, s.training, seed=seed_of("gold training"), state_dir=state)
        return policy

    @cached_property
    def _start(self) -> Policy:
        policy = once(self.shared, self.trunk_name, POLICY, self.trunk)
        policy.model.to(self.device)
        return policy

    def fit(self, pairs: Sequence[PreferencePair], state: Path | None, reward: RewardConfig | None = None) -> RewardModel:
        """A model fitted to these pairs."""
        model = new_reward_model(self._start, self.settings.reward_shape, seed_of("gold head"))
        fit_reward(model, self._tokens(model, pairs), reward or self.settings.reward, seed=seed_of("gold fit"), state_dir=state)
        return model

    def _tokens(self, model: RewardModel, pairs: Sequence[PreferencePair]) -> list[TokenPair]:
        # An argument is in many pairs: each text is encoded once.
        prompt = cache(lambda text: prompt_tokens(model.tokenizer, text, self.data.prompt_limit))
        side = cache(lambda text: completion_tokens(model.tokenizer, text, self.settings.completion_tokens))
        return [TokenPair(prompt(p.prompt), side(p.chosen), side(p.rejected), p.weight) for p in pairs]

    def _accuracy(self, model: RewardModel, pairs: Sequence[PreferencePair]) -> Facts:
        return accuracy_on(model, pairs, self._tokens(model, pairs))

    def _tested(self, model: RewardModel) -> Facts:
        return {
            "parameters": sum(p.numel() for p in model.trunk.parameters()),
            "pairs": len(self.data.held), "debates": sorted({pair.group for pair in self.data.held}),
            "longer_wins": length_baseline(self.data.held)["value"], "other_debates": self._accuracy(model, self.data.other),
        }  # fmt: skip

    def _without(self, fold: int, state: Path | None) -> Facts:
        """Fits without the debates of a fold, and tests on them."""
        groups = sorted({pair.group for pair in self.data.held})
        random.Random(seed_of("gold folds")).shuffle(groups)
        out = set(groups[fold :: self.settings.folds])
        model = self.fit([pair for pair in self.data.held if pair.group not in out], state)
        return {"debates": sorted(out), **self._accuracy(model, [pair for pair in self.data.held if pair.group in out])}

    def facts(self) -> Facts | None:
        """The record of the model with its cross-validation over all pairs; None where it was not made."""
        own = known_facts(self.shared, self.name)
        if own is None:
            return None
        folds = [known_facts(self.shared, self.fold_name(fold)) for fold in range(self.settings.folds)]
        made = [fold for fold in folds if fold is not None]
        pairs = sum(fold["pairs"] for fold in made)
        right = sum(fold["pairs"] * fold["accuracy"] for fold in made)
        crossed = {"accuracy": right / pairs if pairs else None, "pairs": pairs, "folds": made, "of": self.settings.folds}
        return {**own, "cross_validation": crossed}
