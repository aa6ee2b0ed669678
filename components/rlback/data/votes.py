"""Several people's votes on one comparison: weights for its pair, and how far people agree at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path

from rlback.data.formats import RowProblem, table_of
from rlback.data.shapes import storable
from rlback.data.source import DEFAULT_LIMITS, Limits, open_source
from rlback.errors import DataError
from rlback.records import PreferencePair


@dataclass(frozen=True)
class Votes:
    """How many people preferred `text_a1`, `text_a2`, or found them equal."""

    a1: int
    a2: int
    equal: int
    text_a1: str
    text_a2: str


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree, over comparisons with two or more decisive votes (equal votes left out).

    pairwise: chance that two annotators of one comparison prefer the same side.
    against_rest: chance that one annotator prefers the side most of the *other* annotators do (an even rest
        counts one half). This is a person's own accuracy at predicting the label.
    majority_share: mean share of the larger side. No model can agree with single votes more often than
        this; it is optimistic for few votes, because the majority counts the vote it is compared with.
    comparisons, votes: what the figures rest on.
    """

    pairwise: float
    against_rest: float
    majority_share: float
    comparisons: int
    votes: int


def read_votes(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> dict[str, Votes]:
    """Votes by comparison id, from rows {id, a1, a2, votes: {a1, a2, equal}} in any format but CSV.

    Raises `DataError` naming file and line for a missing column, a count that is no whole number from 0, no
    vote at all, or an id that is there twice.
    """
    found: dict[str, Votes] = {}
    with open_source(path, limits) as source:
        table = table_of(source, {"id", "a1", "a2", "votes"})
        for row in table.rows:
            try:
                if row.value is None:
                    raise RowProblem(row.problem or "unreadable")
                key, votes = _votes(row.value, limits.max_text_chars)
                if key in found:
                    raise RowProblem(f"the id {key[:80]!r} is there twice")
            except RowProblem as problem:
                raise DataError(
                    f"{path}, {table.unit} {row.number}: {problem}", remedy="correct the row"
                ) from problem
            found[key] = votes
    if not found:
        raise DataError(f"{path} holds no votes", remedy="give rows of {id, a1, a2, votes: {a1, a2, equal}}")
    return found


def _votes(row: Mapping[str, object], max_chars: int) -> tuple[str, Votes]:
    missing = [name for name in ("id", "a1", "a2", "votes") if name not in row]
    if missing:
        here = ", ".join(repr(name[:40]) for name in list(row)[:20]) or "none"
        raise RowProblem(f"missing: column {', '.join(map(repr, missing))}; columns here: {here}")
    given = row["votes"]
    if not isinstance(given, dict):
        raise RowProblem("votes must be an object {a1, a2, equal}")
    counts = []
    for name in ("a1", "a2", "equal"):
        count = given.get(name, 0 if name == "equal" else None)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 1_000_000:
            raise RowProblem(f"votes.{name} must be a whole number from 0 to 1,000,000")
        counts.append(count)
    if not any(counts):
        raise RowProblem("there is no vote")
    a1, a2, equal = counts
    first, second = (storable(name, row[name], max_chars) for name in ("a1", "a2"))
    return storable("id", row["id"], 1_000), Votes(a1, a2, equal, first, second)


def apply_votes(pairs: Sequence[PreferencePair], votes: Mapping[str, Votes]) -> list[PreferencePair]:
    """The same pairs, each weighted by the share of its decisive votes that went to its chosen side.

    Equal votes are left out. Where the label is the majority's, which is nearly always, that is the majority
    share, from above 1/2 to 1; an even vote gives 1/2, and a label that goes against the majority (labels may
    be made by weighing annotators) less than 1/2. Pairs are matched by id and their texts checked.

    Raises `DataError` for a pair without votes, with other texts, or without a vote for its chosen side.
    """
    return [replace(pair, weight=_chosen_share(pair, votes)) for pair in pairs]


def _chosen_share(pair: PreferencePair, votes: Mapping[str, Votes]) -> float:
    of_pair = votes.get(pair.id)
    if of_pair is None:
        raise DataError(
            f"there are no votes for the pair with id {pair.id!r}",
            remedy="give the votes of all pairs, and pairs with the column id",
        )
    texts = (of_pair.text_a1, of_pair.text_a2)
    if (pair.chosen, pair.rejected) == texts:
        chosen, rejected = of_pair.a1, of_pair.a2
    elif (pair.rejected, pair.chosen) == texts:
        chosen, rejected = of_pair.a2, of_pair.a1
    else:
        raise DataError(
            f"the votes with id {pair.id!r} are on other texts than the pair's",
            remedy="give the votes that belong to these pairs",
        )
    if chosen == 0:
        raise DataError(
            f"the pair with id {pair.id!r} has no vote for its chosen side", remedy="leave the pair out"
        )
    return chosen / (chosen + rejected)


def annotator_agreement(votes: Iterable[Votes]) -> Agreement:
    """Agreement among annotators, the mean over comparisons; see `Agreement`.

    The share of label noise bounds what a reward model can reach: its held-out accuracy is to be read against
    these figures. Raises `DataError` where no comparison has two decisive votes.
    """
    decisive = [(one.a1, one.a2) for one in votes if one.a1 + one.a2 >= 2]
    if not decisive:
        raise DataError(
            "no comparison has two decisive votes, so agreement is not defined",
            remedy="collect more than one label a comparison",
        )
    n = len(decisive)
    return Agreement(
        pairwise=sum((comb(a, 2) + comb(b, 2)) / comb(a + b, 2) for a, b in decisive) / n,
        against_rest=sum(_against_rest(a, b) for a, b in decisive) / n,
        majority_share=sum(max(a, b) / (a + b) for a, b in decisive) / n,
        comparisons=n,
        votes=sum(a + b for a, b in decisive),
    )


def _against_rest(a: int, b: int) -> float:
    """Mean over the a + b voters: the majority of the others votes alike (1), even (1/2) or otherwise (0)."""

    def win(mine: int, other: int) -> float:
        return 1.0 if mine > other else 0.5 if mine == other else 0.0

    return (a * win(a - 1, b) + b * win(b - 1, a)) / (a + b)
