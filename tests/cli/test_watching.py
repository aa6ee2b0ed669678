"""What is said about a stage while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlback.campaign.plan import Step
from rlback.campaign.progress import ProgressFile, read_progress
from rlback.cli import watching
from rlback.cli.watching import describe, time_left
from rlback.config import check_config
from tests.conftest import changed


def state(**changes: object) -> dict[str, object]:
    common = {"round": 1, "rounds": 3, "stage": "optimise", "metrics": {}, "done": 0, "total": 0, "paced": None, "written": 0.0}
    return common | changes


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (state(), ""),
        (state(done=40, total=40, paced=[0.0, 1]), ""),
        (state(done=1, total=40, paced=[7.0, 1], written=7.0), ", step 1 of 40"),
        # Ten steps in ten seconds, 29 to go; the hundred seconds before the first step say nothing about them.
        (state(done=11, total=40, paced=[100.0, 1], written=110.0), ", step 11 of 40, about 29 s left"),
        # Taken up at step 30: its ten steps, not forty, took the ten seconds.
        (state(done=40, total=400, paced=[0.0, 30], written=10.0), ", step 40 of 400, about 6 min left"),
    ],
)
def test_time_left_is_taken_from_the_pace_since_the_first_step(found, said):
    assert time_left(found) == said
    assert describe(found) == f"round 1/3: optimising the policy{said}"


def test_the_pace_is_counted_from_the_first_step_that_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr("rlback.campaign.progress.time.time", lambda: now[0])
    file = ProgressFile(tmp_path / "p.json", check_config(changed(), "here"), Step(0, "base"))
    assert read_progress(tmp_path / "p.json")["paced"] is None
    now[0] = 1060.0
    file.report(5, 12, {})
    now[0] = 1066.0
    file.report(12, 12, {})
    assert read_progress(tmp_path / "p.json")["paced"] == [1060.0, 5]


def test_what_follows_a_stages_steps_is_named_and_paced_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The fit took a hundred seconds a step; what it says of the pairs scored after it is their own pace."""
    now = [1000.0]
    monkeypatch.setattr("rlback.campaign.progress.time.time", lambda: now[0])
    file = ProgressFile(tmp_path / "p.json", check_config(changed(), "here"), Step(0, "fit_reward"))
    file.report(1, 2, {})
    now[0] = 1100.0
    file.report(2, 2, {})
    report = file.part("scoring held-out pairs")
    assert describe(read_progress(tmp_path / "p.json")) == "scoring held-out pairs"
    report(100, 300, {})
    now[0] = 1110.0
    file._last = 0.0
    report(200, 300, {})
    found = read_progress(tmp_path / "p.json")
    assert describe(found) == "scoring held-out pairs, 200 of 300, about 10 s left"
    # The bar does not go back.
    assert watching.share_done(found) >= watching.share_done(found | {"part": None, "done": 2, "total": 2})


def test_without_a_terminal_a_stage_that_lasts_is_heard_of_again(tmp_path: Path, monkeypatch, capsys):
    """One line as a stage begins, then one each time LINE_EVERY_S has passed; none for a stage that has not begun."""

    class Project:
        state = tmp_path

    (tmp_path / "progress").mkdir()
    seen = iter([state(), state(), state(done=1, total=9, paced=[0.0, 1]), state(done=2, total=9, paced=[0.0, 1], written=4.0)])
    clock = iter([0.0, 40.0, 41.0, 42.0])
    monkeypatch.setattr(watching, "read_progress", lambda path: next(seen))
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(clock))

    class Ended:
        waits = iter([False, False, False, True])

        def wait(self, seconds: float) -> bool:
            return next(self.waits)

    watching._lines(Project(), ["c"], Ended())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("round 1/3: optimising the policy")
    assert lines[1].endswith("step 1 of 9")
