"""Labels and updates counted exactly, on hand-worked small arms; chunks and resumed studies give the same rows."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlback.config import read_tree
from rlback.errors import ConfigError, DataError
from rlback.studies import units
from rlback.studies.config import check_study
from rlback.studies.tables import one_origin

TREE: dict[str, Any] = {
    "name": "tiny",
    "seeds": {"first": 7, "count": 3},
    "chunk": 3,
    "world_settings": {"contexts": 2, "actions": 12, "warmth": 1.0, "planted": 1},
    "plan": {"rounds": 3, "segment_steps": 4, "segment_length": 0.4, "every": 2, "initial": 20, "inside": 6, "cross": 4},
    "settings": {"plain": {}},
    "arms": ["take-last"],
}


def study_of(*arms: Any, **changes: Any):
    return check_study({**copy.deepcopy(TREE), "arms": list(arms), **changes}, "tiny.yaml")


def rows(tmp_path: Path, *arms: Any, **changes: Any):
    study = study_of(*arms, **changes)
    everything = units.units_of(study, tmp_path)
    for unit in units.missing(everything):
        units.run_unit(study, unit, tmp_path)
    return units.collected(everything, tmp_path)


def finals(tmp_path: Path, arm: Any):
    frame = rows(tmp_path, arm).to_pandas()
    kept = frame[frame["point"] == "kept"]
    return kept.sort_values(["seed", "updates", "labels"]).groupby("seed").last()


@pytest.mark.parametrize(
    ("arm", "labels", "gate", "updates"),
    [
        ("vanilla", 20, 0, 12),
        ("vanilla-up-front", 20 + 2 * 10, 0, 12),
        ("take-last", 20 + 2 * 10, 0, 12),  # nothing is labelled after the last decision
        ("from-base", 20 + 2 * 10, 0, 4 + 8 + 12),
        ("liti-0.5", 20 + 2 * 10, 0, 4 + 6 + 8),
        ("rollback-once", 20 + 3 * 10, 0, 6 * 4),
        ("ladder-never-back", 20 + 2 * 6 + 3 * 2 * 15, 90, 12),  # two of the four rungs fall on recorded steps
        ("direct", 3 * 12, 0, 12),
        ("gold", 0, 0, 12),
        ("dpo-offline", 20, 0, 12),
        ("best-of-n", 20, 0, 0),
    ],
)
def test_labels_and_updates_are_counted_exactly(tmp_path, arm, labels, gate, updates):
    """Worked by hand from 20 initial, 6 inside and 4 cross labels, 3 rounds of 4 steps."""
    last = finals(tmp_path, arm)
    assert last["labels"].tolist() == [labels] * 3
    assert last["labels_gate"].tolist() == [gate] * 3
    assert last["updates"].tolist() == [updates] * 3


def test_a_gate_that_never_opens_keeps_the_base_policy(tmp_path):
    """Two declined attempts: gate labels of both, training labels after the first only, no gold."""
    arm = {"shut": {"like": "rollback-until-approved", "attempts": 2, "gate": {"threshold": 1.0, "rule": "bound"}}}
    frame = rows(tmp_path, arm).to_pandas()
    last = frame[frame["point"] == "kept"].sort_values(["seed", "updates"]).groupby("seed").last()
    assert last["labels_gate"].tolist() == [8] * 3
    assert last["labels_reward"].tolist() == [20 + 6] * 3
    assert last["updates"].tolist() == [8] * 3
    assert last["gold"].abs().max() < 1e-12
    assert last["mx_sign_kept"].isna().all()
    assert (last["mx_sign_all"] > 0).all()


def test_a_budget_ends_a_run_before_it_is_exceeded(tmp_path):
    arm = {"poor": {"like": "rollback-until-approved", "gate": {"by": "always"}, "budget": {"updates": 9}}}
    assert finals(tmp_path, arm)["updates"].tolist() == [8] * 3


def test_a_diverged_run_is_marked_and_stays(tmp_path):
    frame = rows(tmp_path, "take-last", optimiser={"kl_limit": 0.01}).to_pandas()
    assert set(frame.loc[frame["point"] == "candidate", "status"]) == {"diverged"}
    assert frame["seed"].nunique() == 3


def test_a_seed_does_not_depend_on_its_chunk(tmp_path):
    """The same rows from one chunk of three seeds and three chunks of one."""
    one = rows(tmp_path / "a", "rollback-until-approved", "take-last-wco").drop_columns(["seconds"])
    other = rows(tmp_path / "b", "rollback-until-approved", "take-last-wco", chunk=1).drop_columns(["seconds"])
    # The fit ends when all its seeds are below a tolerance, so a seed may get one step of Newton's more beside others.
    pd.testing.assert_frame_equal(one.to_pandas(), other.to_pandas(), rtol=0, atol=1e-6)


def test_a_random_gate_takes_the_rate_of_another_arm(tmp_path):
    assert rows(tmp_path, "rollback-until-approved", "gate-random").num_rows > 0


def test_a_part_that_was_cut_short_is_computed_again(tmp_path):
    study = study_of("take-last", "vanilla")
    everything = units.units_of(study, tmp_path)
    for unit in everything:
        units.run_unit(study, unit, tmp_path)
    everything[0].part.write_bytes(everything[0].part.read_bytes()[:100])
    assert units.missing(everything) == [everything[0]]


@pytest.mark.parametrize(
    ("changes", "message", "remedy"),
    [
        ({"arms": ["take-lats"]}, "no arm 'take-lats'", "take-last"),
        ({"arms": [{"x": {"like": "take-last", "refesh": False}}]}, "unknown key `refesh`", "refresh"),
        ({"world": "bandti"}, "no world 'bandti'", "bandit"),
        ({"sedes": 3}, "unknown key `sedes`", "seeds"),
        ({"world_settings": {"warmht": 1.0}}, "unknown key `warmht`", "warmth"),
        ({"arms": ["gate-random"]}, "no arm 'rollback-until-approved'", ""),
    ],
)
def test_what_is_misspelt_is_named_with_the_nearest(changes, message, remedy):
    with pytest.raises(ConfigError) as raised:
        check_study({**copy.deepcopy(TREE), **changes}, "tiny.yaml")
    assert message in raised.value.message
    assert remedy in (raised.value.remedy or "")


def test_mixed_configurations_and_revisions_are_refused(tmp_path):
    import pyarrow as pa

    one = rows(tmp_path, "take-last")
    other = rows(tmp_path, "take-last", optimiser={"noise": 0.0})
    with pytest.raises(DataError, match="two configurations of arm take-last"):
        one_origin(pa.concat_tables([one, other]))
    place = one.column_names.index("code_revision")
    moved = one.set_column(place, one.schema.field("code_revision"), pa.array(["else"] * one.num_rows))
    with pytest.raises(DataError, match="2 code revisions"):
        one_origin(pa.concat_tables([one, moved]))


def test_a_pipe_in_place_of_a_study_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "study.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_tree(tmp_path / "study.yaml", "study", "configs/studies/")
