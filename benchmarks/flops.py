"""How many floating-point operations a workload needs, counted from the model's shape and the tokens. No torch.

A product of (r, i) with (i, o) counts 2 r i o. A token that passes a layer costs 2 operations per weight of the
layer's matrices, and attending to n places (itself included) costs 4 d n: scores and weighted sum, 2 d each. A
backward pass costs twice its forward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1, where the same count
is made without the causal half of attention). Norms, softmax, activations, embedding look-ups and the optimiser
count nothing, so what comes out is less than any implementation does.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.shapes import (
    NEW_TOKENS,
    PAIRS_PER_STEP,
    PROMPT_TOKENS,
    PROMPTS_PER_STEP,
    ROW_TOKENS,
    ROWS,
    SAMPLES_PER_PROMPT,
    Shape,
)


@dataclass(frozen=True)
class Pass:
    """Operations that are done `rows` tokens at a time: the rate of a matrix product depends on it."""

    rows: int
    flops: int


def forward(shape: Shape, *, rows: int, first: int, last: int, logits: int) -> int:
    """Operations of a forward pass over the places `first` to `last` (from 1, both included) of each of `rows` rows.

    Places before `first` are in a cache. `logits`: at how many places, over all rows, the output matrix is applied.
    """
    tokens = rows * (last - first + 1)
    attended = rows * (last * (last + 1) - first * (first - 1)) // 2
    layers = shape.layers * (2 * shape.layer_weights * tokens + 4 * shape.d_model * attended)
    return layers + 2 * shape.d_model * shape.vocab * logits


def sampling(shape: Shape, *, prompts: int, samples: int) -> list[Pass]:
    """Reading each prompt once, then one token at a time for `samples` rows of each; the last token is read by nothing."""
    rows = prompts * samples
    decoded = NEW_TOKENS - 1
    return [
        Pass(prompts * PROMPT_TOKENS, forward(shape, rows=prompts, first=1, last=PROMPT_TOKENS, logits=prompts)),
        Pass(rows, forward(shape, rows=rows, first=PROMPT_TOKENS + 1, last=ROW_TOKENS - 1, logits=rows * decoded)),
    ]


def scoring(shape: Shape, rows: int) -> list[Pass]:
    """A reward model reads `rows` whole rows; no output matrix."""
    return [Pass(rows * ROW_TOKENS, forward(shape, rows=rows, first=1, last=ROW_TOKENS, logits=0))]


def log_probabilities(shape: Shape, rows: int) -> list[Pass]:
    """Log-probabilities of the completions of `rows` rows; a row's last token is input to nothing."""
    flops = forward(shape, rows=rows, first=1, last=ROW_TOKENS - 1, logits=rows * NEW_TOKENS)
    return [Pass(rows * (ROW_TOKENS - 1), flops)]


def with_backward(passes: list[Pass]) -> list[Pass]:
    """The same passes, trained through."""
    return [Pass(p.rows, 3 * p.flops) for p in passes]


def phases(workload: str, shape: Shape) -> dict[str, list[Pass]]:
    """What one step of a workload cannot do without, by phase."""
    pairs = 2 * PAIRS_PER_STEP
    if workload == "rloo":
        return {
            "sample": sampling(shape, prompts=PROMPTS_PER_STEP, samples=SAMPLES_PER_PROMPT),
            "score": scoring(shape, ROWS),
            "reference": log_probabilities(shape, ROWS),
            "update": with_backward(log_probabilities(shape, ROWS)),
        }
    if workload == "reward":
        return {"update": with_backward(scoring(shape, pairs))}
    if workload == "dpo":
        return {
            "reference": log_probabilities(shape, pairs),
            "update": with_backward(log_probabilities(shape, pairs)),
        }
    return {"sample": sampling(shape, prompts=ROWS, samples=1)}
