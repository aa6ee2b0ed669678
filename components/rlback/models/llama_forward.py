"""A Llama trunk's forward pass for training, lean: what is read, and what that depends on, each once.

Rows that begin alike share the computation of what they begin with: of the completions of one prompt, or the two sides of
a preference pair, the prompt's tokens go through the layers once, and their gradients add up. Padding, and what stands
behind the last place that is read, does not go through at all. Only attention sees rows; everything else works on
tokens.

What a reward model with `last` pooling reads is one state a row, and what a policy's loss reads are the states
before completion tokens. The last layer's output matrix and MLP are therefore computed at those places only (with one
place a row its queries too). Norms and rotary turns are single autograd nodes, and query, key and value share one matrix
product. Gradients are those of the library's own pass up to rounding.

Rows are padded on the right: a real token never sees padding, and positions count from 0 in every row.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import LlamaModel

from rlback.models.prefixes import Prefixes
from rlback.models.products import linear, product

_FIXED_ROPE = {"default", "linear", "llama3", "yarn"}


def can_run(trunk: nn.Module) -> bool:
    """Whether the lean pass computes what this trunk computes: a Llama without dropout; its products may be anything."""
    if type(trunk) is not LlamaModel or trunk.rotary_emb.rope_type not in _FIXED_ROPE:
        return False
    return not trunk.config.attention_dropout


def states_at(trunk: nn.Module, ids: Tensor, row: Tensor, place: Tensor) -> Tensor:
    """States (n, d) after the last norm at (row[i], place[i]) of ids (b, s), right padded; of any architecture."""
    if can_run(trunk):
        return _states_at(trunk, ids, row, place)
    return trunk(input_ids=ids, use_cache=False).last_hidden_state[row, place]


def _states_at(trunk: Any, ids: Tensor, row: Tensor, place: Tensor) -> Tensor:
    if not len(row):
        return trunk.embed_tokens.weight[:0]
    prefixes = Prefixes.of(ids, row, place)
    turns = _turns(trunk, prefixes.width, ids.device)
    x = F.embedding(prefixes.tokens, trunk.embed_tokens.weight)
    for layer in trunk.layers[:-1]:
        attended = _attention(layer, _norm(x, layer.input_layernorm), turns, prefixes)
        x = x + linear(layer.self_attn.o_proj, attended)
        x = x + _mlp(layer, _norm(x, layer.post_attention_layernorm))
    last = trunk.layers[-1]
    normed = _norm(x, last.input_layernorm)
    if len(row) == len(ids) and bool((row == torch.arange(len(ids), device=row.device)).all()):
        attended = _attention_at(last, normed, turns, prefixes, place)
    else:
        attended = prefixes.asked(_attention(last, normed, turns, prefixes))
    x = prefixes.asked(x) + linear(last.self_attn.o_proj, attended)
    x = x + _mlp(last, _norm(x, last.post_attention_layernorm))
    return _norm(x, trunk.norm)


def _attention(layer: Any, x: Tensor, turns: Tensor, prefixes: Prefixes) -> Tensor:
    """Causal self-attention of every token, before the output matrix: (n, d) to (n, h * c)."""
    attention = layer.self_attn
    heads, groups, width = _heads(attention)
    states = _joint(x, width, (attention.q_proj, attention.k_proj), attention.v_proj)
    rows = _InRows.apply(states, prefixes, turns)
    q, k, v = (
        part.unflatten(-1, (-1, width)).transpose(1, 2)
        for part in rows.split([heads * width, groups * width, groups * width], -1)
    )
    with _kernel_precision(x):
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=attention.scaling, enable_gqa=groups != heads
        )
    return prefixes.gathered(out.transpose(1, 2).flatten(2))


def _attention_at(layer: Any, x: Tensor, turns: Tensor, prefixes: Prefixes, place: Tensor) -> Tensor:
    """Attention of one token a row, at `place` (b,): (n, d) to (b, h * c). Only keys and values are read elsewhere."""
    attention = layer.self_attn
    heads, groups, width = _heads(attention)
    states = _joint(x, width, (attention.k_proj,), attention.v_proj)
    half = width // 2
    k, v = (
        part.unflatten(-1, (-1, width)).transpose(1, 2)
        for part in _InRows.apply(states, prefixes, turns[:, : groups * half]).split(groups * width, -1)
    )
    asked = _interleaved(linear(attention.q_proj, prefixes.asked(x)), width, -1)
    q = _InRows.apply(asked, None, turns[place, : heads * half]).view(len(place), heads, 1, width)
    seen = torch.arange(prefixes.width, device=x.device) <= place[:, None]
    with _kernel_precision(x):
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen[:, None, None], scale=attention.scaling, enable_gqa=groups != heads
        )
    return out.flatten(1)


def _heads(attention: Any) -> tuple[int, int, int]:
    """Query heads and key-value heads of an attention module, and the width of a head."""
    config = attention.config
    return config.num_attention_heads, config.num_key_value_heads, attention.head_dim


def _mlp(layer: Any, x: Tensor) -> Tensor:
    mlp = layer.mlp
    gated = mlp.act_fn(linear(mlp.gate_proj, x)) * linear(mlp.up_proj, x)
    return linear(mlp.down_proj, gated)


def _kernel_precision(x: Tensor) -> AbstractContextManager[object]:
    """Where attention runs: under bf16 autocast on a CPU still in fp32, whose kernel is there much the faster one.

    Forward and backward of 12 x 6 x 80 x 64 took 13 ms in bf16 (torch 2.13, one thread), as a quarter of all the
    time of a training step; docs/log.md has the comparison.
    """
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return torch.autocast("cpu", enabled=False)
    return nullcontext()


def _joint(x: Tensor, width: int, turned: tuple[nn.Module, ...], still: nn.Module) -> Tensor:
    """The outputs of several products of x side by side, those to be turned interleaved; of plain ones as a single product."""
    if all(type(m) is nn.Linear and m.bias is None for m in (*turned, still)):
        return product(x, torch.cat([*(_interleaved(m.weight, width, 0) for m in turned), still.weight]))
    return torch.cat([*(_interleaved(m(x), width, -1) for m in turned), still(x)], -1)


def _interleaved(x: Tensor, width: int, dim: int) -> Tensor:
    """`x` with the two entries of every head that a turn mixes, i and i + width / 2, made neighbours along `dim`.

    Queries and keys are reordered alike, so their products stay the same, and a turn is one complex multiplication.
    """
    axis = dim % x.ndim
    return x.unflatten(axis, (-1, 2, width // 2)).transpose(axis + 1, axis + 2).flatten(axis, axis + 2)


def _norm(x: Tensor, norm: Any) -> Tensor:
    return _RMSNorm.apply(x, norm.weight, norm.variance_epsilon)


def _turns(trunk: LlamaModel, places: int, device: torch.device) -> Tensor:
    """Rotary turns as complex numbers: (places, c / 2) repeated for every query and key-value head."""
    like = torch.zeros((), dtype=torch.float32, device=device)
    cos, sin = trunk.rotary_emb(like, torch.arange(places, device=device)[None])
    half = cos.shape[-1] // 2
    heads, groups, _ = _heads(trunk.layers[0].self_attn)
    return torch.complex(cos[0, :, :half], sin[0, :, :half]).repeat(1, heads + groups)


def _multiply(x: Tensor, turns: Tensor) -> None:
    """Turn the first entries of x (..., W), float32, in place, as many as there are turns (..., T / 2)."""
    turned = 2 * turns.shape[-1]
    torch.view_as_complex(x[..., :turned].unflatten(-1, (-1, 2))).mul_(turns)


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in fp32 (Zhang and Sennrich 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        scaled = x * inverse
        ctx.save_for_backward(scaled, inverse, weight)
        return scaled * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        scaled, inverse, weight = ctx.saved_tensors
        product = gradient * scaled
        along = (product @ weight)[..., None]
        back = (gradient * weight).addcmul_(scaled, along, value=-1.0 / scaled.shape[-1]).mul_(inverse)
        return back, product.flatten(0, -2).sum(0), None


class _InRows(torch.autograd.Function):
    """What tokens project to (n, W), laid out in rows (b, w, W), the first entries turned by their places.

    `turns` (..., T / 2) are for the first T of the W entries. Without prefixes nothing is laid out. On a CPU the result is
    float32, which attention wants there.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, prefixes: Prefixes | None, turns: Tensor) -> Tensor:
        laid = x if prefixes is None else prefixes.laid_out(x)
        rows = laid.to(torch.float32, copy=prefixes is None or prefixes.plain)
        _multiply(rows, turns)
        ctx.save_for_backward(turns)
        ctx.prefixes, ctx.dtype = prefixes, x.dtype
        return rows if x.device.type == "cpu" else rows.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (turns,) = ctx.saved_tensors
        back = gradient.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        _multiply(back, torch.conj_physical(turns))
        back = back if ctx.prefixes is None else ctx.prefixes.added_up(back)
        return back.to(ctx.dtype), None, None
