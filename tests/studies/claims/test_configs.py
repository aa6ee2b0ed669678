"""The arms of the studies that claims are tested on, and of the text presets, are arms."""

from __future__ import annotations

import pytest
import yaml

from rlback.studies.arms import library, make_arm
from rlback.studies.claims import curves, rounds, scorers
from tests.conftest import ROOT


def arms_of(name: str) -> set[str]:
    tree = yaml.safe_load((ROOT / "configs" / "studies" / f"{name}.yaml").read_text())
    known, names = dict(library()), set()
    for entry in tree["arms"]:
        arm, keys = (entry, {"like": entry}) if isinstance(entry, str) else next(iter(entry.items()))
        known[arm] = make_arm(arm, keys, known, name)
        names.add(arm)
    return names


@pytest.mark.parametrize("name", ["claims", "claims-settings", "text-smoke", "text-standard"])
def test_every_arm_can_be_made(name: str) -> None:
    assert len(arms_of(name)) > 5


def test_the_claims_find_their_arms() -> None:
    main, others = arms_of("claims"), arms_of("claims-settings")
    wanted = {*curves.DATA, *curves.PENALTIES, *(f"bon-{n}" for n in curves.BEST_OF), "vanilla"}
    wanted |= {f"dpo-beta-{b}" for b in scorers.DPO_BETAS} | {f"reach-{k}" for k in rounds.REACH}
    wanted |= {f"vanilla{how}{w}" for how in ("", "-wco", "-uwo") for w in scorers.WEIGHTS}
    wanted |= {f"relearn-{k}" for k in rounds.SAMPLERS}
    assert wanted <= main
    assert {f"bon-{how}-{n}" for how in ("mean", "wco", "uwo") for n in scorers.ENSEMBLE_BEST_OF} <= others
