"""The load test of the label page, small: several people at once against a real console, nothing lost or doubled."""

from __future__ import annotations

import pytest

from benchmarks.labelling import run


@pytest.mark.slow
def test_every_acknowledged_label_is_there_once(tmp_path, monkeypatch):
    """Eight annotators without a pause, a few seconds; how long an answer takes is for `make soak` to say."""
    monkeypatch.delenv("RLBACK_PROJECT", raising=False)
    found = run(tmp_path / "p", annotators=8, seconds=4.0, pause=0.0, comparisons=400)
    assert found.labels > 8
    # Without a pause somebody may be asked to slow down, on a fast machine; nothing else may be refused.
    refused = [what for what in found.refused if not what.endswith(" 429")]
    assert (found.lost, found.doubled, found.unknown, refused) == (0, 0, 0, [])
