"""Each claim on hand-made tables: confirmed where it is true, rejected where it is false, silent where nothing is there."""

from __future__ import annotations

import numpy as np
import pytest

from rlback.studies.claims import curves, rounds, scorers
from rlback.studies.claims.catalogue import CLAIMS, answers
from rlback.studies.claims.evidence import Evidence
from tests.studies.claims.making import Rows

D = np.linspace(0.1, 4, 30)


def rl_form(d: np.ndarray, alpha: float = 1.0, beta: float = 0.8) -> np.ndarray:
    return d * (alpha - beta * np.log(d))


def bon_form(d: np.ndarray) -> np.ndarray:
    return d * (1.5 - 0.6 * d)


def add_bon(rows: Rows, gold=bon_form, scale: float = 0.5) -> None:
    for i, n in enumerate(curves.BEST_OF):
        d = scale * (i + 1) / 2
        rows.ends("main", f"bon-{n}", [{"gold": float(gold(np.array([d]))[0]), "kl": d**2, "proxy_standardised": d}])


def test_c1_rise_and_fall() -> None:
    hump, rise = Rows(), Rows()
    hump.path("main", "vanilla", D, gold=rl_form, proxy_standardised=lambda d: d)
    rise.path("main", "vanilla", D, gold=lambda d: d, proxy_standardised=lambda d: d)
    fall = Rows()
    fall.path("main", "vanilla", D, gold=lambda d: -d, proxy_standardised=lambda d: d)
    assert curves.c01(Evidence(hump.table())).verdict == "holds"
    assert curves.c01(Evidence(rise.table())).verdict in ("fails", "inconclusive")
    assert curves.c01(Evidence(fall.table())).verdict == "fails"


def test_c2_and_c3_tell_the_forms_and_the_distances() -> None:
    rows = Rows()
    rows.path("main", "vanilla", D, gold=rl_form, proxy_standardised=lambda d: d)
    add_bon(rows)
    assert curves.c02(Evidence(rows.table())).verdict == "holds"
    swapped = Rows()
    swapped.path("main", "vanilla", np.linspace(0.1, 2.4, 30), gold=bon_form, proxy_standardised=lambda d: d)
    add_bon(swapped, gold=rl_form)
    assert curves.c02(Evidence(swapped.table())).verdict == "fails"
    thrifty = Rows()
    thrifty.path("main", "vanilla", D, gold=lambda d: 3 * d, proxy_standardised=lambda d: d)
    add_bon(thrifty)
    assert curves.c03(Evidence(thrifty.table())).verdict == "fails"
    wasteful = Rows()
    wasteful.path("main", "vanilla", D, gold=lambda d: 0.4 * d, proxy_standardised=lambda d: d)
    add_bon(wasteful)
    assert curves.c03(Evidence(wasteful.table())).verdict == "holds"


@pytest.mark.parametrize(("betas", "verdict"), [((0.9, 0.7, 0.5), "holds"), ((0.5, 0.7, 0.9), "fails")])
def test_c5_size(betas: tuple[float, ...], verdict: str) -> None:
    rows = Rows()
    for setting, beta in zip(curves.SIZES, betas, strict=True):
        rows.path(setting, "vanilla", D, gold=lambda d, b=beta: rl_form(d, beta=b), proxy_standardised=lambda d: d)
    assert curves.c05(Evidence(rows.table())).verdict == verdict


@pytest.mark.parametrize(("off", "verdict"), [(0.0, "inconclusive"), (-0.8, "fails")])
def test_c8_frontier(off: float, verdict: str) -> None:
    """On the frontier with an equal gap the last part is open; well below the frontier the claim fails."""
    rows = Rows()
    rows.path("main", "vanilla", D, gold=rl_form, proxy_standardised=lambda d: d)
    for i, arm in enumerate(curves.PENALTIES):
        near = D[: 28 - 4 * i]
        rows.path("main", arm, near, gold=lambda d: rl_form(d) + off, proxy_standardised=lambda d: d + off)
    assert curves.c08(Evidence(rows.table())).verdict == verdict


def test_c9_ensembles_under_noise() -> None:
    def table(wco_end: float):
        rows = Rows()
        for how, golds in (("mean", (1, 1.2, 1, 0.5)), ("wco", (1, 1.2, 1.3, wco_end)), ("uwo", (1, 1.2, 1.3, 1.35))):
            for n, gold in zip(scorers.ENSEMBLE_BEST_OF, golds, strict=True):
                rows.ends("noise-25", f"bon-{how}-{n}", [{"gold": gold}])
        return Evidence(rows.table())

    assert scorers.c09(table(1.35)).verdict == "holds"
    assert scorers.c09(table(0.9)).verdict == "fails"


