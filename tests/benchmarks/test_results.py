"""Medians, what may stand side by side in results.json, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.__main__ import DOCUMENT, RESULTS
from rlback.errors import ConfigError, DataError


def measured(**changes: Any) -> dict[str, Any]:
    """Results of a reward benchmark in which ours takes 2 s, the peer 3 s and the floor 1 s."""
    sides = {name: {"variant": "fp32", "turns": [[s]]} for name, s in (("ours", 2.0), ("peer", 3.0), ("floor", 1.0))}
    base = {
        "cpu": {"model": "M", "cores": 2}, "versions": {"torch": "2", "trl": "1"}, "threads": 1, "commit": "a" * 40,
        "reward_vs_trl": 1.5, "reward_vs_floor": 0.5, "samples": {"reward": sides},
        "commits": {"reward_vs_trl": "a" * 40, "reward_vs_floor": "a" * 40},
    }  # fmt: skip
    return {**base, **changes}


def test_median_of_ratios_by_hand() -> None:
    """Turns 3/1, 4/2 and 10/1 (medians of the steps of each) have the ratios 3, 2 and 10: the median is 3."""
    peer, ours = [[3.0, 3.0, 9.0], [4.0], [10.0]], [[1.0, 1.0, 0.5], [2.0], [1.0]]
    assert results.median_of_ratios(peer, ours) == 3.0


def test_a_slow_spell_of_the_machine_does_not_move_the_ratio() -> None:
    """Where the middle turn of both sides takes ten times as long, every ratio stays 2, although no median does."""
    assert results.median_of_ratios([[2.0], [20.0], [2.2]], [[1.0], [10.0], [1.1]]) == pytest.approx(2.0)


@pytest.mark.parametrize(("above", "below"), [([], []), ([[1.0]], [[1.0], [2.0]])])
def test_turns_that_cannot_be_paired_are_refused(above: list[list[float]], below: list[list[float]]) -> None:
    """No turns, or other numbers of them on the two sides, give no ratio."""
    with pytest.raises(DataError):
        results.median_of_ratios(above, below)


def test_figures_name_peer_and_shape() -> None:
    """Generation is compared with hf, the others with trl; only the small shape's keys have no suffix."""
    turns = {"ours": [[2.0]], "peer": [[3.0]], "floor": [[1.0]]}
    assert results.figures("generate", "small", turns) == {"generate_vs_hf": 1.5, "generate_vs_floor": 0.5}
    second = turns | {"onednn_floor": [[0.5]]}
    assert results.figures("rloo", "25m", second) == {
        "rloo_vs_trl_25m": 1.5, "rloo_vs_floor_25m": 0.5, "rloo_vs_onednn_floor_25m": 0.25,
    }  # fmt: skip


def test_merging_keeps_other_figures_and_their_commits() -> None:
    """A figure measured again replaces its own only, and each keeps the commit at which it was measured."""
    new = measured(commit="b" * 40, samples={"help": {}}, help_seconds=0.3, commits={"help_seconds": "b" * 40})
    for key in ("reward_vs_trl", "reward_vs_floor"):
        del new[key]
    merged = results.merge(measured(), new, "results.json")
    assert (merged["reward_vs_trl"], merged["help_seconds"], merged["commit"]) == (1.5, 0.3, "b" * 40)
    assert merged["commits"] == {"reward_vs_trl": "a" * 40, "reward_vs_floor": "a" * 40, "help_seconds": "b" * 40}
    assert set(merged["samples"]) == {"reward", "help"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cpu": {"model": "N", "cores": 2}}, "model M, now N"),
        ({"versions": {"torch": "2", "trl": "2"}}, "trl 1, now 2"),
        ({"threads": 2}, "1, now 2"),
    ],
)
def test_other_circumstances_are_refused_and_named(changes: dict[str, Any], named: str) -> None:
    """Figures of another processor, version or number of threads do not join; the message says what differs."""
    with pytest.raises(ConfigError, match=named):
        results.merge(measured(), measured(**changes), "results.json")


def test_without_earlier_results_there_is_nothing_to_refuse() -> None:
    """The first measurement is taken as it is."""
    assert results.merge(None, measured(), "results.json") == measured()


def test_a_write_leaves_a_whole_file_and_no_other(tmp_path: Path) -> None:
    """The file is replaced by rename; what is read is what was written."""
    path = tmp_path / "results.json"
    results.write(path, {"old": 1})
    results.write(path, measured())
    assert results.read(path) == measured()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_results_is_refused(tmp_path: Path) -> None:
    """Neither torn JSON nor a list is taken for results; a missing file is no error."""
    path = tmp_path / "results.json"
    assert results.read(path) is None
    for text in ("{", "[]"):
        path.write_text(text)
        with pytest.raises(DataError):
            results.read(path)


def test_the_table_says_what_was_measured() -> None:
    """One line for the workload with its seconds and ratios, and the circumstances below."""
    text = results.table(measured())
    assert "| reward | small | 2 | 3 | 1 | **1.50** | 0.50 | - | fp32, fp32 |" in text
    assert "M (2 cores), 1 thread; torch 2, trl 1; commit aaaaaaaaaaaa." in text
    assert "rloo" not in text


def test_the_table_is_put_between_its_marks_only() -> None:
    """What stands around the marks stays; putting the table in twice is putting it in once."""
    text = f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n"
    once = results.into_document(text, measured())
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert results.into_document(once, measured()) == once
    with pytest.raises(DataError):
        results.into_document("no marks", measured())


def test_the_documents_figures_are_those_of_the_results() -> None:
    """docs/benchmarks.md shows the table of benchmarks/results.json, or none where nothing was measured yet."""
    text = DOCUMENT.read_text(encoding="utf-8")
    content = results.read(RESULTS)
    if content is None:
        shown = text.partition(results.BEGIN)[2].partition(results.END)[0]
        assert shown
        assert "|" not in shown
    else:
        assert results.into_document(text, content) == text
