"""Matrix products on a CPU with AVX-512 through oneDNN: of fp32 layers, and of weights that stay as they are in bf16 too.

torch hands fp32 products to MKL, which on AMD processors with AVX-512 reaches less than half of what oneDNN does in the
same precision: 112 against 256 GFLOP/s on one core of an EPYC (family 26) for 1024 x 128 by 128 x 1024, torch 2.13. Without
AVX-512 (an EPYC of family 25) it is MKL that is the faster one, small products included: a training step of a small
model takes half as long (docs/log.md). oneDNN comes with torch; the operator used here is the one torch's own compiler
emits. Where it is missing, on another device, in another precision or under autocast, torch's own product is taken.
Which one is taken depends on the machine and the tensors alone, never on a timing, so a run on one machine is
reproducible bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def _operators() -> tuple[Any, Any] | None:
    try:
        if torch.backends.mkldnn.is_available() and "AVX512" in torch.backends.cpu.get_cpu_capability():
            return torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._reorder_linear_weight
    except (AttributeError, RuntimeError):
        pass
    return None


_FOUND = _operators()
_BF16 = _FOUND is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product: fp32 on a CPU with AVX-512, outside autocast, not empty."""
    return (
        _FOUND is not None
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def _takes_bf16(weight: Tensor) -> bool:
    """Whether oneDNN lays out this weight for bf16 products; torch's own go through oneDNN too, but lay it out every time."""
    return _BF16 and weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.numel() > 0


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., k) times weight (n, k) transposed: (..., n), with gradients for both."""
    if not takes(x, weight):
        return F.linear(x, weight)
    return _Product.apply(x, weight)


def linear(module: nn.Module, x: Tensor) -> Tensor:
    """What a layer makes of x; of a plain matrix without bias, by `product`."""
    if type(module) is nn.Linear and module.bias is None:
        return product(x, module.weight)
    return module(x)


class Constant:
    """Multiplies by a weight (n, k), transposed, that no longer changes; without a gradient.

    On the oneDNN path the weight is laid out once, for products with about `rows` rows. With `dtype` the product is computed
    and given in that type, whatever the weight and x come in.
    """

    def __init__(self, weight: Tensor, rows: int, dtype: torch.dtype | None = None) -> None:
        weight = weight.detach().to(dtype or weight.dtype).contiguous()
        self._dtype = weight.dtype
        self._packed: Tensor | None = None
        if takes(weight, weight) or _takes_bf16(weight):
            assert _FOUND is not None
            self._multiply, layout = _FOUND
            self._packed = layout(weight, rows)
        else:
            self._transposed = weight.t()

    def __call__(self, x: Tensor) -> Tensor:
        """x (r, k) to (r, n)."""
        x = x.to(self._dtype)
        if self._packed is None:
            return x @ self._transposed
        return self._multiply(x, self._packed, None, "none", [], "")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The same, plus `other` (r, n), in whose type the sum is."""
        if other.dtype != self._dtype:
            return other + self(x)
        x = x.to(self._dtype)
        if self._packed is None:
            return torch.addmm(other, x, self._transposed)
        return self._multiply.binary(x, other, self._packed, None, "add")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        assert _FOUND is not None
        return _FOUND[0](x, weight, None, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        assert _FOUND is not None
        multiply = _FOUND[0]
        flat, seen = gradient.flatten(0, -2), x.flatten(0, -2)
        back = multiply(flat, weight.t(), None, "none", [], "").view(x.shape) if ctx.needs_input_grad[0] else None
        return back, _of_weight(flat, seen) if ctx.needs_input_grad[1] else None


def _of_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient (n, k) of a weight, from those of its outputs (r, n) and its inputs (r, k).

    oneDNN is the quicker with fewer rows than columns to give: 1264 x 128 by 1264 x 512 at 66 GFLOP/s one way round and 87
    the other (EPYC, family 25, torch 2.13).
    """
    assert _FOUND is not None
    multiply = _FOUND[0]
    if gradient.shape[1] > x.shape[1]:
        return multiply(x.t(), gradient.t(), None, "none", [], "").t()
    return multiply(gradient.t(), x.t(), None, "none", [], "")
