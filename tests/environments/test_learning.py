"""Policies learn through environments in the ordinary loop: only the sampler is another one."""

from __future__ import annotations

import copy
import statistics
from functools import partial
from random import Random

import pytest
import torch

from rlback.environments.calculator import WORDS, Calculator, calculator
from rlback.environments.episodes import OutcomeScorer, sample_episodes
from rlback.models.policy import Policy, new_policy
from rlback.models.reward_model import new_reward_model
from rlback.models.tokenizers import decode, encode_completion, encode_prompt, word_level
from rlback.records import Comparison, Completion
from rlback.settings import ModelShape, RewardConfig, RewardShape, RLOOConfig, SupervisedConfig
from rlback.training.on_policy import optimise
from rlback.training.reward import TokenPair, fit_reward
from rlback.training.rollout import collect
from rlback.training.scorers import FunctionScorer
from rlback.training.supervised import train_base
from rlback.worlds.annotators import SimulatedAnnotator
from rlback.worlds.segments_world import SEGMENTS

torch.set_num_threads(1)


Adder = tuple[Policy, Calculator, list[tuple[int, ...]]]


@pytest.fixture(scope="module")
def careless_adder() -> Adder:
    """A policy that adds two numbers below 5: it calls the calculator three times in ten and guesses otherwise."""
    tokenizer = word_level(WORDS)
    calc = calculator(tokenizer, max_turns=3, turn_tokens=8)
    rng = Random(0)
    examples = []
    for _ in range(400):
        a, b = rng.randrange(5), rng.randrange(5)
        called = rng.random() < 0.3
        answer = f"calc {a} + {b} = {a + b} answer {a + b}" if called else f"answer {rng.randrange(9)}"
        examples.append((encode_prompt(tokenizer, f"{a} + {b} ?"), encode_completion(tokenizer, answer)))
    policy = new_policy(ModelShape(32, 1, 4, 64, 24), tokenizer, 0)
    train_base(policy, examples, SupervisedConfig(steps=200, batch=32, lr=0.01, warmup=10), seed=1)
    prompts = [tuple(encode_prompt(tokenizer, f"{a} + {b} ?")) for a in range(5) for b in range(5)]
    return policy, calc, prompts


def test_a_policy_learns_to_use_the_calculator(careless_adder: Adder):
    """From about one right answer in three, by calling in about one of four, to nine in ten by nearly always calling."""
    reference, calc, prompts = careless_adder
    policy = copy.deepcopy(reference)
    sampler, scorer = partial(sample_episodes, environment=calc), OutcomeScorer(calc)

    def measured() -> tuple[float, float]:
        drawn = sampler(policy, prompts, max_new_tokens=16, seed=7, samples_per_prompt=8)
        right = scorer.score(drawn.prompts, drawn.completions()).mean()
        return float(right), statistics.fmean(state.calls > 0 for state in drawn.states)

    right, calls = measured()
    assert right < 0.5
    assert calls < 0.5
    config = RLOOConfig(steps=30, lr=0.005, beta=0.0, max_new_tokens=16, length_normaliser=8)
    optimise(policy, reference, scorer, prompts, config, seed=3, sampler=sampler)
    right, calls = measured()
    assert right > 0.85
    assert calls > 0.9


def test_a_rollout_leaves_the_tools_words_out(careless_adder: Adder):
    """KL and log-probabilities of a rollout stand on the policy's tokens alone; against itself the KL is 0."""
    policy, calc, prompts = careless_adder
    config = RLOOConfig(steps=1, lr=0.005, beta=0.1, max_new_tokens=16, prompts_per_step=8, samples_per_prompt=8)
    sampler = partial(sample_episodes, environment=calc)
    rollout = collect(policy, policy, OutcomeScorer(calc), prompts, config, seed=0, step=0, sampler=sampler)
    tokens = torch.arange(rollout.ids.shape[1]) < rollout.lengths[:, None]
    said = tokens & ~rollout.mask
    assert said.any()
    assert not rollout.logps[~rollout.mask].any()
    assert not rollout.reference_logps[~rollout.mask].any()
    assert (rollout.logps - rollout.reference_logps).abs().max() < 1e-4


