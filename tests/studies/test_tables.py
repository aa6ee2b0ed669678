"""Tables of a study against figures worked by hand, and against exact values of the bandit."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from rlback.errors import ConfigError
from rlback.studies import units
from rlback.studies.config import check_study
from rlback.studies.pictures import COLOURS, drawn_arms
from rlback.studies.showing import chosen
from rlback.studies.tables import TABLES, contrasts, read
from rlback.studies.tables_attribution import attribution
from rlback.studies.tables_curves import bends, refreshes
from rlback.studies.tables_equal import equal_cost
from rlback.studies.tables_falls import falls
from rlback.studies.tables_gates import approvals, gate_errors
from rlback.studies.tables_signals import early_signals
from rlback.studies.tables_tax import decomposition, iso_exposure
from rlback.worlds.bandit import policies
from tests.studies.rows import attempt, made
from tests.studies.test_machine import TREE, study_of

GATED = {"a": {"gate": {"by": "person"}, "exhausted": "stop", "refresh": True, "attempts": 4}}
ASKED = {"a": {"gate": {"by": "approver", "noise": 0.25}, "exhausted": "stop", "refresh": False, "attempts": 2}}


def base(*seeds: int, **more):
    return [{"seed": seed} | more for seed in seeds]


#: Two seeds. 0: better yes, worse yes, better no. 1: worse no, diverged no, better yes.
DECIDED = [
    *base(0, 1),
    *attempt(0, 1, 1, 1, 1.0, 1.0), *attempt(0, 2, 1, 2, 0.5, 0.5), *attempt(0, 3, 1, 3, 0.9, 0.5),
    *attempt(1, 1, 1, 1, -1.0, 0.0), *attempt(1, 1, 2, 2, 9.0, 0.0, status="diverged"), *attempt(1, 1, 3, 3, 0.4, 0.4),
]  # fmt: skip


def test_a_gate_s_errors_are_counted_against_gold():
    """Worse: .5 after 1, -1 after 0, and the diverged one whatever its gold; one of the three was approved."""
    (row,) = gate_errors(made(DECIDED, GATED)).rows
    assert (row["decisions"], row["worse"], row["approved"], row["diverged"]) == (6, 0.5, 0.5, 1)
    assert row["false approvals"] == pytest.approx(1 / 3)
    assert row["false declines"] == pytest.approx(1 / 3)
    assert row["wrong"] == pytest.approx(2 / 6)
    assert (row["labels a decision"], row["labels an approval"]) == (5, 10)


def test_an_arm_that_goes_back_further_or_has_no_gate_is_not_judged():
    for change in ({"exhausted": "back"}, {"gate": {"by": "always"}}):
        assert gate_errors(made(DECIDED, {"a": GATED["a"] | change})).rows == []


def test_asking_again_is_told_by_checkpoint():
    """Four checkpoints begun (three by seed 0, one by seed 1), three approvals, one of them of something worse."""
    rows = [row | {"win_rate": 0.8, "win_true": 0.7} for row in DECIDED]
    (row,) = approvals(made(rows, ASKED)).rows
    assert (row["checkpoints"], row["approved"], row["falsely"]) == (4, 3 / 4, 1 / 4)
    assert (row["falsely at once"], row["falsely later"]) == (1 / 4, 0)
    assert row["false of approved"] == pytest.approx(1 / 3)
    assert row["gold change"] == pytest.approx((1.0 - 0.5 + 0.4) / 3)
    # Who takes a quarter of the looks the wrong way sees .7 as .6.
    assert row["overstated by"] == pytest.approx(0.8 - 0.6)
    # First attempts: one good yes, one bad yes, two no: 1/4 each, and twice as many chances but for the half decided.
    assert row["if independent"] == pytest.approx(1 / 4 + 1 / 2 * 1 / 4)


def test_the_primary_arm_is_set_against_every_other_one_by_seed():
    """Ahead by 0.5 in every seed, with 0.25 of MX_sign less; MX_flow is in one arm alone, and vanilla has not both seeds."""
    mine = {"arm": "rollback-until-approved", "mx_sign_kept": 0.25, "mx_flow_kept": 0.1}
    rows = [mine | {"seed": seed, "gold": 1.0 + seed} for seed in (0, 1)]
    rows += [{"arm": "take-last", "seed": seed, "gold": 0.5 + seed, "mx_sign_kept": 0.5} for seed in (0, 1)]
    rows += [{"arm": "vanilla", "seed": 0, "gold": 9.0}]
    (row,) = contrasts(made(rows)).rows
    assert (row["less"], row["seeds"], row["final gold"], row["mx_sign_kept"]) == ("take-last", 2, 0.5, -0.25)
    assert (row["final gold low"], row["final gold high"]) == (0.5, 0.5)
    assert "mx_flow_kept" not in row


def test_the_middle_of_each_arm_is_another_statistic_than_the_middle_of_differences():
    """Gold 0, 1, 2, 9. Against 9, 2, 1, 0 both middle halves have the mean 1.5, that of the differences -9, -1, 1, 9 has 0.
    Against 0, 0, 0, 9 the middle halves have 1.5 and 0, that of the differences 0, 1, 2, 0 has 0.5."""
    rows = [{"arm": "rollback-until-approved", "seed": seed, "gold": gold} for seed, gold in enumerate((0.0, 1.0, 2.0, 9.0))]
    rows += [{"arm": "take-last", "seed": seed, "gold": gold} for seed, gold in enumerate((9.0, 2.0, 1.0, 0.0))]
    rows += [{"arm": "vanilla", "seed": seed, "gold": gold} for seed, gold in enumerate((0.0, 0.0, 0.0, 9.0))]
    found = {row["less"]: (row["final gold"], row["gold apart"]) for row in contrasts(made(rows)).rows}
    assert found == {"take-last": (0.0, 0.0), "vanilla": (0.5, 1.5)}


def test_a_fall_that_is_kept_is_counted_and_so_is_one_that_was_mended():
    """Seed 0 falls twice and gets out of it once; seed 1 keeps nothing fallen, though a candidate was."""
    rows = base(0, 1, arm="take-last")
    for turn, gold in enumerate((-1.0, 0.5, -2.0), 1):
        rows += attempt(0, turn, 1, turn, gold, gold, arm="take-last")
    rows += attempt(1, 1, 1, 1, 1.0, 1.0, arm="take-last") + attempt(1, 2, 1, 2, -3.0, 1.0, arm="take-last")
    (row,) = falls(made(rows)).rows
    assert (row["kept"], row["fallen"], row["at the end"], row["lowest kept"]) == (4, 2, 1, -2)
    assert (row["with a round after"], row["mended in it"]) == (1, 1)
    assert (row["candidates"], row["candidates fallen"]) == (5, 3)
    assert (row["runs"], row["runs with one"], row["declined"], row["fallen declined"]) == (2, 1, 1, 1)
    assert "p" not in row  # nothing to compare with: the primary arm is not there


def test_runs_that_kept_a_fall_are_compared_with_the_primary_arm_s():
    """Three of three against none of three: 2 of the 20 ways to choose three of six runs are as uneven."""
    rows = [*base(0, 1, 2, arm="take-last"), *base(0, 1, 2, arm="rollback-until-approved")]
    for seed in range(3):
        rows += attempt(seed, 1, 1, 1, -1.0, -1.0, arm="take-last")
        rows += attempt(seed, 1, 1, 1, 1.0, 1.0, arm="rollback-until-approved")
    found = {row["arm"]: row for row in falls(made(rows)).rows}
    assert found["take-last"]["p"] == pytest.approx(2 / 20)
    assert math.isnan(found["rollback-until-approved"]["p"])


def test_taxes_are_taken_against_the_arms_that_are_named():
    """Another arm than the study's references, by name; one that was not run is named with the nearest."""
    rows = runs("rollback-until-approved", per_attempt=6, gate=2, declined=2) + runs("gold", per_attempt=1, gate=0, declined=0)
    rows += runs("take-last-more", per_attempt=4, gate=0, declined=0)
    results = made(rows)
    table = pa.Table.from_pandas(results.frame)
    assert "ert tax take-last-more" not in TABLES["tax_labels"](read(table, results.keys)).rows[0]
    mine = next(
        row for row in TABLES["tax_labels"](read(table, results.keys, against=["take-last-more"])).rows
        if row["arm"] == "rollback-until-approved"
    )  # fmt: skip
    assert mine["ert tax take-last-more"] == pytest.approx(24 / 4)
    with pytest.raises(ConfigError, match="there is no arm 'take-last-mor'") as refused:
        read(table, results.keys, against=["take-last-mor"])
    assert "`take-last-more`" in str(refused.value.remedy)




