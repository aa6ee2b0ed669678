"""Token-by-token decoding of Llama-architecture models, without the overhead of a general module tree.

Works on the module's own weights, rearranged once: each RMS norm's gain goes into the matrix after it,
query, key and value share one matrix product, and so do the two halves of the gated MLP; an adapter is added
to the matrices it sits on, so that it costs nothing per token. Keys and values go into a cache of fixed size.
Prompts are padded on the left here, so that every row writes its next token into the same cache slot.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedModel

from rlback.models.adapters import dense_weight, is_dense
from rlback.models.products import Constant

_FIXED_ROPE = {"default", "linear", "llama3", "yarn"}

# Below this many multiplications per row torch computes a batched product without its fast library (256 rows
# of 16 x 24: 116 microseconds, of 16 x 25: 24), so a little more of the cache than is filled is read, masked.
_FAST_PRODUCT = 400


def can_decode(model: PreTrainedModel) -> bool:
    """Whether `LlamaDecoder` computes exactly what this model computes."""
    if type(model) is not LlamaForCausalLM:
        return False
    dense = all(is_dense(linear) for layer in model.model.layers for linear in _linears(layer))
    ends = is_dense(model.lm_head) and type(model.model.embed_tokens) is nn.Embedding
    return dense and ends and model.model.rotary_emb.rope_type in _FIXED_ROPE


def _linears(layer: nn.Module) -> tuple[nn.Module, ...]:
    a, m = layer.self_attn, layer.mlp
    return a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj


class LlamaDecoder:
    """Next-token logits for a set of rows that grow in step. Use under `torch.inference_mode`.

    Shapes: p distinct prompts, r rows, d width, h heads, g key-value heads, c head width, s prompt places.
    """

    def __init__(
        self, model: LlamaForCausalLM, max_positions: int, rows: int = 64, products: torch.dtype | None = None
    ) -> None:
        """Rearrange the weights of `model`, for at most `max_positions` tokens and about `rows` rows at a time.

        products: the type that matrix products are computed in, by default the weights' own, and that keys and values are kept
        in. The states that layers add to stay in the weights' type, as under autocast.
        """
        config, attention = model.config, model.model.layers[0].self_attn
        self.heads, self.groups, self.width = (
            config.num_attention_heads,
            config.num_key_value_heads,
            attention.head_dim,
        )
        self.activation = model.model.layers[0].mlp.act_fn
        self.embedding = model.model.embed_tokens.weight
        self.products = products or self.embedding.dtype
        d = config.hidden_size
        self.floor = self.embedding.new_tensor(math.sqrt(d * config.rms_norm_eps), dtype=torch.float32)
        self.layers = []
        for layer in model.model.layers:
            query, key, value, out, gate, up, down = map(dense_weight, _linears(layer))
            query, key = self._interleave(query) * attention.scaling, self._interleave(key)
            qkv = torch.cat([query, key, value]) * (layer.input_layernorm.weight * math.sqrt(d))
            gate_up = torch.cat([gate, up]) * (layer.post_attention_layernorm.weight * math.sqrt(d))
            self.layers.append(tuple(Constant(weight, rows, products) for weight in (qkv, out, gate_up, down)))
        output = dense_weight(model.lm_head) * (model.model.norm.weight * math.sqrt(d))
        self.output = Constant(output, rows, products)
        positions = torch.arange(max_positions, device=self.embedding.device)[None]
        cos, sin = model.model.rotary_emb(self.embedding.new_zeros((), dtype=torch.float32), positions)
        self.turns = torch.complex(cos[0, :, : self.width // 2], sin[0, :, : self.width // 2])

    def prefill(self, ids: Tensor, valid: Tensor, slots: int, rows_of: Tensor) -> Tensor:
        """Read prompts and return the logits (r, V) after them.

        ids, valid: (p, s) left-padded distinct prompts and which of their places are real. slots: cache size.
        rows_of: (r,) the prompt of each row; a prompt is read once however many rows it has.
        """
        prompts, length = ids.shape
        rows, shape = len(rows_of), (len(rows_of), self.groups)
        turns = self.turns[(valid.cumsum(1) - 1).clamp(min=0)].view(prompts * length, 1, -1)
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        # A padded place attends to itself: a row of the mask without any place would give NaN.
        mask = (causal & valid[:, None]) | torch.eye(length, dtype=torch.bool, device=ids.device)
        x = self.embedding[ids.reshape(-1)]
        # Keys are transposed for the product with queries.
        self.keys = x.new_zeros(len(self.layers), *shape, self.width, slots, dtype=self.products)
        self.values = x.new_zeros(len(self.layers), *shape, slots, self.width, dtype=self.products)
        for number, (qkv, out, gate_up, down) in enumerate(self.layers):
            q, k, v = (
                part.view(prompts, length, -1, self.width).transpose(1, 2)
                for part in self._project(x, qkv, turns)
            )
            self.keys[number, ..., :length] = k.transpose(2, 3)[rows_of]
            self.values[number, :, :, :length] = v[rows_of]
            attended = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask[:, None], scale=1.0, enable_gqa=self.groups != self.heads
            )
            x = out.plus(attended.transpose(1, 2).reshape(len(x), -1), x)
            x = self._mlp(x, gate_up, down)
        self.filled, self.slots = length, slots
        # Where each row's next token stands; None where no prompt was padded: all rows are as long as the cache is filled.
        self.position = None if bool(valid.all()) else valid.sum(1)[rows_of]
        # Added to attention scores: -inf where a row's prompt was padded and where nothing is stored yet.
        self.blocked = x.new_full((rows, slots), float("-inf"), dtype=self.products)
        self.blocked[:, :length].masked_fill_(valid[rows_of], 0.0)
        return self._logits(x.view(prompts, length, -1)[:, -1])[rows_of]

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token (r,) to every row and return the logits (r, V) after it."""
        rows, slot = len(tokens), self.filled
        self.filled += 1
        end = min(self.slots, max(self.filled, -(-_FAST_PRODUCT // self.width)))
        bias = None
        # Once the filled part is long enough for itself, it stays so, and rows without padding need no mask.
        if self.position is not None or end > self.filled:
            self.blocked[:, slot] = 0.0
            bias = self.blocked[:, None, None, :end].expand(rows, self.groups, 1, end).reshape(-1, 1, end)
        if self.position is None:
            turns = self.turns[slot]
        else:
            turns = self.turns.index_select(0, self.position)[:, None]
            self.position = self.position + 1
        x = self.embedding.index_select(0, tokens)
        for number, (qkv, out, gate_up, down) in enumerate(self.layers):
            q, k, v = self._project(x, qkv, turns)
            keys, values = self.keys[number], self.values[number]
            keys.select(-1, slot).copy_(k)
            values.select(2, slot).copy_(v)
            q = q.reshape(rows * self.groups, -1, self.width)
            keys, values = keys.flatten(0, 1).narrow(2, 0, end), values.flatten(0, 1).narrow(1, 0, end)
            scores = torch.bmm(q, keys) if bias is None else torch.baddbmm(bias, q, keys)
            attended = torch.bmm(scores.softmax(-1), values)
            x = out.plus(attended.view(rows, -1), x)
            x = self._mlp(x, gate_up, down)
        return self._logits(x)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.blocked = self.blocked[rows]
        if self.position is not None:
            self.position = self.position[rows]

    def _interleave(self, weight: Tensor) -> Tensor:
        """Reorder a projection's outputs so that the two coordinates a rotary turn mixes are neighbours.

        They are i and i + c/2 of a head. Queries and keys are reordered alike, so their products stay the
        same, and a turn becomes one complex multiplication.
        """
        return weight.view(-1, 2, self.width // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)

    def _project(self, x: Tensor, qkv: Constant, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turned queries (n, h, c) and keys (n, g, c), and values (n, g, c); x (n, d), turns (n or 1, 1, c/2) or (c/2,)."""
        states = self._normed(qkv, x).view(len(x), -1, self.width)
        turned = self.heads + self.groups
        rotated = states[:, :turned].float()  # itself in fp32: the product's result is ours to turn in place
        torch.view_as_complex(rotated.unflatten(-1, (-1, 2))).mul_(turns)
        rotated = rotated.to(states.dtype)
        return rotated[:, : self.heads], rotated[:, self.heads :], states[:, turned:]

    def _mlp(self, x: Tensor, gate_up: Constant, down: Constant) -> Tensor:
        gate, up = self._normed(gate_up, x).chunk(2, -1)
        return down.plus(self.activation(gate).mul_(up), x)

    def _logits(self, x: Tensor) -> Tensor:
        return self._normed(self.output, x).float()

    def _normed(self, matrix: Constant, x: Tensor) -> Tensor:
        """The product of `matrix` with x (n, d) after its RMS norm, (n, ...) in the type of products."""
        # Its sqrt(d) is in the matrix, and sqrt(|x|^2 + d eps) is the hypotenuse of |x| and sqrt(d eps).
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return matrix(x / norm.hypot_(self.floor))
