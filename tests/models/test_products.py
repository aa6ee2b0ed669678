"""Products through oneDNN are torch's own, gradients too."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rlback.models import products
from rlback.models.products import Constant, linear, product, takes

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
W = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))


def test_a_product_and_its_gradients_are_torchs() -> None:
    """Of a block of rows (3, 5, 8) with a (6, 8) matrix, read by random numbers."""
    reading = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3))
    found = []
    for multiply in (product, F.linear):
        x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
        out = multiply(x, w)
        (out * reading).sum().backward()
        found.append((out.detach(), x.grad, w.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4)])
def test_the_gradient_of_a_weight_either_way_round(shape: tuple[int, int]) -> None:
    """Wide and narrow weights (n, k): the outputs' gradients (5, n), transposed, times the inputs (5, k)."""
    n, k = shape
    weight = torch.zeros(n, k, requires_grad=True)
    x, reading = X.flatten()[: 5 * k].view(5, k), W.flatten()[: 5 * n].view(5, n)
    (product(x, weight) * reading).sum().backward()
    assert torch.allclose(weight.grad, reading.t() @ x, atol=1e-5)


def test_a_small_case_by_hand() -> None:
    """[1, 2] with rows [3, 4] and [5, 6]: 11 and 17."""
    assert product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])).tolist() == [[11.0, 17.0]]


def test_only_what_needs_a_gradient_gets_one() -> None:
    """With frozen weights the gradient of x alone is computed, and the other way round."""
    x, w = X.clone().requires_grad_(), W.clone()
    product(x, w).sum().backward()
    assert torch.allclose(x.grad, W.sum(0).expand_as(X), atol=1e-5)
    v = W.clone().requires_grad_()
    product(X, v).sum().backward()
    assert torch.allclose(v.grad, X.sum((0, 1)).expand_as(W), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7])
def test_a_constant_weight_is_laid_out_once(rows: int) -> None:
    """The layout is made for a number of rows; products with another number are as right."""
    multiply = Constant(W, rows)
    for count in (1, 2, 15):
        x = X.flatten(0, 1)[:count]
        assert torch.allclose(multiply(x), x @ W.t(), atol=1e-5)
        assert torch.allclose(multiply.plus(x, x[:, :6]), x @ W.t() + x[:, :6], atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7])
def test_a_constant_weight_in_bf16(rows: int) -> None:
    """The product of x and weight, both rounded to bf16; what it is added to keeps its own type and digits."""
    multiply, x = Constant(W, rows, torch.bfloat16), X.flatten(0, 1)
    rounded = x.bfloat16().float() @ W.bfloat16().float().t()
    assert multiply(x).dtype == torch.bfloat16
    assert torch.allclose(multiply(x).float(), rounded, rtol=2**-8, atol=1e-5)
    other = x[:, :6] + 1000.0  # in bf16 a thousand is a multiple of 4
    assert torch.equal(multiply.plus(x, other), other + multiply(x).float())
    assert multiply.plus(x, other.bfloat16()).dtype == torch.bfloat16


def test_what_onednn_is_not_asked_for() -> None:
    """Other types, autocast and nothing at all go torch's way, and come out."""
    assert not takes(X.double(), W.double())
    assert not takes(X[:0], W)
    assert product(X[:0], W).shape == (0, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not takes(X, W)
        assert product(X, W).dtype == torch.bfloat16
    assert torch.allclose(Constant(W.double(), 4)(X.double().flatten(0, 1)), X.double().flatten(0, 1) @ W.double().t())


def test_without_the_operator_the_results_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch without it is served by torch's own product."""
    here = product(X, W)
    monkeypatch.setattr(products, "_FOUND", None)
    assert torch.allclose(product(X, W), here, atol=1e-5)
    assert torch.allclose(Constant(W, 3)(X[0]), here[0], atol=1e-5)


def test_a_layer_with_a_bias_is_asked_itself() -> None:
    """Only plain matrices are multiplied here."""
    layer = nn.Linear(8, 6)
    assert torch.equal(linear(layer, X), layer(X))
