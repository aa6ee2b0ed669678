"""Lists of token ids to padded tensors: which rows go together, right padding, masks that never look at the pad id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlback.errors import DataError
from rlback.maths.masking import length_chunks

Ids = Sequence[int]


def in_parts(prompts: Sequence[Ids], completions: Sequence[Ids], max_padded: int) -> list[list[int]]:
    """Numbers of the rows in parts of at most `max_padded` tokens, padding counted, that go through a model at once.

    Short rows come first, so that little padding is computed, and those of one prompt come together, so that the prompt is
    computed once.
    """
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    return length_chunks(lengths, max_padded, [tuple(prompt) for prompt in prompts])


@dataclass(frozen=True)
class Packed:
    """Prompts with their completions, right padded, for one forward pass of a causal model.

    With padding on the right a real token never sees a padded one, and positions count from 0 in every row:
    no attention mask and no position ids are needed.

    ids: (b, s) prompt, completion, padding. targets: (b, t) completion ids, padded. mask: (b, t) True on
    completion tokens. places: (b, t) index into s of each completion token, 0 where padded.
    """

    ids: Tensor
    targets: Tensor
    mask: Tensor
    places: Tensor


def pack(
    prompts: Sequence[Ids], completions: Sequence[Ids], pad_id: int, limit: int | None, device: torch.device
) -> Packed:
    """Pad prompts and completions into tensors on `device`.

    Raises DataError for an empty prompt, unequal numbers of rows and a row longer than `limit` tokens.
    """
    if len(prompts) != len(completions):
        raise DataError(
            f"{len(prompts)} prompts with {len(completions)} completions",
            remedy="give one completion per prompt",
        )
    begin = [len(prompt) for prompt in prompts]
    count = [len(completion) for completion in completions]
    for row, (p, c) in enumerate(zip(begin, count, strict=True)):
        if p == 0:
            raise DataError(f"prompt {row} has no tokens", remedy="encode prompts with encode_prompt")
        if limit is not None and p + c > limit:
            raise DataError(
                f"row {row} has {p} prompt and {c} completion tokens; the model has {limit} positions",
                remedy="shorten the prompt or raise max_positions",
            )
    rows, s, t = len(prompts), max(map(sum, zip(begin, count, strict=True)), default=0), max(count, default=0)
    ids = torch.full((rows, s), pad_id)
    targets = torch.full((rows, t), pad_id)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        p, c = begin[row], count[row]
        ids[row, : p + c] = torch.tensor([*prompt, *completion])
        targets[row, :c] = ids[row, p : p + c]
    steps = torch.arange(t)
    mask = steps < torch.tensor(count, dtype=torch.long)[:, None]
    places = (torch.tensor(begin, dtype=torch.long)[:, None] + steps) * mask
    return Packed(ids.to(device), targets.to(device), mask.to(device), places.to(device))
