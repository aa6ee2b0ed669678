"""Checkpoints: directories named by the digest of their bytes, written whole or not at all, verified on load.

The same weights, tokenizer and shape give the same bytes and so the same digest, on any day and any machine.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from rlback.disks import flush, naming, part_of
from rlback.errors import CheckpointError
from rlback.models.adapters import adapter_json, adapter_tensors, read_adapter_config, restore_adapter
from rlback.models.architecture import (
    build_model,
    config_json,
    fill,
    read_config,
    read_tensors,
    tied_names,
    tokenizer_from,
    tokenizer_json,
)
from rlback.models.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    hash_file,
    make_manifest,
    manifest_json,
    read_json_object,
    verify_checkpoint,
)
from rlback.models.policy import Adapter, Policy
from rlback.models.reward_model import RewardModel
from rlback.records import CheckpointKind
from rlback.settings import RewardShape


def save_policy(policy: Policy, directory: str | Path) -> str:
    """Write a policy checkpoint and return its root digest.

    Of a policy with an adapter only the adapter is written, and the digest of the base checkpoint it belongs to.
    `directory` appears with all its files or not at all. If it already holds this very checkpoint nothing is
    written. Raises CheckpointError when it holds anything else, and for an adapter whose base is in no checkpoint.
    """
    if policy.adapter is not None:
        return _write("adapter", _adapter_files(policy, policy.adapter), Path(directory))
    files = {
        "config.json": config_json(policy.model.config).encode(),
        "model.safetensors": _weights(policy.model, tied_names(policy.model)),
        **_tokenizer_files(policy.tokenizer),
    }
    return _write("policy", files, Path(directory))


def save_reward_model(reward_model: RewardModel, directory: str | Path) -> str:
    """Write a reward-model checkpoint, with its frozen policy and its scale, and return its root digest."""
    files = {
        "config.json": config_json(reward_model.config).encode(),
        "model.safetensors": _weights(reward_model, _tied_in(reward_model)),
        "reward_model.json": _shape_json(reward_model.shape).encode(),
        **_tokenizer_files(reward_model.tokenizer),
    }
    return _write("reward_model", files, Path(directory))


def load_policy(
    directory: str | Path, digest: str | None = None, base: Policy | Callable[[str], Policy] | None = None
) -> Policy:
    """The policy in a checkpoint directory, verified first; on the CPU, or with an adapter on its base's device.

    `base`: what an adapter's checkpoint belongs to, as a policy loaded from there or as a function from the root
    digest to that policy. The adapter is put on it as `add_adapter` does: its weights are shared and frozen. A
    checkpoint that is whole in itself does not ask for it. Raises CheckpointError, also for a base of another digest.
    """
    manifest = verify_checkpoint(directory, digest)
    if manifest.kind == "adapter":
        return _load_adapter(Path(directory), manifest.digest, base)
    root = _of_kind(directory, manifest, "policy")
    model = build_model(read_config(root / "config.json"), str(root / "config.json"))
    fill(model, read_tensors(root / "model.safetensors"), tied_names(model), str(root / "model.safetensors"))
    return Policy(model, _tokenizer(root), manifest.digest)


def load_reward_model(directory: str | Path, digest: str | None = None) -> RewardModel:
    """The reward model in a checkpoint directory, on the CPU, verified first. Raises CheckpointError."""
    root = _verified(directory, digest, "reward_model")
    try:
        shape = RewardShape(**read_json_object(root / "reward_model.json"))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{root / 'reward_model.json'} does not describe a reward model: {' '.join(str(error).split())}",
            remedy="save it again",
        ) from None
    model = build_model(read_config(root / "config.json"), str(root / "config.json"))
    reward_model = RewardModel(model, _tokenizer(root), shape)
    tensors = read_tensors(root / "model.safetensors")
    fill(reward_model, tensors, _tied_in(reward_model), str(root / "model.safetensors"))
    return reward_model.eval()


def _verified(directory: str | Path, digest: str | None, kind: CheckpointKind) -> Path:
    return _of_kind(directory, verify_checkpoint(directory, digest), kind)


def _of_kind(directory: str | Path, manifest: Manifest, kind: CheckpointKind) -> Path:
    if manifest.kind != kind:
        raise CheckpointError(
            f"{directory} holds a {manifest.kind}, not a {kind}", remedy="check the reference"
        )
    return Path(directory)


def _adapter_files(policy: Policy, adapter: Adapter) -> dict[str, bytes]:
    if adapter.base.digest is None:
        raise CheckpointError(
            "the adapter's base is in no checkpoint, so nothing could say later what the adapter belongs to",
            remedy="save the base, load it from there and add the adapter to that; or save merge(policy)",
        )
    base = json.dumps({"digest": adapter.base.digest}, indent=2) + "\n"
    return {
        "adapter_config.json": adapter_json(adapter.config).encode(),
        "adapter_model.safetensors": _serialised(adapter_tensors(policy)),
        "base.json": base.encode(),
    }


def _load_adapter(root: Path, digest: str, base: Policy | Callable[[str], Policy] | None) -> Policy:
    """`digest`: the adapter checkpoint's own."""
    config = read_adapter_config(root / "adapter_config.json")
    named = read_json_object(root / "base.json")
    wanted = named.get("digest")
    if set(named) != {"digest"} or not isinstance(wanted, str) or not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise CheckpointError(f"{root / 'base.json'} names no base checkpoint", remedy="save the adapter again")
    if base is None:
        raise CheckpointError(
            f"{root} holds an adapter, which is nothing without its base checkpoint {wanted}",
            remedy="load that checkpoint and give it as base",
        )
    found = base if isinstance(base, Policy) else base(wanted)
    if found.digest != wanted:
        raise CheckpointError(
            f"{root} holds an adapter for the base checkpoint {wanted}, and the base given is "
            f"{found.digest or 'in no checkpoint'}",
            remedy=f"load {wanted} and give it as base",
        )
    place = root / "adapter_model.safetensors"
    policy = restore_adapter(found, config, read_tensors(place), str(place))
    policy.digest = digest
    return policy