def test_at_equal_cost_what_came_later_does_not_count():
    """Rollback has 0.4 after 15 labels and 2.0 after 30, take-last 0.5 after its 20: at 20 labels rollback is 0.1 behind."""
    rows = [*base(0, 1, arm="rollback-until-approved"), *base(0, 1, arm="take-last")]
    for seed in (0, 1):
        rows += attempt(seed, 1, 1, 1, 0.4, 0.4, arm="rollback-until-approved")
        rows += attempt(seed, 2, 1, 2, 2.0, 2.0, arm="rollback-until-approved")
        rows += attempt(seed, 1, 1, 1, 0.5, 0.5, arm="take-last", labels=20, updates=8)
    labels, updates = equal_cost(made(rows)).rows
    assert (labels["at equal"], labels["mean"], labels["holds"], labels["theirs"]) == ("labels", 20, 0.4, 0.5)
    assert labels["minus"] == pytest.approx(-0.1)
    assert (updates["at equal"], updates["mean"], updates["minus"]) == ("updates", 8, 1.5)


def test_the_lead_on_the_way_is_an_area_over_log_cost():
    """From 10 labels on both hold something: 1.0 against 0.0, and from 40 of 160 labels on 1.0 against 2.0: half way, in logs."""
    rows = [*base(0, 1, arm="rollback-until-approved"), *base(0, 1, arm="take-last")]
    for seed in (0, 1):
        for turn, (labels, mine, theirs) in enumerate(((10, 1.0, 0.0), (40, 1.0, 2.0), (160, 1.0, 2.0)), 1):
            rows += attempt(seed, turn, 1, turn, mine, mine, arm="rollback-until-approved", labels=labels, labels_reward=labels)
            rows += attempt(seed, turn, 1, turn, theirs, theirs, arm="take-last", labels=labels, labels_reward=labels)
    row = equal_cost(made(rows)).rows[0]
    assert row["minus"] == -1
    assert row["on the way"] == pytest.approx(0.5 * 1 + 0.5 * -1, abs=0.03)


