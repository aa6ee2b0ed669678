"""How large a model is, told from its configuration: on the meta device no weight is made."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, PreTrainedConfig

from rlback.models.architecture import build_model, read_config
from rlback.settings import ModelShape


def llama_config(shape: ModelShape, vocabulary: int) -> LlamaConfig:
    """The configuration of a new policy of this shape, without what its tokenizer and initial weights add."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.d_model,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        attention_dropout=0.0,
    )


def trunk_parameters(model: ModelShape | str | Path, vocabulary: int) -> int:
    """Parameters of a trunk (embedding included, heads not): of a shape with that vocabulary, or of what lies in a
    Hugging Face format directory. CheckpointError as `read_config`.
    """
    config: PreTrainedConfig
    config = llama_config(model, vocabulary) if isinstance(model, ModelShape) else read_config(Path(model) / "config.json")
    with torch.device("meta"):
        built = build_model(config, str(model))
    return sum(parameter.numel() for parameter in built.base_model.parameters())
