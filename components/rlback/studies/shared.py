"""What several runs of a study begin with: made once for all processes, kept by digest, checked before it is used.

A thing named NAME is the directory NAME (safetensors with a manifest) and the record NAME.json, which holds the
digest of the directory and facts about how it was made. The record is written last: a thing without one is not there.
While it is made, its training state lies in .NAME.state, so that whoever is ended goes on from there.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rlback.disks import write_whole
from rlback.errors import CheckpointError
from rlback.models.checkpoint import load_policy, load_reward_model, save_policy, save_reward_model
from rlback.models.policy import Policy
from rlback.models.reward_model import RewardModel

T = TypeVar("T")
Facts = dict[str, Any]


@dataclass(frozen=True)
class Form(Generic[T]):
    """How things of one kind are written (returns the digest) and read again (checks it)."""

    save: Callable[[T, Path], str]
    load: Callable[[Path, str], T]


POLICY: Form[Policy] = Form(save_policy, load_policy)
REWARD: Form[RewardModel] = Form(save_reward_model, load_reward_model)


def once(
    shared: Path | None, name: str, form: Form[T], make: Callable[[Path | None], T], facts: Callable[[T], Facts] | None = None
) -> T:
    """The thing `name`; on the CPU where it is read. `make` gets the directory of its training state; without a shared
    directory the thing is made anew and nothing is kept.

    Raises CheckpointError, naming the files and what to remove, where what was kept is not what was written.
    """
    if shared is None:
        return make(None)
    with _held(shared, name):
        record, state = shared / f"{name}.json", shared / f".{name}.state"
        if not record.exists():
            shutil.rmtree(shared / name, ignore_errors=True)  # of one who was ended before the record
            thing = make(state)
            digest = form.save(thing, shared / name)
            write_whole(record, _text({"digest": digest, **(facts(thing) if facts else {})}))
        shutil.rmtree(state, ignore_errors=True)
    try:
        return form.load(shared / name, _read(record)["digest"])
    except CheckpointError as error:
        raise CheckpointError(
            f"{error.message} (shared by all runs of the study)", remedy=f"remove {record}; the same command makes it again"
        ) from None


def facts_once(shared: Path | None, name: str, make: Callable[[Path | None], Facts]) -> Facts:
    """The same for plain facts that are dear to find out; they are a record and nothing else."""
    if shared is None:
        return make(None)
    with _held(shared, name):
        record, state = shared / f"{name}.json", shared / f".{name}.state"
        if not record.exists():
            write_whole(record, _text(make(state)))
        shutil.rmtree(state, ignore_errors=True)
    return _read(record)


def known_facts(shared: Path | None, name: str) -> Facts | None:
    """The record of a thing; None where it was not made yet."""
    record = None if shared is None else shared / f"{name}.json"
    return _read(record) if record is not None and record.exists() else None


def _read(record: Path) -> Facts:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{record} cannot be read: {error}", remedy="remove it; the same command makes it again") from None
    return found


def _text(facts: Facts) -> str:
    return json.dumps(facts, indent=1, sort_keys=True)


@contextmanager
def _held(shared: Path, name: str) -> Iterator[None]:
    shared.mkdir(parents=True, exist_ok=True)
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the process that comes second waits, and reads
        yield
