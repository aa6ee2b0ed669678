"""DPO and IPO: offline on given pairs, online on what the policy writes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rlback.errors import ConfigError, DataError, TrainingDiverged
from rlback.models.digests import weights_digest
from rlback.models.policy import token_logps
from rlback.models.sampler import sample
from rlback.settings import DPOConfig, OnlineDPOConfig
from rlback.training.dpo import fit_dpo
from rlback.training.on_policy import StepRecord, optimise
from rlback.training.reward import TokenPair
from rlback.training.signals import best_against_worst
from tests.training.tiny import BOS, EOS, PROMPTS, A, B, CountsLetter, letter_pairs, policy

CONFIG = DPOConfig(lr=1e-2, beta=0.5, epochs=4, batch=16, warmup=2)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, loss="ipo"), replace(CONFIG, loss="ipo", length_mean=True)])
def test_it_learns_to_prefer_what_was_chosen(config: DPOConfig) -> None:
    """After four passes held-out pairs have the higher implicit reward on their chosen side, and A is written more."""
    made, reference = policy(), policy()
    metrics = fit_dpo(made, reference, letter_pairs(300), config, seed=1)
    assert metrics["accuracy"] > 0.9
    held = letter_pairs(50, seed=9)

    def gain(side: str) -> torch.Tensor:
        rows = [p.prompt for p in held], [getattr(p, side) for p in held]
        pad = made.tokenizer.pad_token_id
        with torch.no_grad():
            return (token_logps(made.model, *rows, pad)[0] - token_logps(reference.model, *rows, pad)[0]).sum(-1)

    assert (gain("chosen") > gain("rejected")).float().mean() > 0.9

    def letters(which) -> float:
        return sum(c.count(A) for c in sample(which, PROMPTS * 8, max_new_tokens=6, seed=2).completions()) / 48

    assert letters(made) > 1.5 * letters(reference)


def test_the_first_loss_is_log_2() -> None:
    """From an equal reference both implicit rewards are 0; with weights the mean stays log 2."""
    seen: list[float] = []
    pairs = [replace(pair, weight=1.0 + i) for i, pair in enumerate(letter_pairs(8))]
    config = replace(CONFIG, epochs=1, batch=8)
    fit_dpo(policy(), policy(), pairs, config, seed=1, report=lambda done, of, metrics: seen.append(metrics["loss"]))
    assert seen[0] == pytest.approx(math.log(2), abs=1e-4)


def test_a_pair_of_weight_0_moves_nothing() -> None:
    """With the second pair's weight at 0 the policy is trained as if there were only the first."""
    first, second = letter_pairs(2)
    config = replace(CONFIG, epochs=1, batch=2, warmup=0)
    trained = []
    for pairs in ([first, replace(second, weight=0.0)], [first, first]):
        made = policy()
        fit_dpo(made, policy(), pairs, config, seed=1)
        trained.append(torch.cat([p.detach().flatten() for p in made.model.parameters()]))
    assert torch.allclose(*trained, atol=1e-5)


def test_a_tie_pulls_the_sides_together() -> None:
    """Trained on one pair alone its implicit rewards part; trained on it as a tie they do not; IPO refuses ties."""
    pair = letter_pairs(1)[0]
    config = replace(CONFIG, epochs=20, batch=1)
    decided = fit_dpo(policy(), policy(), [pair], config, seed=1)
    tied = fit_dpo(policy(), policy(), [replace(pair, target=0.5)], config, seed=1)
    assert abs(tied["margin"]) < 0.2 * decided["margin"]
    with pytest.raises(DataError, match="ties"):
        fit_dpo(policy(), policy(), [replace(pair, target=0.5)], replace(config, loss="ipo"), seed=1)


