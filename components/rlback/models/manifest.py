"""The manifest of a checkpoint directory, and the check that the directory is exactly what it says.

Standard library only: the registry and the command line verify checkpoints without loading torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rlback.errors import CheckpointError
from rlback.records import CheckpointKind, digest_of

FORMAT = "rlback-checkpoint-1"
MANIFEST = "manifest.json"
#: The only file names a checkpoint of each kind may hold, all of which it must hold, besides the manifest.
FILES: dict[str, tuple[str, ...]] = {
    "policy": ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    "reward_model": (
        "config.json",
        "model.safetensors",
        "reward_model.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
    # A policy as the difference to another: `base.json` names the checkpoint of the other.
    "adapter": ("adapter_config.json", "adapter_model.safetensors", "base.json"),
}

_MANIFEST_LIMIT = 1 << 20
_HEADER_LIMIT = 100 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BACK = "roll back to another approved checkpoint, or restore this one from a copy with the same digest"


@dataclass(frozen=True)
class FileEntry:
    """One file: its plain name, SHA-256 (64 hex digits) and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of; `digest` is the root digest that names it everywhere."""

    kind: CheckpointKind
    files: tuple[FileEntry, ...]
    digest: str


def make_manifest(kind: CheckpointKind, files: Iterable[FileEntry]) -> Manifest:
    """The manifest over `files`; its root digest covers format, kind, names, sizes and hashes."""
    entries = tuple(sorted(files, key=lambda entry: entry.name))
    body = {"format": FORMAT, "kind": kind, "files": [[e.name, e.sha256, e.size] for e in entries]}
    return Manifest(kind, entries, digest_of(body))


def manifest_json(manifest: Manifest) -> str:
    """The text of `manifest.json`: the same bytes for the same manifest."""
    files = {e.name: {"sha256": e.sha256, "size": e.size} for e in manifest.files}
    document = {"format": FORMAT, "kind": manifest.kind, "digest": manifest.digest, "files": files}
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def hash_file(path: Path) -> FileEntry:
    """Name, SHA-256 and size of a regular file. A symlink is refused (OSError), never followed."""
    digest, size = hashlib.sha256(), 0
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return FileEntry(path.name, digest.hexdigest(), size)


def verify_checkpoint(directory: str | os.PathLike[str], digest: str | None = None) -> Manifest:
    """Check every byte of a checkpoint directory against its manifest, and the manifest against `digest`.

    Raises CheckpointError naming the file for: no directory, a symlink, a nested folder, a missing, extra,
    altered or truncated file, a name that leads outside, a file that is not what its name says, a manifest
    that does not add up, and a root digest other than `digest`. Nothing is unpickled, run or written.
    """
    root = Path(directory)
    present = _list_plain_files(root)
    if MANIFEST not in present:
        _refuse(root, MANIFEST, "is missing: the checkpoint is incomplete")
    manifest = _read_manifest(root)
    names = {entry.name for entry in manifest.files}
    for name in sorted(names - present):
        _refuse(root, name, "is missing")
    for name in sorted(present - names - {MANIFEST}):
        _refuse(root, name, "is not in the manifest")
    for entry in manifest.files:
        path = root / entry.name
        if path.stat().st_size != entry.size:
            _refuse(root, entry.name, f"has {path.stat().st_size} bytes, the manifest says {entry.size}")
        if hash_file(path).sha256 != entry.sha256:
            _refuse(root, entry.name, "was altered: its SHA-256 is not the one in the manifest")
        if entry.name.endswith(".safetensors"):
            check_safetensors(path)
        else:
            read_json_object(path)
    if digest is not None and manifest.digest != digest:
        _refuse(root, MANIFEST, f"has root digest {manifest.digest}, expected {digest}")
    return manifest


def check_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes by name. CheckpointError for what is not a safetensors file whose tensors fill it exactly.

    Layout: 8 bytes little-endian header length, a JSON header, tensor bytes. A pickle or zip archive under
    this name fails at the header.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _HEADER_LIMIT):
            _refuse(path.parent, path.name, "is not a safetensors file (header length)")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = {name: tuple(int(length) for length in entry["shape"]) for name, entry in entries.items()}
        spans = sorted(entry["data_offsets"] for entry in entries.values())
        end = 0
        for start, stop in spans:
            if start != end or stop < start:
                raise ValueError
            end = stop
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _refuse(path.parent, path.name, "is not a safetensors file (header)")
    if 8 + length + end != size:
        _refuse(path.parent, path.name, "is not a whole safetensors file (size)")
    return shapes


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises CheckpointError when it is missing, no object or repeats a key."""
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except FileNotFoundError:
        _refuse(path.parent, path.name, "is missing")
    except (ValueError, RecursionError) as error:
        _refuse(path.parent, path.name, f"is not valid JSON ({error})")
    if not isinstance(value, dict):
        _refuse(path.parent, path.name, "is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may pick different values of a repeated key: what was checked must be what is used.
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands there twice")
        found[key] = value
    return found


def _list_plain_files(root: Path) -> set[str]:
    try:
        mode = root.lstat().st_mode
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no checkpoint at {root}",
            remedy="check the path, or fetch the checkpoint from the store",
        ) from None
    if not stat.S_ISDIR(mode):
        raise CheckpointError(
            f"{root} is not a directory (or is a symlink)", remedy="give the directory itself"
        )
    names = set()
    for entry in os.scandir(root):
        if entry.is_symlink():
            _refuse(root, entry.name, "is a symlink")
        if entry.is_dir(follow_symlinks=False):
            _refuse(root, entry.name, "is a nested folder")
        if not entry.is_file(follow_symlinks=False):
            _refuse(root, entry.name, "is not a regular file")
        names.add(entry.name)
    return names


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    if path.stat().st_size > _MANIFEST_LIMIT:
        _refuse(root, MANIFEST, f"is larger than {_MANIFEST_LIMIT} bytes")
    document = read_json_object(path)
    if document.get("format") != FORMAT:
        _refuse(root, MANIFEST, f"has format {document.get('format')!r}, expected {FORMAT!r}")
    kind, files = document.get("kind"), document.get("files")
    if (
        kind not in FILES
        or not isinstance(files, dict)
        or set(document) != {"format", "kind", "digest", "files"}
    ):
        _refuse(root, MANIFEST, "does not have the fields format, kind, digest and files")
    entries = []
    for name, entry in files.items():
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            _refuse(root, MANIFEST, f"names {name!r}, which leads out of the checkpoint")
        if name not in FILES[kind]:
            _refuse(root, MANIFEST, f"names {name!r}, which no {kind} checkpoint holds")
        if not (
            isinstance(entry, dict)
            and set(entry) == {"sha256", "size"}
            and isinstance(entry["sha256"], str)
            and _SHA256.fullmatch(entry["sha256"])
            and type(entry["size"]) is int
        ):
            _refuse(root, MANIFEST, f"has no valid SHA-256 and size for {name!r}")
        entries.append(FileEntry(name, entry["sha256"], entry["size"]))
    for name in FILES[kind]:
        if name not in files:
            _refuse(root, name, "is missing from the manifest")
    manifest = make_manifest(kind, entries)
    if document["digest"] != manifest.digest:
        _refuse(root, MANIFEST, "was altered: its root digest does not cover what it lists")
    return manifest


def _refuse(root: Path, name: str, why: str) -> NoReturn:
    raise CheckpointError(f"checkpoint {root}: {name} {why}", remedy=_BACK)
