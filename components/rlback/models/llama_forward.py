"""A Llama trunk's forward pass for training, lean: states only where they are read.

What a reward model with `last` pooling reads is one state a row, and what a policy's loss reads are the states
before completion tokens. The last layer's queries, output matrix and MLP are therefore computed at those places only;
its keys and values, and every earlier layer, at all. Norms and rotary turns are single autograd nodes, and query, key and
value share one matrix product. Gradients are those of the library's own pass up to rounding.

Rows are padded on the right: a real token never sees padding, and positions count from 0 in every row.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaModel

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
    cos, sin = _turns(trunk, ids)
    x = F.embedding(ids, trunk.embed_tokens.weight)
    for layer in trunk.layers[:-1]:
        attended = _attention(layer, _norm(x, layer.input_layernorm), cos, sin)
        x = x + linear(layer.self_attn.o_proj, attended)
        x = x + _mlp(layer, _norm(x, layer.post_attention_layernorm))
    last = trunk.layers[-1]
    normed = _norm(x, last.input_layernorm)
    if len(row) == len(ids) and bool((row == torch.arange(len(ids), device=row.device)).all()):
        attended = _attention_at(last, normed, cos, sin, place)
    else:
        attended = _attention(last, normed, cos, sin)[row, place]
    x = x[row, place] + linear(last.self_attn.o_proj, attended)
    x = x + _mlp(last, _norm(x, last.post_attention_layernorm))
    return _norm(x, trunk.norm)


def _attention(layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Causal self-attention of every token, before the output matrix: (b, s, d) to (b, s, h * c)."""
    attention = layer.self_attn
    width = attention.head_dim
    heads, groups = _heads(attention)
    states = _joint(x, attention.q_proj, attention.k_proj, attention.v_proj).view(*x.shape[:2], -1, width)
    turned = _Rotate.apply(states[:, :, : heads + groups], cos, sin)
    q, k = turned[:, :, :heads].transpose(1, 2), turned[:, :, heads:].transpose(1, 2)
    v = states[:, :, heads + groups :].transpose(1, 2)
    with _kernel_precision(x):
        out = F.scaled_dot_product_attention(
            q, k, v.to(q.dtype), is_causal=True, scale=attention.scaling, enable_gqa=groups != heads
        )
    return out.transpose(1, 2).flatten(2)


def _attention_at(layer: Any, x: Tensor, cos: Tensor, sin: Tensor, place: Tensor) -> Tensor:
    """Attention of one token a row, at `place` (b,): (b, s, d) to (b, h * c). Only keys and values are read elsewhere."""
    attention = layer.self_attn
    width = attention.head_dim
    rows = torch.arange(len(x), device=x.device)
    _, groups = _heads(attention)
    states = _joint(x, attention.k_proj, attention.v_proj).view(*x.shape[:2], 2 * groups, width)
    k = _Rotate.apply(states[:, :, :groups], cos, sin)
    v = states[:, :, groups:]
    q = linear(attention.q_proj, x[rows, place]).view(len(x), 1, -1, width)
    q = _Rotate.apply(q, cos[place][:, None], sin[place][:, None]).transpose(1, 2)
    seen = torch.arange(x.shape[1], device=x.device) <= place[:, None]
    with _kernel_precision(x):
        out = F.scaled_dot_product_attention(
            q, k.transpose(1, 2), v.to(q.dtype).transpose(1, 2), attn_mask=seen[:, None, None],
            scale=attention.scaling, enable_gqa=groups != q.shape[1],
        )  # fmt: skip
    return out.flatten(1)


def _heads(attention: Any) -> tuple[int, int]:
    """Query heads and key-value heads of an attention module."""
    config = attention.config
    return config.num_attention_heads, config.num_key_value_heads


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


def _joint(x: Tensor, *products: nn.Module) -> Tensor:
    """The outputs of several products of x side by side; plain ones as a single product."""
    if all(type(m) is nn.Linear and m.bias is None for m in products):
        return product(x, torch.cat([m.weight for m in products]))
    return torch.cat([m(x) for m in products], -1)


def _norm(x: Tensor, norm: Any) -> Tensor:
    return _RMSNorm.apply(x, norm.weight, norm.variance_epsilon)


def _turns(trunk: LlamaModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """cos and signed sin (s, 1, c): a turn is x * cos + (x with its halves swapped) * sin."""
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    like = torch.zeros((), dtype=torch.float32, device=ids.device)
    cos, sin = trunk.rotary_emb(like, positions)
    half = cos.shape[-1] // 2
    return cos[0, :, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)[:, None]


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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        scaled, inverse, weight = ctx.saved_tensors
        product = gradient * scaled
        along = (product @ weight)[..., None]
        back = (gradient * weight).addcmul_(scaled, along, value=-1.0 / scaled.shape[-1]).mul_(inverse)
        return back, product.flatten(0, -2).sum(0), None


class _Rotate(torch.autograd.Function):
    """Rotary position turns of (b, s, h, c) by cos and signed sin, broadcast over it; the gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if x.device.type != "cpu":
            cos, sin = cos.to(x.dtype), sin.to(x.dtype)  # bf16 stays bf16; on a CPU attention wants fp32
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        back = (gradient * cos).add_((gradient * sin).roll(gradient.shape[-1] // 2, -1))
        return back.to(ctx.dtype), None, None
