"""Small models for the tests of this room."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rlback.models.policy import Policy, new_policy
from rlback.models.tokenizers import word_level
from rlback.settings import ModelShape

torch.set_num_threads(1)

WORDS = [f"w{number}" for number in range(20)]
SHAPE = ModelShape(d_model=32, layers=2, heads=4, mlp=48, max_positions=64)


def tokenizer() -> PreTrainedTokenizerFast:
    return word_level(WORDS)


def sharpen(model: PreTrainedModel, seed: int = 0) -> None:
    """Make a random model far from uniform, every gain and bias included, and end after a few tokens."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.dim() > 1 else 0.2)
            )


def policy(seed: int = 0) -> Policy:
    made = new_policy(SHAPE, tokenizer(), seed)
    sharpen(made.model, seed)
    return made


def shake(adapted: Policy, seed: int = 0) -> None:
    """Give an adapter weights as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


#: Prompts of unequal length; ids below 20 are words, 22 is <bos>.
PROMPTS = [[22, 1, 2, 3], [22, 4], [22, 5, 6, 7, 8, 9, 10, 11], [22, 1, 2, 3], [22, 19, 18]]
