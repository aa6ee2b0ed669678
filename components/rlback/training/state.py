"""Exact resume of a training stage: weights, Adam moments and the step, in safetensors and JSON.

A state directory holds two slots, written in turn. A slot is `slot-N.safetensors` (the tensors) and
`slot-N.json` (step, identity, extra, the SHA-256 of the tensor file and of the record itself). Each file is
written under another name, flushed to the disk and renamed; the JSON goes last and is what makes the slot
valid. A process killed at any instant therefore leaves the other slot, at worst, as the newest whole state.

No random-generator state is stored: every draw of a training loop comes from a generator seeded with
`seed_of(seed, purpose, step)`, so step 40 is the same step whichever process runs it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rlback.disks import flush, replacing, write_whole
from rlback.errors import CheckpointError
from rlback.models.digests import tensor_digest
from rlback.records import canonical_json, digest_of

_SLOTS = (0, 1)


@dataclass(frozen=True)
class SavedState:
    """What `load_state` found: the number of steps done, the tensors by name and the JSON beside them."""

    step: int
    tensors: dict[str, Tensor]
    extra: dict[str, Any]


def save_state(directory: Path, step: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
    """Write a state as the newest one of `directory`, atomically; the one before it stays as the other slot.

    `extra` is JSON without NaN. The directory is made when missing. OSError (disk full, no permission) is
    passed on and leaves the earlier states valid.
    """
    directory.mkdir(parents=True, exist_ok=True)
    records = {slot: _record(directory, slot) for slot in _SLOTS}
    slot = min(_SLOTS, key=lambda s: -1 if records[s] is None else records[s]["order"])
    order = 1 + max((r["order"] for r in records.values() if r is not None), default=-1)

    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    size = sum(tensor.nbytes for tensor in held.values())
    with replacing(directory / f"slot-{slot}.safetensors", size) as part:
        save_file(held, part)
        record = {"order": order, "step": step, "extra": dict(extra), "sha256": _sha256(part)}
    record["digest"] = digest_of(record)
    write_whole(directory / f"slot-{slot}.json", canonical_json(record))
    flush(directory)


def load_state(directory: Path, *, device: torch.device | str = "cpu") -> SavedState | None:
    """The newest whole state of `directory`, or None when it has none.

    Tensor files are checked against their SHA-256. A damaged or half-written slot is removed, so that the
    next save overwrites it and not the good one.
    """
    records = {slot: _record(directory, slot) for slot in _SLOTS}
    newest_first = sorted(_SLOTS, key=lambda s: -1 if records[s] is None else -records[s]["order"])
    found: SavedState | None = None
    for slot in newest_first:
        record, weights = records[slot], directory / f"slot-{slot}.safetensors"
        if record is None or not weights.is_file() or _sha256(weights) != record["sha256"]:
            (directory / f"slot-{slot}.json").unlink(missing_ok=True)
            weights.unlink(missing_ok=True)
        elif found is None:
            with safe_open(weights, framework="pt", device=str(device)) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = SavedState(record["step"], tensors, record["extra"])
    return found


def _record(directory: Path, slot: int) -> dict[str, Any] | None:
    """A slot's JSON record when it is whole, else None."""
    try:
        record = json.loads((directory / f"slot-{slot}.json").read_text())
        digest = record.pop("digest")
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return record if digest_of(record) == digest else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokens_digest(sequences: Iterable[Sequence[int]]) -> str:
    """SHA-256 over token lists, order and borders included."""
    state = hashlib.sha256()
    for ids in sequences:
        state.update(f"{len(ids)}:{','.join(map(str, ids))};".encode())
    return state.hexdigest()


class StageState:
    """Keeps and restores the state of one training loop: a module's trainable weights and its Adam moments.

    `identity` says what the loop computes (a digest of its configuration, seed, data and initial weights): a
    state of another identity is refused with CheckpointError instead of being continued as if it were this
    loop's. With `directory` None nothing is kept; without `writes` (all but the first of several processes) a state
    is restored but not saved.
    """

    def __init__(
        self,
        directory: Path | None,
        identity: str,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        every_s: float,
        writes: bool = True,
    ) -> None:
        self._directory = directory
        self._identity = identity
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._optimiser = optimiser
        self._every_s = every_s
        self._writes = writes
        self._kept_at = time.monotonic()
        #: What `resume` found of a rollout that was not used up yet.
        self.pending: dict[str, Tensor] = {}

    def resume(self) -> tuple[int, dict[str, Any]]:
        """Restore the newest whole state in place; returns the steps done (0: none) and the loop's extra."""
        saved = None if self._directory is None else load_state(self._directory)
        if saved is None:
            return 0, {}
        if saved.extra["identity"] != self._identity:
            raise CheckpointError(
                f"the training state in {self._directory} belongs to another run: its configuration, seed, "
                "data or initial weights differ from this one's",
                remedy=f"remove {self._directory} to train from the start",
            )
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(saved.tensors[f"weights/{name}"])
                moments = {
                    key: saved.tensors[f"adam/{key}/{name}"].to(_place(key, parameter))
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"adam/{key}/{name}" in saved.tensors
                }
                if moments:
                    self._optimiser.state[parameter] = moments
        self.pending = {
            name.removeprefix("pending/"): tensor for name, tensor in saved.tensors.items() if name.startswith("pending/")
        }
        return saved.step, saved.extra["loop"]

    def digest(self, loop: Mapping[str, Any]) -> str:
        """SHA-256 over weights, moments and `loop`: the state as it is in memory, which a rollback must restore.

        There is no random-generator state in it, since none is carried along, and neither data nor scorer, which are
        the only things that may differ between two rounds from one checkpoint.
        """
        return digest_of([{n: tensor_digest(t) for n, t in sorted(self._tensors().items())}, dict(loop)])

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            tensors[f"weights/{name}"] = parameter
            for key, value in self._optimiser.state.get(parameter, {}).items():
                tensors[f"adam/{key}/{name}"] = value
        return tensors

    def keep(
        self,
        step: int,
        loop: Mapping[str, Any] | None = None,
        *,
        pending: Mapping[str, Tensor] | None = None,
        now: bool = False,
    ) -> None:
        """Save after `step` steps when the last save is `every_s` seconds ago, or at once with `now`.

        `pending`: the tensors of a rollout that still has updates to come.
        """
        due = now or time.monotonic() - self._kept_at >= self._every_s
        if self._directory is None or not self._writes or not due:
            return
        tensors = self._tensors() | {f"pending/{name}": tensor for name, tensor in (pending or {}).items()}
        save_state(self._directory, step, tensors, {"identity": self._identity, "loop": dict(loop or {})})
        self._kept_at = time.monotonic()


def _place(key: str, parameter: Tensor) -> torch.device:
    # Adam keeps its step count on the CPU unless it is fused on the parameter's own device.
    return parameter.device if key != "step" or parameter.is_cuda else torch.device("cpu")