def test_who_ends_without_the_target_is_censored_and_who_gives_up_never_arrives():
    """Take-last arrives after 15 labels and after 45. Rollback arrives in one seed after 30 and ends in the other after 15:
    approved there, it could have gone on, and the curve is known up to 30; declined, it never arrives, and up to 45."""
    for ending, known, tax in (("kept", 30, 30 / 22.5), ("declined", 45, 37.5 / 30)):
        rows = [*base(0, 1, arm="rollback-once"), *base(0, 1, arm="take-last")]
        rows += attempt(0, 1, 1, 1, 1.0, 1.0, arm="take-last") + attempt(1, 1, 1, 3, 1.0, 1.0, arm="take-last")
        rows += attempt(0, 1, 1, 1, 0.5, 0.5, arm="rollback-once", decision=ending)
        rows += attempt(1, 1, 1, 2, 1.0, 1.0, arm="rollback-once")
        found = TABLES["tax_labels"](made(rows, targets=(1.0,), references=("take-last",))).rows
        (row,) = [r for r in found if r["arm"] == "rollback-once"]
        assert (row["arrived"], row["up to, take-last"]) == (1, known)
        assert row["restricted tax take-last"] == pytest.approx(tax)
        # Censored at 15, the arms are alike as long as both are watched.
        assert (row["log-rank p take-last"] == 1) == (ending == "kept")