def test_the_cut_into_parts_changes_nothing() -> None:
    """One side a part or all in one: the same weights, but for rounding."""
    trained = []
    for max_padded in (1, 10_000):
        made = policy()
        fit_dpo(made, policy(), letter_pairs(16), replace(CONFIG, epochs=1, max_padded=max_padded), seed=1)
        trained.append(torch.cat([p.detach().flatten() for p in made.model.parameters()]))
    assert torch.allclose(*trained, atol=1e-5)


def test_tokens_that_something_else_wrote_do_not_count() -> None:
    """With every token someone else's there is no log-ratio to learn from: the loss stays log 2 and no weight moves."""
    made = policy()
    metrics = fit_dpo(
        made, policy(), letter_pairs(8), CONFIG, seed=1,
        own=lambda prompts, completions: torch.zeros(len(prompts), max(map(len, completions))),
    )  # fmt: skip
    assert metrics["loss"] == pytest.approx(math.log(2))
    assert weights_digest(made.model) == weights_digest(policy().model)


def test_checkpoints_come_after_their_updates() -> None:
    """Within an epoch the policy is handed over every two of four steps."""
    seen: list[int] = []
    config = replace(CONFIG, epochs=1, batch=4, checkpoint_every=2)
    fit_dpo(policy(), policy(), letter_pairs(16), config, seed=1, on_checkpoint=lambda step, _: seen.append(step))
    assert seen == [2, 4]


def test_wrong_input_is_refused() -> None:
    """No pairs, an empty side, one model in both roles, settings of the other loss."""
    with pytest.raises(DataError, match="no preference pairs"):
        fit_dpo(policy(), policy(), [], CONFIG, seed=1)
    with pytest.raises(DataError, match="pair 0"):
        fit_dpo(policy(), policy(), [TokenPair([BOS, A], [], [B, EOS])], CONFIG, seed=1)
    made = policy()
    with pytest.raises(ConfigError, match="copy"):
        fit_dpo(made, made, letter_pairs(2), CONFIG, seed=1)
    with pytest.raises(ValueError, match="label_smoothing"):
        DPOConfig(lr=1e-2, beta=0.5, loss="ipo", label_smoothing=0.1)


def test_a_loss_that_is_not_finite_stops_it() -> None:
    """Weights of NaN are met at step 0, before an update."""
    made = policy()
    with torch.no_grad():
        made.model.model.norm.weight.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"dpo: .*step 0"):
        fit_dpo(made, policy(), letter_pairs(4), CONFIG, seed=1)


ONLINE = OnlineDPOConfig(
    steps=40, prompts_per_step=6, samples_per_prompt=4, lr=1e-2, beta=0.1, max_new_tokens=6
)


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_online_it_learns_to_write_what_scores(loss: str) -> None:
    """Six letters may be written: about one in ten is the rewarded one at first; at the end at least three, or two
    with IPO, whose target of 1 / (2 beta) = 5 nats between best and worst is reached sooner."""
    records: list[StepRecord] = []
    config = replace(ONLINE, loss=loss)
    optimise(policy(), policy(), CountsLetter(), PROMPTS, config, seed=3, observe=records.append)
    assert records[0].scores.mean() < 1.5
    assert records[0].loss == pytest.approx(math.log(2) if loss == "dpo" else 25.0, rel=1e-3)  # (0 - 1 / (2 * 0.1))^2
    assert records[-1].scores.mean() > (3 if loss == "dpo" else 2)


def test_the_best_stands_against_the_worst() -> None:
    """A row's best gets 1, its worst -1, the rest 0; a row of equal scores gets nothing."""
    marks = best_against_worst(torch.tensor([[0.0, 3.0, -1.0], [2.0, 2.0, 2.0]]))
    assert marks.tolist() == [[0.0, 1.0, -1.0], [0.0, 0.0, 0.0]]


def test_online_equal_scores_move_nothing() -> None:
    """When every prompt's completions are worth the same, the step is made and no weight moves."""
    made = policy()
    optimise(made, policy(), CountsLetter(letter=-1), PROMPTS, replace(ONLINE, steps=2), seed=3)
    assert weights_digest(made.model) == weights_digest(policy().model)
