"""Reward models, single or as an ensemble: a policy's trunk with scalar heads, scoring token ids as they were sampled.

An ensemble is one module, trained in one pass. Members on a shared trunk see the text through the same eyes: what the
trunk does not represent, no member can object to. Members with trunks of their own that started from one policy share
less, but still that start, and ensembles of either kind are fooled where all members err alike (Eisenstein et al.
2312.09244). Their disagreement is a warning; their agreement is no proof.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rlback.errors import CheckpointError, DataError, TrainingDiverged
from rlback.maths import ensembles
from rlback.models.batching import Ids, Packed, in_parts, pack
from rlback.models.digests import weights_digest
from rlback.models.llama_forward import states_at
from rlback.models.policy import Policy, completion_logits, positions_of
from rlback.records import digest_of, seed_of
from rlback.settings import RewardShape

#: Divides the sum of per-token values, of which a completion has tens.
SUM_DIVISOR = 8.0


class RewardModel(nn.Module):
    """One scalar per (prompt, completion) from each member; token ids go in as sampled, end token included.

    Parameters, for m members: `trunk.*`, or `trunk.0.*` to `trunk.<m - 1>.*` where each has its own; `head.weight`
    (m, d); for `sum` also `token_table.weight` (V, m * c), c columns for each member in turn: the per-token offset and,
    with surprise, the per-token slope on surprise; with surprise also `gain.weight` (m, d), the slope read off the
    state; with a bag, the last member, `bag.weight` (V, 1). The frozen policy (`frozen.*`) takes no gradient; all
    members share it. Buffers: `shift` and `scale`, scalars for one member and (m,) for several, the bag counted, and
    for several `combined_shift` and `combined_scale`: see `rescale`.
    """

    #: Equal scores for different completions mean that it collapsed.
    graded = True
    shift: Tensor
    scale: Tensor
    combined_shift: Tensor
    combined_scale: Tensor

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, shape: RewardShape
    ) -> None:
        """Copy the trunk (and, with surprise, the whole frozen policy) from `model`; the heads start at 0."""
        super().__init__()
        self.shape, self.tokenizer, self.config = shape, tokenizer, model.config
        members = shape.members
        if shape.share_trunk:
            self.trunk = copy.deepcopy(model.base_model)
        else:
            # One after the other and not as stacked weights under vmap: the attention kernel has no batching rule on
            # the CPU, where the stack took as long as the loop; and any architecture runs as it is.
            self.trunk = nn.ModuleList(copy.deepcopy(model.base_model) for _ in range(members))
        self.trunk.requires_grad_(True)
        vocabulary, width = model.get_input_embeddings().weight.shape
        self.head = nn.Linear(width, members, bias=False)
        nn.init.zeros_(self.head.weight)
        if shape.pooling == "sum":
            self.token_table = nn.Embedding(vocabulary, members * (2 if shape.surprise else 1))
            nn.init.zeros_(self.token_table.weight)
        if shape.bag:
            self.bag = nn.Embedding(vocabulary, 1)
            nn.init.zeros_(self.bag.weight)
        if shape.surprise:
            self.frozen = copy.deepcopy(model).requires_grad_(False)
            self.gain = nn.Linear(width, members, bias=False)
            nn.init.zeros_(self.gain.weight)
        each = () if shape.count == 1 else (shape.count,)
        self.register_buffer("shift", torch.zeros(each))
        self.register_buffer("scale", torch.ones(each))
        if shape.count > 1:
            self.register_buffer("combined_shift", torch.zeros(()))
            self.register_buffer("combined_scale", torch.ones(()))

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def first_trunk(self) -> PreTrainedModel:
        """The trunk, or that of the first member: rows must fit its positions and its vocabulary."""
        return self._trunks()[0]

    def identity(self) -> str:
        """A digest of what the scores depend on: all weights, shift and scale included, and the shape."""
        return digest_of([asdict(self.shape), weights_digest(self)])

    @torch.no_grad()
    def surprise(self, prompts: Sequence[Ids], completions: Sequence[Ids]) -> Tensor:
        """(b, t) excess log-probability of each completion token under the frozen policy, 0 where padded.

        log p(token) plus the entropy of p, in nats: 0 on average over tokens the policy itself would draw, so
        that a long completion is not worse for its length. It never changes, so a trainer may compute it once
        per pair and hand it to `forward` in every epoch.
        """
        pad_id = self.tokenizer.pad_token_id
        batch = pack(prompts, completions, pad_id, positions_of(self.frozen.base_model), self.device)
        row, step = batch.mask.nonzero(as_tuple=True)
        logps = completion_logits(self.frozen, batch).float().log_softmax(-1)
        excess = logps.gather(-1, batch.targets[row, step][:, None])[:, 0] - (logps.exp() * logps).sum(-1)
        return torch.zeros(batch.mask.shape, device=self.device).index_put((row, step), excess)

    def forward(
        self,
        prompts: Sequence[Ids],
        completions: Sequence[Ids],
        surprise: Sequence[Tensor] | None = None,
        member: int | None = None,
    ) -> Tensor:
        """Raw scores (b,), or (members, b) of an ensemble; float32, before shift and scale.

        surprise: optionally one tensor per row, at least as long as the completion, as `surprise` gave it. member: of an
        ensemble with trunks of its own, the scores of this one alone, (b,); the others' trunks are not run.
        Raises DataError for an empty completion or a row that does not fit the model.
        """
        for row, completion in enumerate(completions):
            if len(completion) == 0:
                raise DataError(f"completion {row} has no tokens", remedy="encode it with encode_completion")
        pad_id = self.tokenizer.pad_token_id
        batch = pack(prompts, completions, pad_id, positions_of(self.first_trunk), self.device)
        seen: Tensor | None = None
        if self.shape.surprise:
            if surprise is None:
                seen = self.surprise(prompts, completions)
            else:
                seen = nn.utils.rnn.pad_sequence(
                    [s[: len(c)] for s, c in zip(surprise, completions, strict=True)], True
                )
                seen = seen.to(self.device)
        which = slice(None) if member is None else slice(member, member + 1)
        states = [self._states(trunk, batch) for trunk in self._trunks()[which]]
        hidden = states[0] if self.shape.share_trunk else torch.stack(states)
        with torch.autocast(self.device.type, enabled=False):
            scores = self._pool(hidden.float(), batch.targets, batch.mask, seen, which)
        return scores if self.shape.count > 1 and member is None else scores[0]

    def _states(self, trunk: nn.Module, batch: Packed) -> Tensor:
        """What the pooling reads: the states of last tokens (b, d), or of all completion tokens (b, t, d)."""
        if self.shape.pooling == "last":
            rows = torch.arange(len(batch.ids), device=batch.ids.device)
            return states_at(trunk, batch.ids, rows, batch.places[rows, batch.mask.sum(1) - 1])
        row, step = batch.mask.nonzero(as_tuple=True)
        states = states_at(trunk, batch.ids, row, batch.places[row, step])
        return states.new_zeros(*batch.mask.shape, states.shape[-1]).index_put((row, step), states)

    def _trunks(self) -> list[nn.Module]:
        return [self.trunk] if self.shape.share_trunk else list(self.trunk)

    def _read(self, states: Tensor, weight: Tensor) -> Tensor:
        """States (..., d) of a shared trunk, or (m, ..., d) of own ones, under weights (m, d), to (m, ...)."""
        if self.shape.members == 1:
            return (states @ weight[0].float())[None]
        if self.shape.share_trunk:
            return (states @ weight.float().T).movedim(-1, 0)
        return torch.einsum("m...d,md->m...", states, weight.float())

    def _pool(self, states: Tensor, targets: Tensor, mask: Tensor, seen: Tensor | None, which: slice) -> Tensor:
        """What `_states` gave, fp32, with own trunks a member axis before it, to scores (m, b) of the members `which`."""
        head = self.head.weight[which]
        if self.shape.pooling != "sum":
            pooled = states if self.shape.pooling == "last" else states.sum(-2) / mask.sum(1)[:, None]  # 0 where padded
            scores = self._read(pooled, head)
            return torch.cat([scores, self._from_bag(targets, mask)]) if self.shape.bag else scores
        # (b, t, m * c) to (c, m, b, t)
        table = self.token_table(targets).float().unflatten(-1, (self.shape.members, -1)).permute(3, 2, 0, 1)[:, which]
        value = self._read(states, head) + table[0]
        if seen is not None:
            value = value + (table[1] + self._read(states, self.gain.weight[which])) * seen
        return (value * mask).sum(-1) / SUM_DIVISOR

    def _from_bag(self, targets: Tensor, mask: Tensor) -> Tensor:
        """Token ids (b, t) to scores (1, b): log(1 + count) of each token, the row at length 1, times its weights.

        At length 1 a long completion is not worth more for saying the same again, and one of n different tokens can
        reach as much as sqrt(n) times what one alone can.
        """
        weight = self.bag.weight.float()
        counts = weight.new_zeros(len(targets), len(weight)).scatter_add(1, targets, mask.to(weight.dtype))
        bags = nn.functional.normalize(counts.log1p(), dim=1)
        return (bags @ weight).T

    @property
    def raw_scale(self) -> float:
        """What a difference of two scores is multiplied by to give Bradley-Terry log-odds (of an ensemble: about)."""
        scale = float(self.scale.mean())
        return scale if self.shape.count == 1 else scale * float(self.combined_scale)

    @torch.no_grad()
    def score(self, prompts: Sequence[Ids], completions: Sequence[Ids], max_padded: int = 2560) -> Tensor:
        """The score of every row, (b,) float32 without gradient, in the order given: `combine` of the raw ones."""
        return self.combine(self._raw(prompts, completions, max_padded))

    @torch.no_grad()
    def member_scores(
        self, prompts: Sequence[Ids], completions: Sequence[Ids], max_padded: int = 2560
    ) -> Tensor:
        """(members, b): each member's own (raw - shift) / scale. Their spread over the members says how sure they are."""
        return self._standardised(self._raw(prompts, completions, max_padded))

    def combine(self, raw: Tensor) -> Tensor:
        """Raw scores, as `forward` gives them, to one score a completion, (b,).

        One member: (raw - shift) / scale. Several: the same for each, joined as the shape's `combine` says, and the
        joint score shifted and scaled once more, since a minimum has neither mean 0 nor variance 1.
        """
        standard = self._standardised(raw)
        if self.shape.count == 1:
            return standard[0]
        return (self._joint(standard) - self.combined_shift) / self.combined_scale

    def _raw(self, prompts: Sequence[Ids], completions: Sequence[Ids], max_padded: int) -> Tensor:
        scores = torch.zeros(self.shape.count, len(prompts), device=self.device)
        for rows in in_parts(prompts, completions, max_padded):
            scores[:, rows] = self([prompts[r] for r in rows], [completions[r] for r in rows])
        return scores

    def _standardised(self, raw: Tensor) -> Tensor:
        return (raw.reshape(self.shape.count, -1) - self.shift.view(-1, 1)) / self.scale.view(-1, 1)

    def _joint(self, standard: Tensor) -> Tensor:
        if self.shape.combine == "mean":
            return ensembles.mean(standard)
        if self.shape.combine == "worst_case":
            return ensembles.worst_case(standard)
        return ensembles.uncertainty_weighted(standard, self.shape.uncertainty_weight)

    @torch.no_grad()
    def rescale(self, prompts: Sequence[Ids], completions: Sequence[Ids], max_padded: int = 2560) -> None:
        """Set shifts and scales so that `score` has mean 0 and variance 1 on these reference samples.

        So has each member of an ensemble; otherwise the lowest score would be that of the member with the lowest
        offset. After every retrain, on samples of the same reference policy: only then does a KL coefficient mean
        the same from round to round (Ziegler et al. 2019, arXiv 1909.08593). Raises TrainingDiverged, and leaves
        the model as it was, when scores are not finite or all equal.
        """
        raw = self._raw(prompts, completions, max_padded).double()
        where = f"on {len(prompts)} reference samples"
        fits = [mean_and_spread(row, f"{member_name(self, k)} {where}") for k, row in enumerate(raw)]
        means, spreads = (raw.new_tensor(column) for column in zip(*fits, strict=True))
        if self.shape.count > 1:
            joint = self._joint((raw - means[:, None]) / spreads[:, None])
            mean, spread = mean_and_spread(joint, f"the members' {self.shape.combine} {where}")
            self.combined_shift.fill_(mean)
            self.combined_scale.fill_(spread)
        self.shift.copy_(means.view(self.shift.shape))
        self.scale.copy_(spreads.view(self.scale.shape))


