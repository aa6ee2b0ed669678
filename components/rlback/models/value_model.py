"""The value model of PPO: what reward is still to come, before each token of a completion."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlback.models.batching import Ids, in_parts, pack
from rlback.models.llama_forward import states_at
from rlback.models.policy import Policy, positions_of


class ValueModel(nn.Module):
    """A policy's trunk, copied, with a scalar head that starts at 0 (Ziegler et al. 2019, arXiv 1909.08593).

    It is made anew for every round and never registered, so nothing it learned in a round that people declined can
    reach the next one.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(policy.model.base_model).requires_grad_(True)
        self.pad_id = policy.tokenizer.pad_token_id
        self.head = nn.Linear(self.trunk.get_input_embeddings().weight.shape[1], 1, bias=False)
        nn.init.zeros_(self.head.weight)
        self.to(policy.model.device).eval()

    def forward(self, prompts: Sequence[Ids], completions: Sequence[Ids]) -> Tensor:
        """(b, t) float32: the value of the state in which each completion token was chosen, 0 where padded."""
        batch = pack(prompts, completions, self.pad_id, positions_of(self.trunk), self.head.weight.device)
        row, step = batch.mask.nonzero(as_tuple=True)
        states = states_at(self.trunk, batch.ids[:, :-1], row, batch.places[row, step] - 1)
        values = self.head(states.float())[:, 0].float()  # bf16 under autocast
        return torch.zeros(batch.mask.shape, device=values.device).index_put((row, step), values)

    @torch.no_grad()
    def over(self, prompts: Sequence[Ids], completions: Sequence[Ids], max_padded: int) -> Tensor:
        """(b, t) for many rows, in parts, without a gradient."""
        out = torch.zeros(len(prompts), max(map(len, completions)), device=self.head.weight.device)
        for part in in_parts(prompts, completions, max_padded):
            values = self([prompts[i] for i in part], [completions[i] for i in part])
            out[torch.tensor(part, device=out.device), : values.shape[1]] = values
        return out
