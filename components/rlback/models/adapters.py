"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): train W + alpha / rank * B A with W frozen.

The layers are peft's, put into a copy of the base policy's module tree whose frozen weights are the base's own
tensors. So the adapted policy and its base are two policies with one set of weights in memory, and "adapter off" is
not a state that a model can be left in by mistake: it is the other policy. The model stays of its own class
(no wrapper), and everything that reads or trains a policy works on it as it is.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlback.errors import CheckpointError, ConfigError
from rlback.models.manifest import read_json_object
from rlback.models.policy import Adapter, Policy
from rlback.records import seed_of
from rlback.settings import AdapterConfig

#: peft's name for the one adapter that a policy can have.
_NAME = "default"
# peft saves weights under the names they have inside two wrappers of its own.
_PEFT_PREFIX = "base_model.model."
# What `adapter_config.json` may say: these keys, and only these values where a value is given.
_FIXED = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "lora_dropout": 0.0}
_FREE = {"r", "lora_alpha", "target_modules"}
_MODULE_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)


def add_adapter(policy: Policy, config: AdapterConfig, seed: int) -> Policy:
    """A policy that acts like `policy`, of which only a new adapter can be trained.

    `policy` becomes the frozen base: its weights are shared, not copied, and take no gradient any more. A is uniform
    within 1 / sqrt(d_in), from `seed` and the layer's name alone; B is 0, so log-probabilities equal the base's
    exactly. The global random state is left as it was.

    Raises ConfigError when `policy` has an adapter already or a target names no linear layer of it.
    """
    if policy.adapter is not None:
        raise ConfigError(
            "the policy has an adapter already", remedy="train that one on, or merge it into the weights first"
        )
    names = target_names(policy.model, config)
    policy.model.requires_grad_(False)
    # Known to deepcopy as copied already: the new tree refers to the same parameters, tied ones included.
    model = copy.deepcopy(policy.model, {id(parameter): parameter for parameter in policy.model.parameters()})
    _inject(model, names, config)
    with torch.no_grad():
        for name, layer in lora_layers(model).items():
            a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
            generator = torch.Generator().manual_seed(seed_of(seed, "adapter", name))
            a.copy_((2 * torch.rand(a.shape, generator=generator) - 1) / math.sqrt(a.shape[1]))
            b.zero_()
    return Policy(model.eval(), policy.tokenizer, adapter=Adapter(policy, config))


def target_names(model: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """Full names of the layers to adapt. The output matrix may be the embedding too, and stays as it is.

    Only the module tree is read, so a model without memory (torch's meta device) will do. ConfigError for a target that
    names no linear layer.
    """
    output = model.get_output_embeddings()
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not output]
    if config.targets == "all-linear":
        return linear
    for target in config.targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ConfigError(
                f"adapter.targets: {target!r} names no linear layer of the policy ({type(model).__name__})",
                remedy=f"use all-linear, or some of: {known}",
            )
    return [name for name in linear if f".{name}".endswith(tuple(f".{target}" for target in config.targets))]


def _inject(model: PreTrainedModel, names: list[str], config: AdapterConfig) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # here: everything else works without peft

    layers = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=names,
        lora_dropout=0.0,
        bias="none",
        # GPT-2 keeps its matrices the other way round.
        fan_in_fan_out=isinstance(model.get_submodule(names[0]), Conv1D),
    )
    # peft draws initial weights from the global generator; they are overwritten.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(layers, model, _NAME)


def without_adapter(policy: Policy) -> Policy:
    """The frozen base of `policy`, on the same device: a reference policy that costs no memory for weights.

    It shares its weights with `policy`, so it follows it from device to device. ConfigError without an adapter.
    """
    base = _adapter_of(policy).base
    base.model.to(policy.model.device)  # its weights are there; positions and other buffers are its own
    return base


def merge(policy: Policy) -> Policy:
    """A plain policy with weights of its own that acts like `policy`: for deployment, or to train all of it.

    Equal up to rounding. Raises ConfigError when `policy` has no adapter.
    """
    base = without_adapter(policy)
    model = copy.deepcopy(base.model).requires_grad_(True)
    with torch.no_grad():
        for name, layer in lora_layers(policy.model).items():
            model.get_submodule(name).weight.copy_(dense_weight(layer))
    return Policy(model.eval(), policy.tokenizer)


