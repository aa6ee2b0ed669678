"""What every run of the text world begins with: a base policy, what its samples are worth, and nothing of any arm."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlback.models.checkpoint import load_policy, save_policy
from rlback.models.policy import Policy, new_policy
from rlback.models.sampler import sample
from rlback.models.tokenizers import decode, encode_completion, encode_prompt, word_level
from rlback.records import Completion, digest_of, seed_of
from rlback.studies.text_settings import TextWorld
from rlback.training.supervised import train_base
from rlback.worlds.visits_world import VISITS

#: Samples that gold is standardised on: an error of 0.04 standard deviations in its mean.
_GOLD_SAMPLES = 512


@dataclass(frozen=True)
class Drawn:
    """Completions of prompts, one after the other; gold (n,) as the world has it. logps: sums over tokens in nats, under
    the policy that sampled, None where that is not known."""

    prompts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    completions: tuple[Completion, ...]
    gold: tuple[float, ...]
    logps: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Base:
    """A base policy with the mean and standard deviation of its gold, and its reference samples."""

    policy: Policy
    gold_mean: float
    gold_sd: float
    reference: Drawn


def make_base(world: TextWorld, number: int, shared: Path | None) -> Base:
    """Base policy `number`; trained once for all processes where there is a shared directory.

    Its directory is named by what determines it, and appears whole or not at all.
    """
    if shared is None:
        policy = _trained(world, number)
    else:
        name = digest_of(["text base", number, asdict(world.shape), asdict(world.training)])[:16]
        directory = shared / f"base-{name}"
        shared.mkdir(parents=True, exist_ok=True)
        with (shared / f"base-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the process that comes second waits, and reads
            if not directory.exists():
                save_policy(_trained(world, number), directory)
        policy = load_policy(directory)
    policy.digest = None
    prompts = VISITS.prompts(seed_of("text gold", number), _GOLD_SAMPLES, "eval")
    gold = draw(policy, prompts, world.max_new_tokens, seed_of("text gold samples", number)).gold
    mean = sum(gold) / len(gold)
    variance = sum((g - mean) ** 2 for g in gold) / (len(gold) - 1)
    reference = VISITS.prompts(seed_of("text reference", number), world.reference_samples, "train")
    drawn = draw(policy, reference, world.max_new_tokens, seed_of("text reference samples", number))
    return Base(policy, mean, variance**0.5, drawn)


def _trained(world: TextWorld, number: int) -> Policy:
    policy = new_policy(world.shape, word_level(VISITS.vocabulary), seed_of("text base weights", number))
    tokenizer = policy.tokenizer
    count = world.training.steps * world.training.batch
    texts = VISITS.examples(seed_of("text corpus", number), max(1, min(count, 20_000)))
    examples = [(encode_prompt(tokenizer, e.prompt), encode_completion(tokenizer, e.completion)) for e in texts]
    train_base(policy, examples, world.training, seed=seed_of("text base training", number))
    return policy


def draw(policy: Policy, prompts: Sequence[str], max_new_tokens: int, seed: int, per_prompt: int = 1) -> Drawn:
    """Samples with their gold; those of a prompt stand side by side."""
    tokens = [tuple(encode_prompt(policy.tokenizer, prompt)) for prompt in prompts]
    drawn = sample(policy, tokens, max_new_tokens=max_new_tokens, seed=seed, samples_per_prompt=per_prompt)
    texts = [prompt for prompt in prompts for _ in range(per_prompt)]
    done = drawn.finished.tolist()
    completions = [
        Completion(decode(policy.tokenizer, ids), ids, end) for ids, end in zip(drawn.completions(), done, strict=True)
    ]
    logps = tuple(drawn.logps.double().sum(1).tolist())
    return Drawn(tuple(texts), tuple(drawn.prompts), tuple(completions), golds(texts, completions), logps)


def golds(prompts: Sequence[str], completions: Sequence[Completion]) -> tuple[float, ...]:
    """Gold as the world has it, of each completion."""
    return tuple(VISITS.gold(p, c.text, c.finished) for p, c in zip(prompts, completions, strict=True))
