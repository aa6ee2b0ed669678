"""Learning curves of two precisions side by side."""

from __future__ import annotations

import pytest

from benchmarks.curves import InFirstEighth, compared


def test_a_gap_beyond_the_spread_of_seeds_is_told_from_one_within_it() -> None:
    """Four stretches of one step: equal but for seed noise, equal, and twice 0.5 apart in three seeds that hardly vary."""
    fp32 = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.3, 0.4], [0.3, 0.2, 0.3, 0.4]]
    bf16 = [[0.2, 0.2, 0.8, 0.9], [0.1, 0.2, 0.81, 0.9], [0.3, 0.2, 0.79, 0.91]]
    rows = compared({"fp32": fp32, "bf16": bf16})
    assert [row["inside"] for row in rows] == [True, True, False, False]
    assert rows[2]["difference"] == pytest.approx(0.5)
    assert rows[0]["fp32_sd"] == pytest.approx(0.1)
    assert rows[0]["steps"] == "1 to 1"


def test_a_completion_is_worth_the_share_of_its_early_words() -> None:
    assert InFirstEighth(8).score([[1], [1], [1]], [[0, 7, 8, 9], [1], []]).tolist() == [0.5, 1.0, 0.0]
