"""The table of claims as a page and as JSON: what holds, by how much, on which seeds, and how to have it again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlback.errors import DataError
from rlback.studies.claims.catalogue import Answer, answers
from rlback.studies.claims.verdicts import Part
from rlback.studies.table import check, joined, read_table

VERDICTS = ("holds", "fails", "inconclusive", "not measured")


@dataclass(frozen=True)
class Origin:
    """Where a table's rows come from: study, world, seeds and the commits of the code that made them.

    digest: SHA-256 of the results files, one after the other. command: what made this page.
    """

    study: str
    world: str
    seeds: tuple[int, ...]
    revisions: tuple[str, ...]
    digest: str
    command: str


def read(results: Sequence[Path], command: str) -> tuple[list[Answer], Origin]:
    """The answers that the results of one study or several give together, and their origin.

    Raises:
        DataError: one cannot be read, they hold no rows, or two hold rows for the same point.
    """
    tables = [read_table(path) for path in results]
    shown = ", ".join(str(path) for path in results)
    table = check(joined(tables), shown)
    if not len(table):
        raise DataError(f"{shown}: there are no rows", remedy="run the study first")
    digest = hashlib.sha256()
    for path in results:
        digest.update(path.read_bytes())
    return answers(table), origin_of(table, digest.hexdigest(), command)


def origin_of(table: pa.Table, digest: str, command: str) -> Origin:
    """See Origin."""
    names = {c: ", ".join(sorted(set(table[c].to_pylist()))) for c in ("study", "world")}
    seeds = tuple(sorted(set(table["seed"].to_pylist())))
    revisions = tuple(sorted(set(table["code_revision"].to_pylist())))
    return Origin(names["study"], names["world"], seeds, revisions, digest, command)


def as_json(found: Sequence[Answer], origin: Origin) -> dict[str, Any]:
    """Plain values; numbers that are not finite are null."""
    return {
        "study": origin.study, "world": origin.world, "seeds": list(origin.seeds), "revisions": list(origin.revisions),
        "results_sha256": origin.digest, "command": origin.command,
        "claims": [
            {
                "claim": a.claim.name, "tier": a.claim.tier, "says": a.claim.says, "source": a.claim.source,
                "verdict": a.verdict, "reason": a.reason, "seeds": a.seeds,
                "compared": a.finding.compared if a.finding else "",
                "not_tested": a.finding.missing if a.finding else "",
                "parts": [_part(p) for p in (a.finding.parts if a.finding else ())],
            }
            for a in found
        ],
    }  # fmt: skip


def markdown(found: Sequence[Answer], origin: Origin) -> str:
    """The page docs/claims.md."""
    count = Counter(a.verdict for a in found)
    tally = ", ".join(f"{count[v]} {v}" for v in VERDICTS if count[v])
    lines = [
        "# Published claims, tested here",
        "",
        f"{len(found)} claims: {tally}. World: {origin.world}; study {origin.study}; {_shown(origin.seeds)}; code",
        f"{', '.join(origin.revisions)}. Made by `{origin.command}` from results with SHA-256 {origin.digest[:16]}.",
        "",
        "A claim holds where the one-sided 95 % bootstrap bound over seeds, paired, of every comparison it rests on lies on the",
        "claimed side, and fails where one lies wholly on the other. Each comparison is tested on its own. Tier 1 should hold in",
        "any faithful world; tier 2 may depend on scale. Gold and proxy are in standard deviations of the base policy. What a",
        "bandit says of language models is an analogy: the papers' own worlds are language models.",
        "",
        "| | tier | claim | source | verdict | deciding comparison | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for a in found:
        part = a.finding.deciding if a.finding else None
        shown = _in_words(part) if part else a.reason
        lines.append(
            f"| {a.claim.name} | {a.claim.tier} | {a.claim.says} | {a.claim.source} | **{a.verdict}** | {shown} | "
            f"{a.seeds or ''} |"
        )
    lines += ["", "## Every comparison", ""]
    for a in found:
        lines.append(f"**{a.claim.name}, {a.verdict}.** {a.finding.compared if a.finding else a.reason}.")
        if a.finding:
            lines += [f"- {p.verdict}: {_in_words(p)}" for p in a.finding.parts]
            lines += [f"- not tested: {a.finding.missing}"] * bool(a.finding.missing)
        lines.append("")
    return "\n".join(lines)


def _in_words(part: Part) -> str:
    bound = f"; claimed above {part.least:.3g}" if part.least else ""
    return f"{part.what}: {part.estimate:.3g} [{part.low:.3g}, {part.high:.3g}]{bound}"


def _part(part: Part) -> dict[str, Any]:
    def plain(x: float) -> float | None:
        return float(x) if np.isfinite(x) else None

    return {
        "what": part.what, "estimate": plain(part.estimate), "low": plain(part.low), "high": plain(part.high),
        "claimed_above": part.least, "seeds": part.seeds, "verdict": part.verdict,
    }  # fmt: skip


def _shown(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"