def _shape_json(shape: RewardShape) -> str:
    """Only what is set: a single model's file, and with it its digest, is what it was before there were ensembles."""
    default = asdict(RewardShape())
    kept = {k: v for k, v in asdict(shape).items() if k in ("pooling", "surprise") or v != default[k]}
    return json.dumps(kept, indent=2, sort_keys=True) + "\n"


def _tied_in(reward_model: RewardModel) -> frozenset[str]:
    return tied_names(reward_model.frozen, "frozen.") if reward_model.shape.surprise else frozenset()


def _weights(module: nn.Module, tied: frozenset[str]) -> bytes:
    return _serialised({name: tensor for name, tensor in module.state_dict().items() if name not in tied})


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    tensors = {name: tensor.detach().to("cpu", copy=False).contiguous() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"tensor {name!r} is not finite: no checkpoint was written",
                remedy="load the last good checkpoint",
            )
    return safetensors_bytes(tensors, metadata={"format": "pt"})


def _tokenizer_files(tokenizer: PreTrainedTokenizerFast) -> dict[str, bytes]:
    return {
        "tokenizer.json": tokenizer.backend_tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": tokenizer_json(tokenizer).encode(),
    }


def _tokenizer(root: Path) -> PreTrainedTokenizerFast:
    raw = read_json_object(root / "tokenizer_config.json")
    tokens = {
        name: value for name, value in raw.items() if name.endswith("_token") and isinstance(value, str)
    }
    return tokenizer_from(root / "tokenizer.json", tokens)


def _write(kind: CheckpointKind, files: Mapping[str, bytes], directory: Path) -> str:
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = part_of(directory, secrets.token_hex(4))
    try:
        with naming(directory, sum(map(len, files.values()))):
            partial.mkdir()
            entries: list[FileEntry] = []
            for name, content in sorted(files.items()):
                _write_file(partial / name, content)
                entries.append(hash_file(partial / name))
            manifest = make_manifest(kind, entries)
            _write_file(partial / MANIFEST, manifest_json(manifest).encode())
            flush(partial)
            _move(partial, directory, manifest.digest)
            flush(directory.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest.digest


def _move(partial: Path, directory: Path, digest: str) -> None:
    try:
        if directory.is_symlink():
            raise FileExistsError
        # Onto an empty directory or none; the system refuses anything else.
        os.rename(partial, directory)
    except OSError as error:
        if not os.path.lexists(directory):
            raise
        try:
            verify_checkpoint(directory, digest)
        except CheckpointError as other:
            raise CheckpointError(
                f"{directory} already holds something else ({other.message})",
                remedy="choose another directory",
            ) from error


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
