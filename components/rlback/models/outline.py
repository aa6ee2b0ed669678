"""What a model on disk is, from its files' headers and its module tree alone: no weight is read, no memory taken for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlback.errors import CheckpointError
from rlback.models.architecture import build_model, read_config, read_foreign_tokenizer, weight_files
from rlback.models.manifest import check_safetensors
from rlback.models.policy import positions_of
from rlback.models.tokenizers import ensure_special_tokens


@dataclass(frozen=True)
class Outline:
    """A module tree without weights, how many weights belong to it, and how many tokens a row may have (None: no limit)."""

    model: PreTrainedModel
    weights: int
    positions: int | None


def outline(directory: Path) -> Outline:
    """What lies in a Hugging Face format directory.

    Raises:
        CheckpointError: names the file and why no policy can be made of it: another architecture than its weights', an
            architecture that transformers does not ship, a tokenizer that has no end token or is none.
    """
    ensure_special_tokens(read_foreign_tokenizer(directory), str(directory))
    place = directory / "config.json"
    config = read_config(place)
    shapes = {name: shape for file in weight_files(directory) for name, shape in check_safetensors(file).items()}
    layers = getattr(config, "num_hidden_layers", 0)
    held = sum(prod(shape) for shape in shapes.values())
    if isinstance(layers, int) and layers > len(shapes):  # building so many modules would take long even without memory
        _refuse_other(place, f"{layers} layers", f"{len(shapes)} tensors")
    with torch.device("meta"):
        model = build_model(config, str(place))
    described = sum(parameter.numel() for parameter in model.parameters())
    if described > held:
        _refuse_other(place, f"{described:,} weights", f"{held:,} ({_first_lacking(model, shapes)})")
    return Outline(model, held, positions_of(model))


def llama_tree() -> PreTrainedModel:
    """The module tree of a policy that is made here, whatever its size: one layer, without weights."""
    config = LlamaConfig(vocab_size=1, hidden_size=2, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1)
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def _first_lacking(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The first weight of the module tree that no tensor of its name fits; files may leave out the trunk's own name."""
    trunk = f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        if tuple(parameter.shape) not in (shapes.get(name), shapes.get(name.removeprefix(trunk))):
            return f"tensor {name!r} is missing or has another shape"
    return "which tensor is missing cannot be told from the names"


def _refuse_other(place: Path, described: str, held: str) -> None:
    raise CheckpointError(
        f"{place} describes another architecture than the weights beside it have: {described} against {held}",
        remedy="weights and config.json must come from the same model",
    )