def member_name(reward_model: RewardModel, member: int) -> str:
    """How messages call a member; the only one is the reward model itself."""
    return "the reward model" if reward_model.shape.count == 1 else f"member {member}"


def mean_and_spread(scores: Tensor, whose: str) -> tuple[float, float]:
    """Mean and standard deviation of scores (b,), which must be finite and, but for rounding, not all equal.

    TrainingDiverged otherwise, naming the stage, `whose` scores they are, and the value.
    """
    remedy = "train it with a lower learning rate or on more labels"
    broken = scores[~scores.isfinite()]
    if len(broken):
        raise TrainingDiverged(
            f"reward model: {len(broken)} of {len(scores)} scores of {whose} are not finite; the first is {float(broken[0])}",
            remedy=remedy,
        )
    scores = scores.double()
    mean, spread = scores.mean().item(), scores.std(unbiased=False).item() if len(scores) else math.nan
    # A float32 score is rounded at 6e-8 of its size.
    if not spread > max(1e-8, 1e-6 * abs(mean)):
        raise TrainingDiverged(
            f"reward model: the scores of {whose} have standard deviation {spread:.3g} around {mean:.6g}; it tells no "
            "completion from another",
            remedy=remedy,
        )
    return mean, spread


def new_reward_model(policy: Policy, shape: RewardShape, seed: int) -> RewardModel:
    """A reward model on a copy of the policy's trunk; heads are drawn with std 1 / sqrt(d + 1).

    The first member's head is drawn from `seed`, as a single model's is, the others' from seeds derived of it. With
    pooling `sum` all start at 0. Head initialisation: Stiennon et al. 2020, arXiv 2009.01325.
    """
    model = RewardModel(policy.model, policy.tokenizer, shape)
    width = model.head.weight.shape[1]
    if shape.pooling == "sum":
        # A random head summed over tens of tokens drowns what a few hundred labels can teach; start from 0.
        return model.to(policy.model.device)
    with torch.no_grad():
        for member in range(shape.members):
            drawn = torch.Generator().manual_seed(seed if member == 0 else seed_of(seed, "member", member))
            model.head.weight[member] = torch.randn(1, width, generator=drawn)[0] / math.sqrt(width + 1)
    return model.to(policy.model.device)


