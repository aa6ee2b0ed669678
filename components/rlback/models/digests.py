"""Digests of weights: what names a model exactly."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names, shapes, types and bytes of a module's parameters and persistent buffers."""
    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(_bytes(tensor))
    return state.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over a tensor's bytes."""
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