def lora_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The adapted layers inside `module` by name; none in a plain policy."""
    return {name: layer for name, layer in module.named_modules() if hasattr(layer, "lora_A")}


def is_dense(layer: nn.Module) -> bool:
    """Whether `layer` computes x @ dense_weight(layer).T and nothing more."""
    if hasattr(layer, "lora_A"):
        return (
            layer.active_adapters == [_NAME]
            and list(layer.lora_A) == [_NAME]
            and not (layer.merged or layer.disable_adapters or layer.lora_variant)
            and layer.lora_B[_NAME].bias is None
            and isinstance(layer.lora_dropout[_NAME], nn.Identity)
            and is_dense(layer.base_layer)
        )
    return type(layer) is nn.Linear and layer.bias is None


def dense_weight(layer: nn.Module) -> Tensor:
    """The one matrix that a linear layer, adapted or not, multiplies by: W + scale * B A, added up in fp32."""
    if not hasattr(layer, "lora_A"):
        return layer.weight
    weight = layer.base_layer.weight
    product = layer.lora_B[_NAME].weight.float() @ layer.lora_A[_NAME].weight.float()
    if isinstance(layer.base_layer, Conv1D):
        product = product.t()
    return (weight.float() + layer.scaling[_NAME] * product).to(weight.dtype)


def adapter_tensors(policy: Policy) -> dict[str, Tensor]:
    """The adapter's matrices under the names that peft saves them by."""
    found = {}
    for name, layer in lora_layers(policy.model).items():
        for matrix in ("lora_A", "lora_B"):
            found[f"{_PEFT_PREFIX}{name}.{matrix}.weight"] = getattr(layer, matrix)[_NAME].weight
    return found


def restore_adapter(base: Policy, config: AdapterConfig, tensors: Mapping[str, Tensor], place: str) -> Policy:
    """`base` with the adapter that `adapter_tensors` gave. Raises CheckpointError naming `place` and the tensor."""
    try:
        policy = add_adapter(base, config, seed=0)
    except ConfigError as error:
        raise CheckpointError(f"{place} does not fit its base: {error.message}", remedy=error.remedy) from None
    own = adapter_tensors(policy)
    for name in sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(
            f"{place}: tensor {name!r} is {'missing' if name in own else 'not one of this adapter'}",
            remedy="weights and adapter_config.json must come from the same policy",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            given = tensors[name]
            if given.shape != tensor.shape or given.dtype != tensor.dtype:
                raise CheckpointError(
                    f"{place}: tensor {name!r} is {given.dtype} {tuple(given.shape)}, "
                    f"expected {tensor.dtype} {tuple(tensor.shape)}",
                    remedy="weights and adapter_config.json must come from the same policy",
                )
            tensor.copy_(given)
    return policy


def adapter_json(config: AdapterConfig) -> str:
    """The text of `adapter_config.json`: peft's own keys, so that peft reads it too, and the same bytes every time."""
    targets = config.targets if config.targets == "all-linear" else sorted(set(config.targets))
    raw = {**_FIXED, "r": config.rank, "lora_alpha": config.alpha, "target_modules": targets}
    return json.dumps(raw, indent=2, sort_keys=True) + "\n"


def read_adapter_config(path: Path) -> AdapterConfig:
    """The adapter that an `adapter_config.json` describes; the file is data, and peft never reads it here.

    Raises CheckpointError for any key but those that `adapter_json` writes: many of peft's keys import code, fetch
    weights or change what the layers compute.
    """
    raw = read_json_object(path)
    for key in sorted(raw.keys() - _FIXED.keys() - _FREE):
        raise CheckpointError(
            f"{path}: key {key!r} is not one of an adapter checkpoint; it can make a loader run or fetch something",
            remedy=f"remove {key!r}, or merge the adapter where it was made and import the whole policy",
        )
    for key in sorted((_FIXED.keys() | _FREE) - raw.keys()):
        raise CheckpointError(f"{path}: key {key!r} is missing", remedy="save the adapter again")
    for key, value in _FIXED.items():
        if raw[key] != value:
            raise CheckpointError(
                f"{path}: {key} is {raw[key]!r}, and only {value!r} is supported", remedy="save the adapter again"
            )
    rank, alpha, targets = raw["r"], raw["lora_alpha"], raw["target_modules"]
    named = isinstance(targets, list) and all(isinstance(t, str) and _MODULE_NAME.fullmatch(t) for t in targets)
    # Of a rank the settings would also take true, 8.0 or "8"; two files must not mean one adapter.
    if type(rank) is not int or type(alpha) is not float or not (named or targets == "all-linear"):
        raise CheckpointError(f"{path}: r, lora_alpha or target_modules is not valid", remedy="save the adapter again")
    try:
        return AdapterConfig(rank=rank, alpha=alpha, targets=tuple(targets) if named else "all-linear")
    except ValueError as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}", remedy="save the adapter again") from None


def _adapter_of(policy: Policy) -> Adapter:
    if policy.adapter is None:
        raise ConfigError("the policy has no adapter", remedy="add one with add_adapter")
    return policy.adapter
