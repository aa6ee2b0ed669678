"""Which precision a processor is faster in: measured, since it depends on the chip and not on the model alone.

A processor with bf16 matrix units runs wide layers in bf16 several times as fast as in fp32; one without them emulates
bf16, and was seen to take 60 times as long (docs/log.md). No table of processors knows them all; a second's measurement does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from rlback.models.products import linear
from rlback.training.updates import precision

ROWS = 1024  # tokens; a pass has some 2,000, and the rates are the same
LOOK = 64
REPEATS = 5
#: bf16 that takes this many times as long is emulated.
EMULATED = 2.0
#: bf16 rounds; it is taken only where it pays.
WORTH = 1.2


def faster_precision(d_model: int, mlp: int, device: torch.device) -> tuple[Literal["fp32", "bf16"], float]:
    """(the precision to train in, how many times as fast as fp32 bf16 was).

    Timed is a model's usual work, forward and backward through a layer d_model -> mlp -> d_model of `ROWS` tokens, once in
    each precision in turn; the best of a few of each counts, so that a busy machine misleads less. bf16 is chosen from
    1.2 times as fast on: below that, what it saves does not pay for its rounding.
    """
    up, down = nn.Linear(d_model, mlp, bias=False, device=device), nn.Linear(mlp, d_model, bias=False, device=device)
    # A first look at few rows: where bf16 is emulated, more of it would take many seconds.
    for rows, repeats in ((LOOK, 2), (ROWS, REPEATS)):
        best = {"fp32": float("inf"), "bf16": float("inf")}
        for _ in range(repeats):
            for kind in ("fp32", "bf16"):
                best[kind] = min(best[kind], _seconds(up, down, rows, kind, device))
        gain = best["fp32"] / best["bf16"]
        if gain < 1 / EMULATED:
            break
    return ("bf16" if gain >= WORTH else "fp32"), gain


def _seconds(
    up: nn.Linear, down: nn.Linear, rows: int, kind: Literal["fp32", "bf16"], device: torch.device
) -> float:
    x = torch.ones(rows, up.in_features, device=device, requires_grad=True)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    with precision(kind, device):
        linear(down, linear(up, x)).float().mean().backward()
    wait()
    return time.perf_counter() - began
