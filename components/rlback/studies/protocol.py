"""What a world must be able to do for the machine to run arms on it.

A learner holds the runs of several seeds at once, its *lanes*: everything that is a number of a run is an array with
the lanes first, so that a tabular world can compute them together; a world of language models may have one lane.
Policies, label batches and reward models are opaque to the machine: it passes them back and never looks inside.

Rules for a learner, which tests/studies/test_bandit_learner.py checks for the bandit:

- A lane depends on its own seed only, never on which other seeds share the learner, or how many.
- Randomness comes from (seed, key) alone. `key` names the purpose and place of a draw (`("inside", 3)`), so that
  calling twice gives the same, a resumed study equals an undisturbed one, and two arms that do the same thing at
  the same place get the same draws: runs are paired by seed.
- Nothing changes what was passed in. A policy returned stays valid for as long as the machine may need it.
- Lanes whose mask is off, or that have 0 steps to go, are left as they are: what is computed for them is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Opaque to the machine. One value holds all lanes.
Policy = Any
LabelBatch = Any
RewardModel = Any

#: Purpose and place of a random draw, such as ("cross", 4). Strings and whole numbers only.
Key = tuple[str | int, ...]

#: How several reward models become one score (maths/ensembles.py); `weight_average` averages parameters (WARM).
Combine = Literal["last", "mean", "worst_case", "uncertainty_weighted", "weight_average"]
COMBINES: frozenset[Combine] = frozenset(get_args(Combine))

#: Rows of an exposure array, in this order: MX_sign, MX_false, MX_bad, MX_flow (science, section 2.2).
EXPOSURES = ("sign", "false", "bad", "flow")
#: One row more: the sum over updates of learning rate times what MX_sign counts. A quantity, no share (science, 2.2).
INTEGRATED = len(EXPOSURES)


def no_exposure(lanes: int) -> Array:
    """Exposure before any update: zeros (lanes, 5, 2). [..., 0] is a share's part and [..., 1] its whole."""
    return np.zeros((lanes, len(EXPOSURES) + 1, 2))


@dataclass(frozen=True)
class Segment:
    """How far one attempt goes.

    steps: optimiser steps of each lane, (lanes,); a lane with 0 stands still. every: a checkpoint is yielded after
    this many steps. size: how far one step goes, as the square root of the KL it would add on its own if the reward's
    spread stayed what it is; a learner whose optimiser has a learning rate instead treats it as a factor on that rate
    with 1 meaning the usual one (`size / usual_size`). beta: weight of the KL penalty towards `reference`.
    """

    steps: Counts
    every: int
    size: float
    beta: float = 0.0
    reference: Literal["start", "base"] = "start"


@dataclass(frozen=True)
class StepCheckpoint:
    """A policy on the way. `done` (lanes,): steps made; lanes that needed fewer stay at theirs.

    exposure (lanes, 5, 2), see `no_exposure`: of all updates since the segment began. labels (lanes,): verdicts asked
    for since then by methods that ask during optimisation, 0 otherwise. diverged (lanes,): a weight or loss is not
    finite, or the KL left its bounds; such a lane makes no more steps.
    """

    done: Counts
    policy: Policy
    exposure: Array
    labels: Counts
    diverged: Mask


@dataclass(frozen=True)
class Evaluation:
    """Measurements of a policy, (lanes,) each; NaN where there is none. Measuring costs no labels.

    gold: standardised, J(base) = 0 and variance 1 under the base policy, on prompts nothing is trained on. proxy: mean
    score under the reward model that is being optimised; proxy_standardised: in standard deviations above base
    samples. kl: from the base policy, kl_segment: from the start of the segment, nats per completion.
    accuracy_on_policy: share of the policy's own pairs that the reward model orders as gold does; accuracy_heldout:
    the same on base pairs nothing is fitted to. spread: standard deviation over the members of an ensemble of the
    standardised score, mean over the policy. reward_variance: of the standardised score under the policy. tail_index:
    Hill's, of the standardised score less gold over the policy's samples. bad: share of the policy's completions in
    the fixed bad set. accuracy_implicit: share of the base pairs that log policy - log base, the policy's implicit reward
    (Rafailov et al. 2305.18290), orders as gold does. All three None where they are not measured.
    """

    gold: Array
    proxy: Array
    proxy_standardised: Array
    kl: Array
    kl_segment: Array
    accuracy_on_policy: Array
    accuracy_heldout: Array
    spread: Array
    reward_variance: Array
    tail_index: Array | None = None
    bad: Array | None = None
    accuracy_implicit: Array | None = None


@dataclass(frozen=True)
class Beginning:
    """Something that all runs share and that is still to be made; seconds: how long it may take here."""

    what: str
    seconds: float


@dataclass(frozen=True)
class Batch:
    """Labels of one collection and which lanes have them: lanes without the label leave it out of every fit."""

    labels: LabelBatch
    lanes: Mask
    count: int