@torch.no_grad()
def warm_start(model: RewardModel, previous: RewardModel) -> None:
    """Give `model` what `previous` learned: trunks, heads, token tables, bags and gains, in place.

    Shift and scale stay at what they are, for `rescale` to set after the fit. Raises CheckpointError, and changes
    nothing, when the two differ in form, vocabulary, any weight's shape, or the frozen policy that surprise is measured
    against; how members are combined is no matter of weights and may differ.
    """
    for field in ("pooling", "surprise", "bag", "members", "share_trunk"):
        ours, theirs = getattr(model.shape, field), getattr(previous.shape, field)
        if ours != theirs:
            raise _no_warm_start(f"has {field} {theirs!r}, this one {ours!r}")
    if model.tokenizer.get_vocab() != previous.tokenizer.get_vocab():
        raise _no_warm_start("reads another vocabulary")
    learned, current = _trained(previous), _trained(model)
    for name in sorted(learned.keys() | current.keys()):
        theirs, ours = (tuple(side[name].shape) if name in side else None for side in (learned, current))
        if theirs != ours:
            raise _no_warm_start(f"has {name} of shape {theirs}, this one of {ours}")
    if model.shape.surprise and weights_digest(model.frozen) != weights_digest(previous.frozen):
        raise _no_warm_start("measures surprise against another frozen policy")
    for name, parameter in current.items():
        parameter.copy_(learned[name])


def _trained(model: RewardModel) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _no_warm_start(difference: str) -> CheckpointError:
    return CheckpointError(
        f"the previous reward model cannot be the start of this one: it {difference}",
        remedy="start from the base policy's trunk, or keep base policy and reward_model.shape as they were",
    )