def runs(arm: str, *, per_attempt: int, gate: int, declined: int, arrives: bool = True):
    """Two like seeds: `declined` attempts for nothing, then one that is kept and has the target."""
    rows = []
    for seed in (0, 1):
        rows += base(seed, arm=arm)
        for n in range(1, declined + 2):
            gold = 1.0 if n == declined + 1 and arrives else 0.0
            spent = {"labels_reward": per_attempt * n, "labels_gate": gate * n, "labels": (per_attempt + gate) * n}
            rows += attempt(seed, 1, n, n, gold or -1.0, gold, arm=arm, **spent)
    return rows


def test_time_is_a_cost_like_labels():
    """The target is reached after 6 seconds by one arm and after 2 by the other, in both seeds."""
    rows = [*base(0, 1, arm="rollback-once", seconds=0.0), *base(0, 1, arm="take-last", seconds=0.0)]
    for seed in (0, 1):
        rows += attempt(seed, 1, 1, 1, 1.0, 1.0, arm="rollback-once", seconds=6.0)
        rows += attempt(seed, 1, 1, 1, 1.0, 1.0, arm="take-last", seconds=2.0)
    found = TABLES["tax_seconds"](made(rows, targets=(0.75,), references=("take-last",))).rows
    (row,) = [r for r in found if r["arm"] == "rollback-once"]
    assert (row["ert"], row["ert tax take-last"]) == (6, pytest.approx(3))


def test_the_label_tax_is_the_sum_of_its_parts():
    """6 labels and 2 at the gate, two of three attempts declined, against 4 labels, no gate and no decline: 24 against 4."""
    rows = [*runs("slow", per_attempt=6, gate=2, declined=2), *runs("take-last", per_attempt=4, gate=0, declined=0)]
    found = decomposition(made(rows, targets=(0.75,), references=("take-last",))).rows
    (row,) = [r for r in found if r["arm"] == "slow"]
    assert row["tax"] == pytest.approx(math.log(24 / 4))
    assert row["labels an attempt"] == pytest.approx(math.log(6 / 4))
    assert row["attempts a commit"] == pytest.approx(math.log(3))
    assert row["commits an arrival"] == pytest.approx(0)
    assert row["gate"] == pytest.approx(math.log(8 / 6))


def test_a_method_that_never_arrives_has_no_parts():
    never = runs("never", per_attempt=6, gate=2, declined=2, arrives=False)
    rows = [*never, *runs("take-last", per_attempt=4, gate=0, declined=0)]
    assert [r["arm"] for r in decomposition(made(rows, targets=(0.75,), references=("take-last",))).rows] == []


def test_what_was_paid_for_wrongly_does_not_arrive_at_equal_exposure():
    """Seed 1 of the dirty arm has the target only by updates beyond the ceiling: it is censored at what it spent."""
    rows = [row | {"mx_sign_kept": 0.1} for row in runs("take-last", per_attempt=4, gate=0, declined=0)]
    for row in runs("dirty", per_attempt=4, gate=0, declined=0):
        rows.append(row | {"mx_sign_kept": 0.4 if row["seed"] == 1 and row.get("updates") else 0.1})
    found = iso_exposure(made(rows, targets=(0.75,), references=("take-last",), ceiling=0.2)).rows
    (row,) = [r for r in found if r["arm"] == "dirty" and r["cost"] == "labels"]
    assert (row["arrived"], row["without the ceiling"]) == (1, 2)
    assert row["ert"] == 8
    assert row["tax take-last"] == pytest.approx(2)