class Learner(Protocol):
    """One world with several seeds of it under way. See the module's rules."""

    #: Number of seeds.
    lanes: int
    #: Optimisers it has, of arms.METHODS.
    methods: frozenset[str]
    #: Automated scorers it has besides reward models: some of {"gold", "outcome"}.
    scorers: frozenset[str]
    #: Ways it can join several reward models.
    combines: frozenset[Combine]

    @property
    def inputs(self) -> Mapping[str, str]:
        """What stands for a world's setting in digests of runs, by key: for a path the SHA-256 of what lies there, for
        a device named `auto` the one there is. Settings without an entry stand for themselves."""
        ...

    def rehearsal(self) -> tuple[Learner, list[Beginning]]:
        """For an estimate of time: a learner as dear as this one whose beginnings are not trained, and the beginnings
        that are still to be made. Writes nothing."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a reader of the results has to know of what all runs share, as far as it was made; {} for nothing."""
        ...

    def base(self) -> Policy:
        """The base policy of every lane: the initial state, equal for all arms."""
        ...

    def select(self, mask: Mask, chosen: Policy, other: Policy) -> Policy:
        """Lane by lane: `chosen` where the mask (lanes,) is on, `other` elsewhere."""
        ...

    def select_models(self, mask: Mask, chosen: RewardModel, other: RewardModel) -> RewardModel:
        """The same for reward models of one kind."""
        ...

    def interpolate(self, base: Policy, other: Policy, eta: float) -> Policy:
        """base + eta (other - base) in the space of weights (LITI; Wolf et al. 2505.18126)."""
        ...

    def collect(self, side_a: Policy, side_b: Policy, count: int, key: Key) -> LabelBatch:
        """`count` comparisons per lane, one sample of each policy on a fresh prompt, and the annotators' verdicts.

        With one policy on both sides they are `inside` pairs, with two they are `cross` pairs.
        """
        ...

    def wins(self, labels: LabelBatch) -> Array:
        """Verdicts for side a, ties one half, each in [0, 1]: (lanes, count), in the order of labelling."""
        ...

    def predicted(self, labels: LabelBatch, reward: RewardModel) -> Array:
        """Probability of a verdict for side a by the reward model, (lanes, count)."""
        ...

    def fit(self, data: Sequence[Batch], members: int, key: Key, *, sample: Counts | None = None) -> RewardModel:
        """A reward model fitted from scratch to each lane's labels in `data`.

        `members` above 1: that many, which differ by what a finetuning seed changes (here: resampled labels).
        `sample` (lanes,): fit to that many labels drawn at random from the lane's (data mode `sampled`).
        """
        ...

    def combine(self, models: Sequence[RewardModel], has: Sequence[Mask], how: Combine, weight: float) -> RewardModel:
        """One scorer of several models; in a lane, those whose mask (lanes,) is on. `weight`: lambda, for
        `uncertainty_weighted`. With `last` it is the last one; a single model with members combines those.
        """
        ...

    def scorer(self, name: str) -> RewardModel:
        """An automated scorer in place of a reward model: "gold" or "outcome"."""
        ...

    def optimise(self, start: Policy, reward: RewardModel, segment: Segment, key: Key) -> Iterator[StepCheckpoint]:
        """Reinforcement learning on a reward model; the last checkpoint yielded is the end of the segment.

        The machine may stop reading early (early stopping): a step not read must not have been needed.
        Optimiser state (moments, KL controller) starts afresh with every segment: nothing leaks across a rollback.
        """
        ...

    def optimise_on_people(self, start: Policy, labels_per_step: int, segment: Segment, key: Key) -> Iterator[StepCheckpoint]:
        """Policy gradient straight from verdicts on the policy's own pairs, without a reward model."""
        ...

    def optimise_on_pairs(
        self, start: Policy, data: Sequence[Batch], segment: Segment, temperature: float, key: Key
    ) -> Iterator[StepCheckpoint]:
        """DPO on the lanes' labels, reference policy `start`. `temperature` is DPO's beta."""
        ...

    def best_of_n(self, start: Policy, reward: RewardModel, n: int) -> Policy:
        """The policy that answers with the best of n samples of `start` by the reward model."""
        ...

    def evaluate(self, policy: Policy, start: Policy, reward: RewardModel | None, *, pairs: bool) -> Evaluation:
        """Measures a policy. Without `pairs` the accuracies and the spread may be NaN: they are dear in some worlds."""
        ...

    def disagreement(self, policy: Policy, reward: RewardModel) -> Array:
        """Mean over the policy's samples of the members' standard deviation, (lanes,): the gate without people."""
        ...


class Oracle(Protocol):
    """What a learner may have besides: a world that knows the truth about people. The machine asks whether it does."""

    def preference(self, candidate: Policy, kept: Policy) -> Array:
        """Exact probability that annotators prefer a completion of the candidate, (lanes,). It is measured, not asked."""
        ...

    def again(self, labels: LabelBatch, key: Key) -> LabelBatch:
        """The same comparisons, labelled once more and independently."""
        ...

    def faults(self, policy: Policy, reward: RewardModel, count: int, key: Key) -> Mask:
        """Whether people find each of `count` of the policy's samples clearly bad, (lanes, count): those that the reward
        model scores highest among ten times as many. Every one costs a label.
        """
        ...

    def predicted_wins(self, candidate: Policy, kept: Policy, reward: RewardModel, count: int, key: Key) -> Array:
        """The reward model's probability that the candidate wins, on `count` comparisons nobody labels, (lanes, count)."""
        ...

    def swapped(self, swap: Any) -> Learner:
        """The learner with parts of it replaced by what knows the truth (arms.ArmSwap)."""
        ...


@dataclass(frozen=True)
class Request:
    """What a learner is made from. world: plain settings of the world as the study's file has them, checked by the
    maker. seeds: one lane each. shared: a directory for what all arms of a setting begin with (base policy, first
    labels), computed once, written atomically and named by digest; a tabular world may leave it empty.
    """

    world: dict[str, Any]
    annotator: dict[str, Any]
    optimiser: dict[str, Any]
    seeds: tuple[int, ...]
    shared: Path | None = None
    place: str = "the study"
    extra: dict[str, Any] = field(default_factory=dict)


#: Makes a learner. ConfigError names what is wrong in the world's settings.
Make = Callable[[Request], Learner]

#: World name to "module:function"; a new world is one line here.
LEARNERS: dict[str, str] = {
    "bandit": "rlback.studies.bandit:make_learner",
    "visits": "rlback.studies.text_visits:make_learner",
    "arguments": "rlback.studies.text_arguments:make_learner",
}
