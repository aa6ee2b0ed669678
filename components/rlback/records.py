"""Plain records that travel between the rooms of the house. Standard library only.

Terms are those of docs/glossary.md. Every record is immutable.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["a", "b", "tie", "skip"]
ActorKind = Literal["human", "simulated", "system"]
CheckpointKind = Literal["policy", "reward_model", "adapter"]

#: The longest reason that is taken, wherever somebody gives one.
REASON_CHARS = 2_000

#: Letters and symbols by category that show as nothing: Hangul fillers and the empty braille pattern.
_EMPTY = frozenset("\u115f\u1160\u2800\u3164\uffa0")


def words_of(text: str) -> str:
    """A reason without the blanks around it; empty where nothing in it can be seen, however many characters it has."""
    return text.strip() if any(unicodedata.category(c)[0] in "LNPS" and c not in _EMPTY for c in text) else ""


#: How training and stages report progress: (done, total, metrics so far).
Report = Callable[[int, int, Mapping[str, float]], None]


def silent(done: int, total: int, metrics: Mapping[str, float]) -> None:
    """A `Report` that says nothing."""


def canonical_json(value: Any) -> str:
    """The one JSON text of a value that digests are taken of: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 (64 hex digits) of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on every part, for a random generator used for one purpose only.

    Randomness is derived, never carried along: step 40 of a stage draws the same numbers whether or not the
    process that runs it is the one that ran step 39.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Actor:
    """Who did something that the ledger records."""

    name: str
    kind: ActorKind


SYSTEM = Actor("rlback", "system")


#: Where one answer of an environment stands in a completion: tokens from, to; characters of the text from, to.
Answer = tuple[int, int, int, int]


@dataclass(frozen=True)
class Completion:
    """What a policy sampled for one prompt.

    `ids` are the sampled token ids, end token included where it was sampled: the reward model scores exactly
    these, never a re-tokenised text. `finished` says whether the end token was sampled. `answers` are what an
    environment (a tool) wrote between the policy's turns.
    """

    text: str
    ids: tuple[int, ...]
    finished: bool
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One prompt with two completions, shown to an annotator.

    `source` says where the two come from: `base` (both from the base policy), `inside` (both from the
    candidate) or `cross` (a: candidate, b: start checkpoint; the side shown left is drawn at display). `gold` and
    `repeat` watch over annotators and are never learned from.
    """

    prompt: str
    a: Completion
    b: Completion
    source: Literal["base", "inside", "cross", "given", "gold", "repeat"]


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with the preferred and the dispreferred completion, as texts.

    `weight` scales the pair's loss; `group` is what a split must keep together (a debate, a conversation).
    """

    prompt: str
    chosen: str
    rejected: str
    group: str = ""
    weight: float = 1.0
    id: str = ""


@dataclass(frozen=True)
class Interval:
    """A share or mean with its 95 % interval and the number of labels behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint in the registry: root digest, MLflow LoggedModel id and the directory that holds it."""

    digest: str
    kind: CheckpointKind
    model_id: str
    location: str