def curve(seed: int, gold, arm: str = "vanilla", round_: int = 1, **more):
    d = np.linspace(0.3, 3, 20)
    return [
        {"seed": seed, "arm": arm, "round": round_, "attempt": 1, "step": i, "updates": i + 100 * round_, "point": "step",
         "kl": x * x, "gold": float(g)} | more
        for i, (x, g) in enumerate(zip(d, gold(d), strict=True), 1)
    ]  # fmt: skip


def test_a_form_that_made_the_curve_predicts_what_lies_beyond():
    """Drawn from d (2 - d), whose peak is at 1, with 1 % of noise; a diverged stretch is no part of the curve."""
    rng = np.random.default_rng(0)
    rows = [*base(0, 1, arm="vanilla")]
    for seed in (0, 1):
        rows += curve(seed, lambda d: d * (2 - d) + 0.01 * rng.standard_normal(len(d)))
        rows.append({"seed": seed, "arm": "vanilla", "point": "step", "step": 99, "kl": 50.0, "gold": 99.0, "status": "diverged"})
    (row,) = bends(made(rows)).rows
    assert (row["best best_of_n"], row["best beyond best_of_n"], row["interior peaks"]) == (2, 2, 2)
    assert row["median peak d"] == pytest.approx(1, abs=0.02)
    assert row["error best_of_n"] < 0.1 < row["error rl"] < row["error saturating"]


def test_a_policy_that_stands_still_at_its_furthest_has_nothing_to_be_predicted():
    """Half of the points lie at the largest distance, so none lies beyond what the near ones reach; the other seed counts."""
    rows = [*base(0, 1, arm="vanilla"), *curve(0, lambda d: d * (2 - d)), *curve(1, lambda d: d * (2 - d))]
    for row in rows:
        if row["seed"] == 1 and row.get("step", 0) > 10:
            row["kl"] = 9.0
    (row,) = bends(made(rows)).rows
    assert (row["too short"], row["best best_of_n"]) == (1, 1)


def test_each_refresh_s_peak_is_read_off_the_other_seeds():
    """Peaks 1 with one model and 1.5 with two, in like seeds; twice the first one's would be 2."""
    rows = [*base(0, 1, 2, arm="take-last")]
    for seed in (0, 1, 2):
        rows += curve(seed, lambda d: 1 - (d - d[5]) ** 2, "take-last", 1)
        rows += curve(seed, lambda d: 1.5 - (d - d[9]) ** 2, "take-last", 2)
    one, two = refreshes(made(rows)).rows
    assert (one["peak"], two["peak"]) == (pytest.approx(1), pytest.approx(1.5))
    assert (two["gain"], two["less k times the first"]) == (pytest.approx(0.5), pytest.approx(-0.5))


def test_a_signal_that_orders_the_seeds_is_found_and_divergence_is_the_worst_there_is():
    """Spread orders ten seeds by how much gold falls next; the widest one diverges. Accuracy is the same in all."""
    rows = base(*range(10), arm="watched")
    for seed in range(10):
        rows += attempt(seed, 1, 1, 1, 1.0, 1.0, arm="watched", spread=float(seed), tail_index=5.0)
        rows += attempt(seed, 2, 1, 2, 1.0 - 0.1 * seed if seed < 9 else 7.0, 1.0, arm="watched",
                        status="diverged" if seed == 9 else "ok")  # fmt: skip
    results = made(rows)
    results.frame[["accuracy_on_policy", "reward_variance", "proxy_standardised"]] = np.nan
    found = {row["signal"]: row for row in early_signals(results).rows}
    assert list(found) == ["spread"]  # a constant has no rank correlation
    assert found["spread"]["next attempt"] == pytest.approx(-1)
    assert found["spread"]["pairs"] == 10


