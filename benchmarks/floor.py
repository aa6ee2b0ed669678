"""The matmul floor: how long a workload's matrix products alone take on this processor, at this moment.

The operations come from flops.py. The rate is that of torch.mm over the model's own matrices, each layer's after the
other as a forward pass meets them (query, key and value as one product, the two halves of the gated MLP as one), at
the number of rows of the workload (at most 1024: more rows gave no higher rate, between 512 and 5120 it lay within 4 %).
It is the best of several passes: a floor is what can be reached.

torch.mm takes fp32 products to MKL, which on some processors is not the fastest library that torch ships. So the rate of
oneDNN is measured beside it, and gives a second, lower floor.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.clock import Clock, say
from benchmarks.flops import Pass, phases
from benchmarks.shapes import Shape

PASSES = 5
LEAST_S = 0.05
MOST_ROWS = 1024

try:
    ONEDNN = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None
except AttributeError:
    ONEDNN = None

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Products:
    """All matrix products of one forward pass of `rows` tokens, with the memory they need."""

    def __init__(self, shape: Shape, rows: int, precision: str) -> None:
        draw, dtype = torch.Generator().manual_seed(0), _TYPES[precision]
        d, m = shape.d_model, shape.mlp
        layer = ((d, 3 * d), (d, d), (d, 2 * m), (m, d))
        matrices = [pair for _ in range(shape.layers) for pair in layer] + [(d, shape.vocab)]
        self.weights = [torch.randn(pair, generator=draw).to(dtype) for pair in matrices]
        self.inputs = {width: torch.randn(rows, width, generator=draw).to(dtype) for width in (d, m)}
        self.outputs = {out: torch.empty(rows, out, dtype=dtype) for _, out in matrices}
        self.flops = 2 * rows * sum(a * b for a, b in matrices)

        self.rows_first = {id(weight): weight.t().contiguous() for weight in self.weights}  # as a linear layer holds it

    def rate(self, library: str) -> tuple[float, float]:
        """Operations a second, by the wall clock and by processor time: of PASSES passes of LEAST_S the best."""
        multiply = self._mm if library == "mm" else self._onednn
        repeats = max(1, round(LEAST_S / max(_timed(multiply, 1)[0], 1e-9)))
        wall, cpu = zip(*(_timed(multiply, repeats) for _ in range(PASSES)), strict=True)
        return self.flops / min(wall), self.flops / min(cpu)

    def _mm(self) -> None:
        for weight in self.weights:
            torch.mm(self.inputs[weight.shape[0]], weight, out=self.outputs[weight.shape[1]])

    def _onednn(self) -> None:
        for weight in self.weights:
            ONEDNN(self.inputs[weight.shape[0]], self.rows_first[id(weight)], None, "none", [], "")


def _timed(work: Callable[[], None], repeats: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def seconds(passes: list[Pass], rates: dict[int, float]) -> float:
    """Seconds that `passes` take at the measured `rates`, by the number of rows."""
    return sum(one.flops / rates[min(MOST_ROWS, one.rows)] for one in passes)


def run(workload: str, shape: Shape, precision: str, clock: Clock) -> dict[str, object]:
    """One floor a block of the clock's plan, measured when its turn comes."""
    needed = phases(workload, shape)
    rows_met = sorted({min(MOST_ROWS, p.rows) for passes in needed.values() for p in passes})
    products = {rows: Products(shape, rows, precision) for rows in rows_met}
    say({"ready": True})
    libraries = ("mm", "onednn") if ONEDNN is not None else ("mm",)
    found: dict[str, dict[str, float]] = {}
    for block in range(clock.plan.blocks):
        clock.wait()
        line: dict[str, object] = {"block": block}
        for library in libraries:
            rates = {rows: one.rate(library) for rows, one in products.items()}
            for clock_name, i in (("wall", 0), ("cpu", 1)):
                by_rows = {rows: pair[i] for rows, pair in rates.items()}
                found[f"{library} {clock_name}"] = {name: seconds(passes, by_rows) for name, passes in needed.items()}
            line |= {
                library: [sum(found[f"{library} wall"].values())],
                f"{library}_cpu": [sum(found[f"{library} cpu"].values())],
                f"{library}_gflops": {rows: round(pair[0] / 1e9, 1) for rows, pair in rates.items()},
            }
        say({**line, "seconds": line["mm"], "cpu": line["mm_cpu"]})
    return {"phases": found}
