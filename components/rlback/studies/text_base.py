"""What every run of a text world begins with: a base policy, what its samples are worth, and nothing of any arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlback.models.policy import Policy
from rlback.models.sampler import sample
from rlback.models.tokenizers import decode, encode_prompt
from rlback.records import Completion, digest_of, seed_of
from rlback.studies.shared import POLICY, once
from rlback.studies.text_world import Drawn, TextWorld

#: Samples that gold is standardised on: an error of 0.04 standard deviations in its mean.
_GOLD_SAMPLES = 512


@dataclass(frozen=True)
class Base:
    """A base policy with the mean and standard deviation of its gold, and its reference samples."""

    world: TextWorld
    policy: Policy
    gold_mean: float
    gold_sd: float
    reference: Drawn

    def completion(self, ids: Sequence[int]) -> Completion:
        """Sampled ids as a completion."""
        ids, tokenizer = tuple(ids), self.policy.tokenizer
        return Completion(decode(tokenizer, ids), ids, bool(ids) and ids[-1] == tokenizer.eos_token_id)


def base_name(world: TextWorld, number: int) -> str:
    """What base policy `number` is kept as: a digest of what determines it."""
    return f"base-{digest_of([world.name, world.device.type, world.base_key(number)])[:16]}"


def make_base(world: TextWorld, number: int) -> Base:
    """Base policy `number`; made once for all processes where there is a shared directory."""
    policy = once(world.shared, base_name(world, number), POLICY, lambda state: world.new_base(number, state))
    policy.model.to(world.device)
    policy.digest = None
    prompts = world.prompts(seed_of("text gold", number), _GOLD_SAMPLES, "eval")
    gold = draw(world, policy, prompts, seed_of("text gold samples", number)).gold
    mean = sum(gold) / len(gold)
    variance = sum((g - mean) ** 2 for g in gold) / (len(gold) - 1)
    reference = world.prompts(seed_of("text reference", number), world.settings.reference_samples, "train")
    return Base(world, policy, mean, variance**0.5, draw(world, policy, reference, seed_of("text reference samples", number)))


def draw(world: TextWorld, policy: Policy, prompts: Sequence[str], seed: int, per_prompt: int = 1) -> Drawn:
    """Samples; those of a prompt stand side by side."""
    tokens = [tuple(encode_prompt(policy.tokenizer, prompt)) for prompt in prompts]
    drawn = sample(
        policy, tokens, max_new_tokens=world.settings.max_new_tokens, seed=seed, samples_per_prompt=per_prompt
    )
    texts = tuple(prompt for prompt in prompts for _ in range(per_prompt))
    done = drawn.finished.tolist()
    completions = tuple(
        Completion(decode(policy.tokenizer, ids), ids, end) for ids, end in zip(drawn.completions(), done, strict=True)
    )
    return Drawn(world, texts, tuple(drawn.prompts), completions, tuple(drawn.logps.double().sum(1).tolist()))
