"""Scores from an annotator's verdicts, a Python function, and policies that learn from them."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from rlback.disks import full_disk
from rlback.errors import ConfigError, StageError, TrainingDiverged
from rlback.settings import RLOOConfig
from rlback.training.on_policy import StepRecord, optimise
from rlback.training.scorers import AnnotatorScorer, CommandScorer, FunctionScorer, Scorer
from tests.training.tiny import BOS, PROMPTS, TOKENIZER, A, policy

CONFIG = RLOOConfig(
    steps=60, prompts_per_step=6, samples_per_prompt=4, lr=1e-2, beta=0.0, length_normaliser=4, max_new_tokens=6
)


def words(ids) -> str:
    return TOKENIZER.decode(list(ids), skip_special_tokens=True)


def more_of_a(prompt, a, b):
    """Prefers the completion with more of letter A; equal counts tie."""
    gap = list(a).count(A) - list(b).count(A)
    return "a" if gap > 0 else "b" if gap < 0 else "tie"


def learned(scorer: Scorer) -> float:
    """How many A's a completion has on average at the end of a run; about 0.9 at its start."""
    records: list[StepRecord] = []
    optimise(policy(), policy(), scorer, PROMPTS, CONFIG, seed=3, observe=records.append)
    return sum(c.count(A) for r in records[-3:] for c in r.completions) / 72


def test_direct_rl_learns_from_verdicts_alone() -> None:
    """An annotator who is wrong in one verdict of ten, and no reward model."""
    noise = random.Random(5)

    def noisy(prompt, a, b):
        verdict = more_of_a(prompt, a, b)
        flip = {"a": "b", "b": "a"}
        return flip.get(verdict, verdict) if noise.random() < 0.1 else verdict

    assert learned(AnnotatorScorer(noisy, "more A, 10 % wrong")) > 3


def test_an_outcome_function_is_learned() -> None:
    """1 for a completion with an A in it, else 0."""
    scorer = FunctionScorer(lambda prompt, text: float(text.split().count("a") >= 1), "has an a", words)
    assert learned(scorer) > 1.5


def test_a_pair_is_scored_by_its_verdict() -> None:
    """Winner 1, loser -1, a tie 0 for both; the second pair is another prompt's."""
    scorer = AnnotatorScorer(more_of_a, "more A")
    prompts = [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2 + [PROMPTS[2]] * 2
    assert scorer.score(prompts, [[A], [1], [1], [A, A], [A], [A]]).tolist() == [1, -1, -1, 1, 0, 0]


def test_completions_that_make_no_pairs_are_refused() -> None:
    """Three completions a prompt cannot be compared in pairs."""
    with pytest.raises(ConfigError, match="even"):
        optimise(policy(), policy(), AnnotatorScorer(more_of_a, "a"), PROMPTS, replace(CONFIG, samples_per_prompt=3), seed=1)


class Mute(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Abrupt(BaseException):
    """No Exception."""


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (Mute(), r"grade failed on completion 0 .*: Mute: \(its text cannot be read\) \(.*test_scorers\.py, line \d+\)"),
        (Abrupt("gone"), "grade failed on completion 0 .*: Abrupt: gone"),
        (SystemExit(0), "grade failed on completion 0 .*: SystemExit: 0"),
    ],
    ids=["mute", "abrupt", "exit"],
)
def test_whatever_an_outcome_function_raises_is_an_error_of_ours(error: BaseException, match: str) -> None:
    """And nothing is behind it whose text would fail those who look there for a full disk."""

    def grade(prompt: str, completion: str) -> float:
        raise error

    with pytest.raises(StageError, match=match) as failed:
        FunctionScorer(grade, "grade", words).score([[BOS]], [[A]])
    assert full_disk(failed.value, Path("/")) is None


@pytest.mark.parametrize("stop", [KeyboardInterrupt, asyncio.CancelledError])
def test_an_outcome_function_can_be_interrupted(stop: type[BaseException]) -> None:
    """Who ends a run inside the function ends the run."""

    def grade(prompt: str, completion: str) -> float:
        raise stop

    with pytest.raises(stop):
        FunctionScorer(grade, "grade", words).score([[BOS]], [[A]])


def test_an_outcome_that_is_not_finite_stops_the_run() -> None:
    """The scorer and the row are named."""
    with pytest.raises(TrainingDiverged, match="half gave nan for completion 1"):
        FunctionScorer(lambda p, t: math.nan if "b" in t else 0.0, "half", words).score([[BOS]] * 2, [[A], [1]])


def test_scorers_are_told_apart() -> None:
    """A state saved under one scorer is not continued under another: their identities differ."""
    made = [AnnotatorScorer(more_of_a, "x"), AnnotatorScorer(more_of_a, "y"), FunctionScorer(lambda p, t: 0.0, "x", words),
            CommandScorer(("x",), words)]  # fmt: skip
    assert len({scorer.identity() for scorer in made}) == 4
