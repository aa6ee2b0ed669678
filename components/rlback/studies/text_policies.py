"""Policies of a text world: a language model, or the best of n completions of another policy by a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rlback.errors import ConfigError
from rlback.maths.best_of_n import kl_bound
from rlback.models.batching import in_parts
from rlback.models.policy import Policy, token_logps
from rlback.studies.protocol import Array
from rlback.studies.text_base import draw
from rlback.studies.text_scores import Score, scores_of
from rlback.studies.text_world import Drawn, TextWorld

_MAX_PADDED = 4096


@dataclass(frozen=True)
class BestOf:
    """Answers with the best of n completions of `start` by `score`. It has no weights that could be trained."""

    start: Policy | BestOf
    score: Score
    n: int


TextPolicy = Policy | BestOf


def weights_of(policy: TextPolicy, purpose: str) -> Policy:
    """The policy's language model. ConfigError where it has none of its own."""
    if isinstance(policy, BestOf):
        raise ConfigError(
            f"best of n has no weights, which {purpose} needs", remedy="let method best_of_n start from a base or from itself"
        )
    return policy


def drawn_from(world: TextWorld, policy: TextPolicy, prompts: Sequence[str], seed: int, per_prompt: int = 1) -> Drawn:
    """Samples of any policy, those of a prompt side by side. logps are None for best of n."""
    if isinstance(policy, Policy):
        return draw(world, policy, prompts, seed, per_prompt)
    many = drawn_from(world, policy.start, prompts, seed, per_prompt * policy.n)
    values = scores_of(policy.score, many).view(-1, policy.n)
    chosen = [row * policy.n + int(best) for row, best in enumerate(values.argmax(1))]

    def pick(items: tuple) -> tuple:  # type: ignore[type-arg]
        return tuple(items[i] for i in chosen)

    return Drawn(world, pick(many.prompts), pick(many.ids), pick(many.completions))


def distance(policy: TextPolicy, other: TextPolicy, drawn: Drawn) -> float:
    """KL(policy || other) in nats a completion, from samples of the policy (k1, not below 0).

    For best of n its upper bound log n - (n - 1) / n, added to what lies below; NaN where `other` is best of n too,
    unless it is the same.
    """
    if policy is other:
        return 0.0
    if isinstance(policy, BestOf):
        below = distance(policy.start, other, drawn) if isinstance(policy.start, BestOf) else 0.0
        return kl_bound(policy.n) + below
    if isinstance(other, BestOf) or drawn.logps is None:
        return float("nan")
    return max(0.0, float((np.array(drawn.logps) - logps_of(other, drawn)).mean()))


def logps_of(policy: Policy, drawn: Drawn) -> Array:
    """Log-probabilities (n,) of completions under a policy, in nats."""
    found = np.zeros(len(drawn.ids))
    completions = [c.ids for c in drawn.completions]
    pad = policy.tokenizer.pad_token_id
    with torch.no_grad():
        for rows in in_parts(drawn.ids, completions, _MAX_PADDED):
            logps, _ = token_logps(policy.model, [drawn.ids[r] for r in rows], [completions[r] for r in rows], pad)
            found[rows] = logps.double().sum(1).cpu().numpy()
    return found
