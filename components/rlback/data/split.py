"""Parting pairs into training and held-out sets by whole groups, and what length alone explains."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlback.errors import DataError
from rlback.maths.intervals import wilson
from rlback.records import PreferencePair, seed_of


@dataclass(frozen=True)
class Split:
    """Two sets of pairs without a common group; unpacks as `train, held = split`.

    `leaked_train` and `leaked_held` count the pairs of each side of which a completion also appears on the
    other side: the same text judged in two groups. They are reported, not removed.
    """

    train: list[PreferencePair]
    held: list[PreferencePair]
    held_groups: tuple[str, ...]
    leaked_train: int
    leaked_held: int

    def __iter__(self) -> Iterator[list[PreferencePair]]:
        return iter((self.train, self.held))


def split_by_group(pairs: Sequence[PreferencePair], held_out: int | float | Sequence[str], seed: int) -> Split:
    """Hold out whole groups: `held_out` names them, or says how many to draw with `seed`, or which share of them.

    A share (a float above 0 and below 1) is rounded to whole groups, and leaves each side at least one.

    Rows of one debate or conversation share texts, so a split by row measures memory of them. The draw
    depends on the set of group names and the seed only, not on the order of the pairs.

    Raises `DataError` where pairs have no group, a named group is unknown, or a side would be empty.
    """
    groups = sorted({pair.group for pair in pairs})
    if "" in groups:
        bare = sum(not pair.group for pair in pairs)
        raise DataError(
            f"{bare} of {len(pairs)} pairs have no group, so they cannot be kept together in a split",
            remedy='read them with group_column="prompt", or with the column that names the topic',
        )
    if isinstance(held_out, float):
        held_out = max(1, min(len(groups) - 1, round(held_out * len(groups))))
    held_groups = _drawn(groups, held_out, seed) if isinstance(held_out, int) else _named(groups, held_out)
    train = [pair for pair in pairs if pair.group not in held_groups]
    held = [pair for pair in pairs if pair.group in held_groups]
    train_texts, held_texts = _texts(train), _texts(held)
    return Split(
        train=train,
        held=held,
        held_groups=tuple(sorted(held_groups)),
        leaked_train=sum(p.chosen in held_texts or p.rejected in held_texts for p in train),
        leaked_held=sum(p.chosen in train_texts or p.rejected in train_texts for p in held),
    )


def _drawn(groups: Sequence[str], count: int, seed: int) -> frozenset[str]:
    if count < 1 or len(groups) <= count:
        raise DataError(
            f"cannot hold out {count} of {len(groups)} groups: each side needs at least one",
            remedy=f"hold out between 1 and {len(groups) - 1} groups"
            if len(groups) > 1
            else "give pairs of several groups, or a finer group_column",
        )
    return frozenset(random.Random(seed_of("split_by_group", seed)).sample(groups, count))


def _named(groups: Sequence[str], names: Sequence[str]) -> frozenset[str]:
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in groups:
            near = difflib.get_close_matches(name, groups, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"groups: {', '.join(groups[:20])}"
            raise DataError(f"there is no group {name!r} among {len(groups)}", remedy=hint)
    if not wanted or len(set(wanted)) == len(groups):
        raise DataError(
            f"cannot hold out {len(set(wanted))} of {len(groups)} groups: each side needs at least one",
            remedy="name some of the groups, not none or all",
        )
    return frozenset(wanted)


def _texts(pairs: Sequence[PreferencePair]) -> set[str]:
    return {text for pair in pairs for text in (pair.chosen, pair.rejected)}


def length_baseline(pairs: Sequence[PreferencePair]) -> dict[str, float | int]:
    """Accuracy of "the longer completion is the chosen one", a bar every reward model has to clear.

    Length is in characters; equal lengths count one half. Returns `value`, `low` and `high` (95 % score
    interval of Wilson 1927, pairs taken as independent, so too narrow where they share texts), `n` and
    `ties`. Raises `DataError` for no pairs.
    """
    if not pairs:
        raise DataError("no pairs to take the length baseline of", remedy="give at least one pair")
    n = len(pairs)
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs)
    ties = sum(len(pair.chosen) == len(pair.rejected) for pair in pairs)
    found = wilson(longer + ties / 2, n)
    return {"value": found.value, "low": found.low, "high": found.high, "n": n, "ties": ties}
