"""The claims by number, and what a table says of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from rlback.studies.claims import curves, rounds, scorers
from rlback.studies.claims.evidence import Evidence, NotMeasured
from rlback.studies.claims.verdicts import Finding, Verdict


@dataclass(frozen=True)
class Claim:
    """A published claim. tier 1: should hold in any faithful world, else suspect the code; tier 2 may depend on scale."""

    name: str
    tier: int
    says: str
    source: str
    test: Callable[[Evidence], Finding]


_WOLF = "Wolf et al. 2505.18126"
_GAO = "Gao et al. 2210.10760"
_COSTE = "Coste et al. 2310.02743"

CLAIMS: tuple[Claim, ...] = (
    Claim("C1", 1, "With a fixed reward model gold rises, then falls, while the proxy keeps rising",
          f"{_GAO}, fig. 1", curves.c01),
    Claim("C2", 1, "Best-of-n follows d(α − βd), RL d(α − β log d)",
          f"{_GAO}, 3.1", curves.c02),
    Claim("C3", 1, "RL spends more KL than best-of-n for the same gold",
          f"{_GAO}, 3.5", curves.c03),
    Claim("C4", 2, "Against the proxy the two look alike; RL starts with the larger gap and peaks higher",
          f"{_GAO}, fig. 8", curves.c04),
    Claim("C5", 1, "A larger reward model: higher peak, smaller β",
          f"{_GAO}, 3.2", curves.c05),
    Claim("C6", 1, "More labels: more gold, less fall; near chance below a threshold; epochs are no substitute",
          f"{_GAO}, 3.3", curves.c06),
    Claim("C7", 2, "A larger policy gains less, and peaks at the same KL",
          f"{_GAO}, 3.4", curves.c07),
    Claim("C8", 2, "A KL penalty: gold depends on KL alone; the gap to the proxy is larger",
          f"{_GAO}, 3.6", curves.c08),
    Claim("C9", 1, "Best-of-n with WCO or UWO does not fall; with the mean it does, under 25 % noise",
          f"{_COSTE}, fig. 3", scorers.c09),
    Claim("C10", 1, "RL: WCO and UWO at least as good as one model at every KL weight; little KL + UWO beats much KL",
          f"{_COSTE}, figs 4-7", scorers.c10),
    Claim("C11", 1, "The members' variance on-policy grows twofold under the mean, less under UWO",
          f"{_COSTE}, fig. 10", scorers.c11),
    Claim("C12", 1, "DPO: a hump over β; at low β better before the end of the pass",
          "Rafailov et al. 2406.02900, fig. 1", scorers.c12),
    Claim("C13", 1, "Online beats offline at equal KL; the offline policy orders pairs better",
          "Tang et al. 2405.08448", scorers.c13),
    Claim("C14", 1, "Refreshing shrinks the gap each round, with diminishing gains",
          f"{_WOLF}, 5.1", rounds.c14),
    Claim("C15", 1, "Data: all > last, sample. Start: base > half way > last policy",
          f"{_WOLF}, table 6", rounds.c15),
    Claim("C16", 1, "An overoptimised policy does not recover by going on",
          f"{_WOLF}, fig. 7b", rounds.c16),
    Claim("C17", 1, "The reward model's on-policy accuracy falls with KL; a refresh restores it",
          "2604.02986, fig. 2; Bai et al. 2204.05862, 4.5", rounds.c17),
    Claim("C18", 1, "With as many labels, policy data mixed in beats base data alone",
          "Bai et al. 2204.05862, fig. 16", rounds.c18),
    Claim("C19", 2, "Labels throughout beat labels at the start",
          "Christiano et al. 1706.03741, 3.3", rounds.c19),
    Claim("C20", 2, "offline < periodic < online for their labels; online without a safeguard collapses",
          "Asghari et al. 2603.17378", rounds.c20),
    Claim("C21", 2, "A longer-trained sampler: a reward model worse for a fresh policy",
          "McKinney et al. 2301.03652", rounds.c21),
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A claim with what the table says of it; `finding` is None where it is not measured, and `reason` says why."""

    claim: Claim
    finding: Finding | None
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        return self.finding.verdict if self.finding is not None else "not measured"

    @property
    def numbers(self) -> tuple[float, float, float] | None:
        """Estimate and bounds of the part that decides; None where nothing was measured."""
        part = None if self.finding is None else self.finding.deciding
        return None if part is None else (part.estimate, part.low, part.high)

    @property
    def seeds(self) -> int:
        """The fewest seeds that any part rests on; 0 where nothing was measured."""
        return min((part.seeds for part in self.finding.parts), default=0) if self.finding is not None else 0


def answers(table: pa.Table) -> list[Answer]:
    """What the table says of every claim, in their order."""
    evidence = Evidence(table)
    found = []
    for claim in CLAIMS:
        try:
            found.append(Answer(claim, claim.test(evidence)))
        except NotMeasured as reason:
            found.append(Answer(claim, None, str(reason)))
    return found