SWAPS = [
    {f"vanilla-swap-{h}{r}{o}": {
        "like": "vanilla", "score_by": "reward_model" if r else "human", "labels": {"feedback": "none"},
        "swap": {"labels": "human" if h else "gold", "optimiser": "steps" if o else "exact"},
    }}
    for h in (0, 1) for r in (0, 1) for o in (0, 1)
]  # fmt: skip


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    study = study_of(*SWAPS, annotator={"confidence_bias": 2.0})
    out = tmp_path_factory.mktemp("swaps")
    everything = units.units_of(study, out)
    for unit in everything:
        units.run_unit(study, unit, out)
    table = units.collected(everything, out)
    return study, read(table, study.keys.analysis, {name: arm.settings() for name, arm in study.arms.items()}, draws=20)


def test_the_faults_add_up_to_the_gap_from_the_exact_optimum(swapped):
    """The best within the distance of three segments of .4, and the best for what the annotators want, by bisection."""
    study, results = swapped
    bandit = study.learner("plain", study.seeds).bandit
    best = policies.optimum_at_kl(bandit.base, bandit.gold, 1.2**2)
    wanted = policies.optimum_at_kl(bandit.base, bandit.gold + 2.0 * bandit.confidence, 1.2**2)
    exact, human = (policies.value(policy, bandit.gold).mean() for policy in (best, wanted))
    actual = results.kept[(results.kept["arm"] == "vanilla-swap-111") & (results.kept["round"] == 1)]["gold"].mean()
    rows = {row["way"]: row for row in attribution(results).rows}
    for row in rows.values():
        assert row["gap"] == pytest.approx(exact - actual)
        assert row["labeller"] + row["reward model"] + row["optimiser"] == pytest.approx(row["gap"])
    assert rows["telescoping"]["labeller"] == pytest.approx(exact - human)


def test_no_policy_of_the_class_leaves_it(swapped):
    """Whoever optimises what, the distance is at most that of three segments; the exact ones use all of it.

    With a learned reward the greedy policy itself may be nearer: then there is no more to use.
    """
    kept = swapped[1].kept
    ends = kept[kept["round"] == 1].set_index("arm")["kl"]
    assert ends.max() <= 1.2**2 * (1 + 1e-9)
    for arm in ("vanilla-swap-000", "vanilla-swap-100"):
        assert ends[arm].to_numpy() == pytest.approx(1.2**2)


@pytest.mark.parametrize(("what", "near"), [("tables", "refreshes"), ("arms", "vanilla-swap-111")])
def test_what_is_misspelt_is_named_with_the_nearest(swapped, what, near):
    with pytest.raises(ConfigError) as raised:
        chosen(swapped[1], **{what: [near[:-1] + "x"]})
    assert near in (raised.value.remedy or "")


def test_a_setting_s_arms_are_those_it_names(tmp_path):
    tree = {**TREE, "arms": ["take-last", "vanilla"], "settings": {"plain": {}, "few": {"arms": ["vanilla"]}}}
    there = [(u.setting, u.arm) for u in units.units_of(check_study(tree, "x"), tmp_path)]
    assert there == [("plain", "take-last"), ("plain", "vanilla"), ("few", "vanilla")]
    with pytest.raises(ConfigError, match="no arm 'vanila'"):
        check_study({**tree, "settings": {"few": {"arms": ["vanila"]}}}, "x")


def test_a_figure_draws_the_usual_arms_alike_and_a_study_s_own_in_the_free_places():
    lines = drawn_arms(["take-last", "mine", "gold", "other"])
    assert [arm for arm, *_ in lines] == ["mine", "take-last", "other", "gold"]
    assert {arm: colour for arm, colour, _ in lines}["take-last"] == COLOURS[1]
    assert len(drawn_arms([f"arm-{n}" for n in range(40)])) == len(COLOURS)
