"""Reward models: a policy's trunk with a scalar head, scoring token ids exactly as they were sampled."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rlback.errors import DataError, TrainingDiverged
from rlback.models.batching import Ids, by_length, pack
from rlback.models.policy import Policy, positions_of
from rlback.settings import RewardShape

#: Divides the sum of per-token values, of which a completion has tens.
SUM_DIVISOR = 8.0


class RewardModel(nn.Module):
    """One scalar per (prompt, completion); token ids go in as sampled, end token included.

    Parameters: `trunk.*`, `head.weight` (1, d); for `sum` also `token_table.weight` (V, 1 or 2), the
    per-token offset and, with surprise, the per-token slope on surprise; with surprise also `gain.weight` (1, d),
    the slope read off the state. The frozen policy (`frozen.*`) takes no gradient. `shift` and `scale` are
    buffers: see `rescale`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, shape: RewardShape
    ) -> None:
        """Copy trunk (and, with surprise, the whole frozen policy) from `model`; the head starts at 0."""
        super().__init__()
        self.shape, self.tokenizer, self.config = shape, tokenizer, model.config
        self.trunk = copy.deepcopy(model.base_model).requires_grad_(True)
        vocabulary, width = self.trunk.get_input_embeddings().weight.shape
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.head.weight)
        if shape.pooling == "sum":
            self.token_table = nn.Embedding(vocabulary, 2 if shape.surprise else 1)
            nn.init.zeros_(self.token_table.weight)
        if shape.surprise:
            self.frozen = copy.deepcopy(model).requires_grad_(False)
            self.gain = nn.Linear(width, 1, bias=False)
            nn.init.zeros_(self.gain.weight)
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @torch.no_grad()
    def surprise(self, prompts: Sequence[Ids], completions: Sequence[Ids]) -> Tensor:
        """(b, t) excess log-probability of each completion token under the frozen policy, 0 where padded.

        log p(token) plus the entropy of p, in nats: 0 on average over tokens the policy itself would draw, so
        that a long completion is not worse for its length. It never changes, so a trainer may compute it once
        per pair and hand it to `forward` in every epoch.
        """
        pad_id = self.tokenizer.pad_token_id
        batch = pack(prompts, completions, pad_id, positions_of(self.frozen.base_model), self.device)
        logits = self.frozen(input_ids=batch.ids[:, :-1], use_cache=False).logits
        row, step = batch.mask.nonzero(as_tuple=True)
        logps = logits[row, batch.places[row, step] - 1].float().log_softmax(-1)
        excess = logps.gather(-1, batch.targets[row, step][:, None])[:, 0] - (logps.exp() * logps).sum(-1)
        return torch.zeros(batch.mask.shape, device=self.device).index_put((row, step), excess)

    def forward(
        self, prompts: Sequence[Ids], completions: Sequence[Ids], surprise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Raw scores (b,), float32, before shift and scale.

        surprise: optionally one tensor per row, at least as long as the completion, as `surprise` gave it.
        Raises DataError for an empty completion or a row that does not fit the model.
        """
        for row, completion in enumerate(completions):
            if len(completion) == 0:
                raise DataError(f"completion {row} has no tokens", remedy="encode it with encode_completion")
        pad_id = self.tokenizer.pad_token_id
        batch = pack(prompts, completions, pad_id, positions_of(self.trunk), self.device)
        seen: Tensor | None = None
        if self.shape.surprise:
            if surprise is None:
                seen = self.surprise(prompts, completions)
            else:
                seen = nn.utils.rnn.pad_sequence(
                    [s[: len(c)] for s, c in zip(surprise, completions, strict=True)], True
                )
                seen = seen.to(self.device)
        hidden = self.trunk(input_ids=batch.ids, use_cache=False).last_hidden_state
        return self._pool(hidden, batch.places, batch.targets, batch.mask, seen)

    def _pool(
        self, hidden: Tensor, places: Tensor, targets: Tensor, mask: Tensor, seen: Tensor | None
    ) -> Tensor:
        """(b, s, d) states to (b,) scores, in fp32."""
        count = mask.sum(1)
        weight = self.head.weight[0].float()
        rows = torch.arange(len(count), device=mask.device)
        if self.shape.pooling == "last":
            return hidden[rows, places[rows, count - 1]].float() @ weight
        states = hidden[rows[:, None], places].float()
        if self.shape.pooling == "mean":
            return ((states * mask[..., None]).sum(1) / count[:, None]) @ weight
        table = self.token_table(targets).float()
        value = states @ weight + table[..., 0]
        if seen is not None:
            value = value + (table[..., 1] + states @ self.gain.weight[0].float()) * seen
        return (value * mask).sum(1) / SUM_DIVISOR

    @torch.no_grad()
    def score(self, prompts: Sequence[Ids], completions: Sequence[Ids], batch_size: int = 256) -> Tensor:
        """(raw - shift) / scale for every row, (b,) float32 without gradient, in the order given."""
        scores = torch.zeros(len(prompts), device=self.device)
        for rows in by_length(prompts, completions, batch_size):
            scores[rows] = self([prompts[r] for r in rows], [completions[r] for r in rows])
        return (scores - self.shift) / self.scale

    @torch.no_grad()
    def rescale(self, prompts: Sequence[Ids], completions: Sequence[Ids], batch_size: int = 256) -> None:
        """Set shift and scale so that `score` has mean 0 and variance 1 on these reference samples.

        After every retrain, on samples of the same reference policy: only then does a KL coefficient mean
        the same from round to round (Ziegler et al. 2019, arXiv 1909.08593). Raises TrainingDiverged when
        the scores are not finite or all equal.
        """
        self.shift.zero_()
        self.scale.fill_(1.0)
        raw = self.score(prompts, completions, batch_size).double()
        spread = raw.std(unbiased=False).item() if len(raw) else math.nan
        if not spread > 1e-8 * (1.0 + raw.abs().mean().item()):
            raise TrainingDiverged(
                f"the reward model's scores on {len(raw)} reference samples have standard deviation {spread}",
                remedy="train it with a lower learning rate or on more labels",
            )
        self.shift.fill_(raw.mean().item())
        self.scale.fill_(spread)


def new_reward_model(policy: Policy, shape: RewardShape, seed: int) -> RewardModel:
    """A reward model on a copy of the policy's trunk; the head is drawn from `seed` with std 1 / sqrt(d + 1).

    With pooling `sum` it starts at 0. Head initialisation: Stiennon et al. 2020, arXiv 2009.01325.
    """
    model = RewardModel(policy.model, policy.tokenizer, shape)
    width = model.head.weight.shape[1]
    if shape.pooling == "sum":
        # A random head summed over tens of tokens drowns what a few hundred labels can teach; start from 0.
        return model.to(policy.model.device)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(1, width, generator=generator) / math.sqrt(width + 1))
    return model.to(policy.model.device)