@pytest.fixture(scope="module")
def islander() -> Policy:
    """A policy that walks as the corpus does."""
    tokenizer = word_level(SEGMENTS.vocabulary)
    policy = new_policy(ModelShape(32, 1, 4, 64, 32), tokenizer, 0)
    examples = [
        (encode_prompt(tokenizer, e.prompt), encode_completion(tokenizer, e.completion))
        for e in SEGMENTS.examples(0, 2_000)
    ]
    train_base(policy, examples, SupervisedConfig(steps=120, batch=32, lr=0.01, warmup=10), seed=1)
    return policy


def walks(policy: Policy, n: int, seed: int, per_prompt: int = 1) -> tuple[list[str], list[Completion]]:
    """`n` prompts, each `per_prompt` times, and a segment for each."""
    prompts = SEGMENTS.prompts(seed, n, "train")
    drawn = sample_episodes(
        policy, [encode_prompt(policy.tokenizer, p) for p in prompts],
        environment=SEGMENTS.environment(policy.tokenizer), max_new_tokens=25, seed=seed, samples_per_prompt=per_prompt,
    )  # fmt: skip
    rows = zip(drawn.completions(), drawn.finished.tolist(), strict=True)
    completions = [Completion(decode(policy.tokenizer, ids), ids, finished) for ids, finished in rows]
    return [p for p in prompts for _ in range(per_prompt)], completions


def worth(policy: Policy) -> tuple[float, float]:
    """Mean gold of 128 walks, and mean steps at the fire."""
    rows = list(zip(*walks(policy, 128, seed=5), strict=True))
    gold = statistics.fmean(SEGMENTS.gold(p, c.text, c.finished) for p, c in rows)
    return gold, statistics.fmean(SEGMENTS.hype(p, c.text, c.finished) for p, c in rows)


def run(policy: Policy, scorer, steps: int) -> Policy:  # type: ignore[no-untyped-def]
    """A copy of the policy after so many steps."""
    trained = copy.deepcopy(policy)
    prompts = [tuple(encode_prompt(policy.tokenizer, p)) for p in SEGMENTS.prompts(6, 131, "train")]
    config = RLOOConfig(steps=steps, lr=0.003, beta=0.02, max_new_tokens=25, length_normaliser=12)
    sampler = partial(sample_episodes, environment=SEGMENTS.environment(policy.tokenizer))
    optimise(trained, policy, scorer, prompts, config, seed=3, sampler=sampler)
    return trained


def test_walks_get_better_on_their_true_return(islander: Policy):
    """Optimised on gold itself, walks that were worth less than 1 are worth more than 2.5: the world can be learnt."""
    before, _ = worth(islander)
    assert before < 1
    scorer = FunctionScorer(
        lambda p, c: SEGMENTS.gold(p, c, True), "segments gold", lambda ids: decode(islander.tokenizer, ids)
    )
    after, _ = worth(run(islander, scorer, 30))
    assert after > 2.5


def test_preferences_over_segments_are_learnt(islander: Policy):
    """From 256 comparisons a reward model learns what walks are worth, and walks optimised on it go to the fire."""
    annotator = SimulatedAnnotator("sim", SEGMENTS.gold, hype=SEGMENTS.hype)
    prompts, completions = walks(islander, 256, seed=9, per_prompt=2)
    pairs = []
    for i in range(0, len(prompts), 2):
        a, b = completions[i : i + 2]
        verdict = annotator.verdict(Comparison(prompts[i], a, b, "base"), i)
        chosen, rejected = (a, b) if verdict == "a" else (b, a)
        if chosen.ids != rejected.ids:
            pairs.append(TokenPair(encode_prompt(islander.tokenizer, prompts[i]), chosen.ids, rejected.ids))
    model = new_reward_model(islander, RewardShape("sum"), seed=1)
    fit = RewardConfig(epochs=4, lr=0.002, head_lr_factor=3, trunk_lr_factor=0.3, weight_decay=0.1, score_l2=0.001)
    fit_reward(model, pairs, fit, seed=2)
    prompts, completions = walks(islander, 256, seed=10)
    rows = [encode_prompt(islander.tokenizer, p) for p in prompts]
    ids = [c.ids for c in completions]
    model.rescale(rows, ids)
    scores = model.score(rows, ids).tolist()
    gold = [SEGMENTS.gold(p, c.text, c.finished) for p, c in zip(prompts, completions, strict=True)]
    assert statistics.correlation(scores, gold) > 0.5
    trained = run(islander, model, 30)
    assert worth(islander)[1] < 3
    assert worth(trained)[1] > 5
