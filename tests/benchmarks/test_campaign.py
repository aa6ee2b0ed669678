"""How the share of a campaign outside model work is taken: from the campaign's own imports, all of its callers timed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.campaign import INSIDE, OUTSIDE
from benchmarks.profiling import Stopwatch, wrapped, wrapped_when_imported


@pytest.fixture
def worked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module `worked` that is not imported yet, and `user`, which takes its functions by name."""
    functions = "def double(x):\n    return 2 * x\n\nclass Box:\n    def put(self):\n        return 1\n"
    (tmp_path / "worked_for_test.py").write_text(functions)
    (tmp_path / "user_for_test.py").write_text("from worked_for_test import double\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "worked_for_test"
    for name in ("worked_for_test", "user_for_test"):
        sys.modules.pop(name, None)


def test_nothing_is_imported_for_the_clock_and_every_caller_is_timed(worked: str):
    """A function is wrapped before another module takes it from its own, and is as before afterwards."""
    watch = Stopwatch()
    names = [(worked, "double", "work"), (worked, "Box.put", "work"), (worked, "gone", "work"), ("never_imported", "x", "work")]
    with wrapped_when_imported(names, watch) as missing:
        assert worked not in sys.modules
        user = __import__("user_for_test")
        assert user.double(4) == 8
        assert sys.modules[worked].Box().put() == 1
    assert watch.calls["work"] == 2
    assert missing == [f"{worked}.gone", "never_imported.x"]
    assert not hasattr(sys.modules[worked].double, "__wrapped__")
    assert [finder for finder in sys.meta_path if type(finder).__name__ == "_Finder"] == []


def test_a_clock_knows_when_a_phase_first_began():
    """Made at 10, entered at 13 and 20: 3 seconds."""
    times = iter([10.0, 13.0, 14.0, 20.0, 21.0])
    watch = Stopwatch(lambda: next(times))
    for _ in range(2):
        with watch.phase("work"):
            pass
    assert watch.first == {"work": 3.0}


def test_a_module_that_is_there_already_is_timed_too(worked: str):
    held = __import__(worked)
    watch = Stopwatch()
    with wrapped_when_imported([(worked, "double", "work")], watch) as missing:
        held.double(1)
    assert (watch.calls["work"], missing) == (1, [])


def test_what_the_campaign_is_measured_by_is_there():
    """A function that was renamed would be found out after a whole campaign only."""
    with wrapped([(*name, "x") for name in (*INSIDE, *OUTSIDE)], Stopwatch()) as missing:
        assert missing == []


def test_the_clock_starts_before_the_products_first_import():
    code = "import sys, benchmarks.campaign; print({'rlback', 'torch', 'sqlalchemy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
