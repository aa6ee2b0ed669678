"""The suite itself: what two workers collect must have the same names."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_compressed_parameters_do_not_hold_the_time():
    """gzip writes the time into its header; as a parameter's name it would differ between workers that collect the same test."""
    timed = re.compile(r"^\s+\(gzip\.compress\((?!.*mtime=0)", re.M)
    found = [str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py") if timed.search(path.read_text(encoding="utf-8"))]
    assert not found, f"give mtime=0 to gzip.compress in {found}"