def test_c12_hump_over_beta() -> None:
    def table(low_end: float):
        rows = Rows()
        for i, b in enumerate(scorers.DPO_BETAS):
            peak = 1.0 - 0.2 * abs(i - 2)
            rows.path("main", f"dpo-beta-{b}", D, gold=lambda d, p=peak, i=i: np.where(d < 2, p, p if i else low_end))
        return Evidence(rows.table())

    assert scorers.c12(table(-0.5)).verdict == "holds"
    assert scorers.c12(table(1.5)).verdict == "fails"


@pytest.mark.parametrize(
    ("lead", "classifies", "verdict"), [(0.3, 0.1, "holds"), (-0.3, 0.1, "fails"), (0.3, -0.1, "fails")]
)
def test_c13_at_equal_distance(lead: float, classifies: float, verdict: str) -> None:
    """Offline orders 0.6 of the base pairs at every distance, online less or more."""
    rows = Rows()
    rows.path("main", "dpo-offline-all", D, gold=lambda d: 0.5 * d, accuracy_implicit=lambda d: 0.6 + 0 * d)
    ends = [{"gold": 0.5 * r + lead, "kl": float(r**2), "accuracy_implicit": 0.6 - classifies} for r in (1, 2, 3)]
    rows.ends("main", "dpo-online-all", ends)
    assert scorers.c13(Evidence(rows.table())).verdict == verdict


def test_c14_gaps_and_gains() -> None:
    def table(golds, gaps):
        rows = Rows()
        ends = [{"gold": g, "proxy_standardised": g + p} for g, p in zip(golds, gaps, strict=True)]
        rows.ends("main", "from-base-segment", ends)
        return Evidence(rows.table())

    # The noise of a round's gold is in its gap too; steps of 0.1 are ten of its errors.
    assert rounds.c14(table((1, 1.5, 1.8, 1.9), (1, 0.8, 0.6, 0.4))).verdict == "holds"
    assert rounds.c14(table((1, 1.1, 1.3, 1.8), (1, 0.8, 0.6, 0.4))).verdict == "fails"
    assert rounds.c14(table((1, 1.5, 1.8, 1.9), (0.4, 0.6, 0.8, 1))).verdict == "fails"


def test_c15_orders() -> None:
    def table(liti: float):
        rows = Rows()
        golds = {"from-base": 2, "from-base-data-last": 1, "from-base-data-sampled": 1.5, "liti-0.5": liti, "take-last": 1}
        for arm, gold in golds.items():
            rows.ends("main", arm, [{"gold": gold}])
        return Evidence(rows.table())

    assert rounds.c15(table(1.5)).verdict == "holds"
    assert rounds.c15(table(2.5)).verdict == "fails"


def test_c16_twins() -> None:
    def table(on: float, same: bool = True):
        rows = Rows()
        rows.path("main", "overrun-take-last", D, gold=rl_form)
        rows.path("main", "overrun-back", D, gold=lambda d: rl_form(d) + (0 if same else 0.1))
        for arm, gold in (("overrun-take-last", on), ("overrun-back", 1.0)):
            for seed in range(8):
                for r in (2, 3):
                    rows.add("main", arm, seed, "kept", round=r, gold=gold + 0.01 * seed)
        return Evidence(rows.table())

    assert rounds.c16(table(0.2)).verdict == "holds"
    assert rounds.c16(table(1.5)).verdict == "fails"
    unequal = next(a for a in answers(table(0.2, same=False).table) if a.claim.name == "C16")
    assert "same policy" in unequal.reason


def test_c19_asks_for_equal_labels() -> None:
    def answer(labels: int, gold: float):
        rows = Rows()
        for arm, g, n in (("take-last", 1.0, 600), ("vanilla-up-front", gold, labels)):
            rows.ends("main", arm, [{"gold": g, "labels": n, "labels_reward": n}])
        return next(a for a in answers(rows.table()) if a.claim.name == "C19")

    assert answer(600, 0.5).verdict == "holds"
    assert answer(600, 1.5).verdict == "fails"
    assert "labels differ" in answer(60, 0.5).reason


def test_an_empty_study_measures_nothing_and_says_why() -> None:
    rows = Rows()
    rows.ends("main", "something", [{"gold": 1.0}])
    found = answers(rows.table())
    assert [a.claim.name for a in found] == [f"C{i}" for i in range(1, 22)]
    assert {a.verdict for a in found} == {"not measured"}
    assert all("no run of arm" in a.reason or "fewer than" in a.reason or "arms bon-n" in a.reason for a in found)
    assert {c.tier for c in CLAIMS} == {1, 2}
