"""What is measured: two model sizes, four workloads, and how often each is repeated. Plain numbers, no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

WORKLOADS = ("rloo", "reward", "dpo", "generate")
EXTRAS = ("help", "import", "checkpoint", "campaign")

PROMPT_TOKENS = 16
NEW_TOKENS = 64
ROW_TOKENS = PROMPT_TOKENS + NEW_TOKENS
PROMPTS_PER_STEP = 8
SAMPLES_PER_PROMPT = 4
ROWS = PROMPTS_PER_STEP * SAMPLES_PER_PROMPT
PAIRS_PER_STEP = 32
KL_BETA = 0.05
DPO_BETA = 0.1
LR = 1e-5


@dataclass(frozen=True)
class Shape:
    """A Llama-architecture model whose input and output embeddings are one matrix."""

    name: str
    layers: int
    d_model: int
    heads: int
    mlp: int
    vocab: int

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices: query, key, value and output, and the three of the gated MLP."""
        return 4 * self.d_model**2 + 3 * self.d_model * self.mlp

    @property
    def parameters(self) -> int:
        """All parameters: layers with two norms each, one embedding, the last norm."""
        return self.layers * (self.layer_weights + 2 * self.d_model) + (self.vocab + 1) * self.d_model


SHAPES = {
    "small": Shape("small", layers=4, d_model=128, heads=4, mlp=512, vocab=512),  # 1,115,264 parameters
    "25m": Shape("25m", layers=10, d_model=384, heads=6, mlp=1536, vocab=4096),  # 25,173,888 parameters
}


@dataclass(frozen=True)
class Plan:
    """How many steps a side makes: `warm` before anything is timed, then `blocks` of `settle` untimed and `steps` timed.

    Between blocks a side waits for its turn; `settle` brings its weights back into the caches.
    """

    warm: int
    blocks: int
    settle: int
    steps: int

    @property
    def total(self) -> int:
        return self.warm + self.blocks * (self.settle + self.steps)


PLANS = {
    "small": Plan(warm=3, blocks=9, settle=1, steps=4),
    "25m": Plan(warm=1, blocks=4, settle=0, steps=1),
}


def plan_of(shape: str, repeats: int | None) -> Plan:
    """The plan for a shape, with another number of blocks where one is asked for."""
    plan = PLANS[shape]
    return plan if repeats is None else replace(plan, blocks=repeats)


@dataclass(frozen=True)
class Variant:
    """One way to set a side up; where there are several, the fastest in the first block goes on.

    `parts`: into how many forward and backward passes a step's rows are split (gradients add up to one update).
    `attention`: the library's implementation; torch's fused one is not always the faster on a processor.
    """

    precision: str = "fp32"
    parts: int = 1
    attention: str = "sdpa"

    @classmethod
    def named(cls, name: str) -> Variant:
        """The variant that `name` stands for: fp32 or bf16, then /PARTS and +eager where they apply."""
        found = re.fullmatch(r"(fp32|bf16)(?:/([1-9]\d*))?(\+eager)?", name)
        if found is None:
            raise ValueError(f"{name!r} is not fp32 or bf16, with /PARTS or +eager behind it")
        precision, parts, eager = found.groups()
        return cls(precision, int(parts or 1), "eager" if eager else "sdpa")


def variants(side: str, workload: str, shape: str) -> tuple[str, ...]:
    """The settings that are tried. The small shape is fp32 by definition; at 25 M each side may take bf16 too.

    What never came near the fastest is left out: eager attention in training at the small shape, parts in fp32 at 25 M.
    """
    if side == "ours":
        return ("fp32",) if shape == "small" else ("fp32", "bf16")
    if shape == "small":
        return ("fp32", "fp32+eager") if workload == "generate" else ("fp32", "fp32/4")
    return ("fp32", "bf16", "bf16+eager") if workload == "generate" else ("fp32", "bf16", "bf16/4", "bf16+eager")
