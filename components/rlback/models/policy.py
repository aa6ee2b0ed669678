"""Policies: a causal language model with its tokenizer, made new or brought in from disk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from rlback.errors import CheckpointError, DataError
from rlback.models.architecture import read_foreign_model, read_foreign_tokenizer
from rlback.models.batching import Packed, pack
from rlback.models.llama_forward import states_at
from rlback.models.products import linear
from rlback.models.sizes import llama_config
from rlback.models.tokenizers import ensure_special_tokens
from rlback.settings import AdapterConfig, ModelShape

# Standard deviation of initial weights times sqrt(d). The library's fixed 0.02 is meant for d near 1000 and
# leaves tiny models slow to learn: 240 steps at d = 64 on the visit-notes corpus ended at 0.94 nats per
# token, with this at 0.82.
_INITIAL_SPREAD = 0.8


@dataclass
class Policy:
    """A causal language model and the tokenizer whose ids it speaks.

    `digest`: root digest of the checkpoint that holds exactly these weights; None for a new policy, and whoever
    changes the weights in place sets it to None. `adapter`: with one, only the adapter's weights can be trained.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    digest: str | None = None
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        """Raises CheckpointError for a tokenizer without an end token, or whose padding could not be told from the end."""
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        if end is None or pad is None or pad == end:
            what = "has no end token" if end is None else "has no pad token" if pad is None else f"pads with its end token {end}"
            raise CheckpointError(
                f"the tokenizer of a policy {what}",
                remedy="read a model on disk with import_policy, or give the tokenizer its tokens with ensure_special_tokens",
            )


@dataclass(frozen=True)
class Adapter:
    """What an adapted policy sits on: the frozen base that shares its weights with it, and the adapter's settings."""

    base: Policy
    config: AdapterConfig


def new_policy(shape: ModelShape, tokenizer: PreTrainedTokenizerFast, seed: int) -> Policy:
    """A Llama-architecture policy with random weights that depend on `seed` alone; fp32, no dropout.

    Input and output embeddings are one matrix: in a tiny model two would hold most of the parameters. The
    global random state is left as it was.
    """
    config = llama_config(shape, len(tokenizer))
    config.initializer_range = _INITIAL_SPREAD / math.sqrt(shape.d_model)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return Policy(model.float().eval(), tokenizer)


def import_policy(directory: str | Path) -> Policy:
    """A policy from a Hugging Face format directory: safetensors weights, `config.json`, `tokenizer.json`.

    Nothing from the directory is run and nothing is fetched: pickled weights are never opened, and a
    configuration that names code or kernels is refused. The model comes back in fp32 with all dropout at 0.
    A tokenizer without a pad token of its own gets one. Raises CheckpointError naming the file.
    """
    directory = Path(directory)
    tokenizer = read_foreign_tokenizer(directory)
    model = read_foreign_model(directory)
    ensure_special_tokens(tokenizer, str(directory))
    _fit_vocabulary(model, len(tokenizer))
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(model.config, name, getattr(tokenizer, name))
    return Policy(model.eval(), tokenizer)


@torch.no_grad()
def _fit_vocabulary(model: PreTrainedModel, size: int) -> None:
    """Add embedding rows up to `size`, each the mean of the old rows.

    The logit of such a row is the mean of the old logits, so by Jensen's inequality its probability is at
    most 1 / (old rows), whatever the model: adding a pad token leaves the distribution as good as
    unchanged.
    """
    old = model.get_input_embeddings().weight.shape[0]
    if size <= old:
        return
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(size, mean_resizing=False)
    head = model.get_output_embeddings()
    tensors = [model.get_input_embeddings().weight, head.weight, getattr(head, "bias", None)]
    for tensor in tensors:
        if tensor is not None:
            tensor[old:] = tensor[:old].mean(0)


def positions_of(model: PreTrainedModel) -> int | None:
    """Most tokens a row may have, or None where the architecture names no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def require_known(model: PreTrainedModel, what: str, rows: Iterable[Sequence[int]]) -> None:
    """DataError for a token id that the model has no embedding for; `what` says what each of `rows` is."""
    size = model.get_input_embeddings().weight.shape[0]
    for number, row in enumerate(rows):
        if len(row) and (min(row) < 0 or max(row) >= size):
            wrong = next(token for token in row if not 0 <= token < size)
            raise DataError(
                f"{what} {number} has the token {wrong}; the model has {size} tokens",
                remedy="encode texts with the policy's own tokenizer",
            )


def completion_logits(model: PreTrainedModel, batch: Packed) -> Tensor:
    """Logits (n, V) of the distributions that the n completion tokens were drawn from, row by row.

    The distribution of a token is read one place before it, so the last token is input to nothing.
    """
    inputs = batch.ids[:, :-1]
    row, step = batch.mask.nonzero(as_tuple=True)
    before = batch.places[row, step] - 1
    if isinstance(model, LlamaForCausalLM):
        # Of prompt and padding no logits are needed: only completion tokens go through the output matrix.
        return linear(model.lm_head, states_at(model.model, inputs, row, before))
    return model(input_ids=inputs, use_cache=False).logits[row, before]


def token_logps(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    pad_id: int,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probability of every completion token given what stands before it, in one forward pass.

    Returns (logps, mask), both (b, t) with t the longest completion: logps float32 in nats, under logits
    divided by `temperature`, 0 where padded; mask True on completion tokens. Gradients flow. Raises
    DataError for rows that do not fit the model.
    """
    batch = pack(prompts, completions, pad_id, positions_of(model), model.device)
    logps = torch.zeros(batch.mask.shape, device=model.device)
    if not batch.mask.any():
        return logps, batch.mask
    row, step = batch.mask.nonzero(as_tuple=True)
    logits = completion_logits(model, batch)
    logits = logits.float() if temperature == 1.0 else logits.float() / temperature
    losses = F.cross_entropy(logits, batch.targets[row, step], reduction="none")
    return logps.index_put((row, step), -losses), batch.mask
