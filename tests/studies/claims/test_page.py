"""The page and the JSON say the same, with seeds, commit and command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlback.errors import DataError
from rlback.studies.claims import page
from rlback.studies.table import write_table
from tests.studies.claims.making import Rows


def test_page_names_its_origin(tmp_path: Path) -> None:
    rows = Rows()
    for arm, gold in (("take-last", 2.0), ("take-last-up-front", 1.0)):
        rows.ends("main", arm, [{"gold": gold, "code_revision": "abc1234"}])
    write_table(rows.table(), tmp_path / "results.parquet")
    found, origin = page.read([tmp_path / "results.parquet"], "rlback study claims")
    text, tree = page.markdown(found, origin), page.as_json(found, origin)
    json.dumps(tree, allow_nan=False)
    for wanted in ("seeds 0 to 7", "abc1234", "`rlback study claims`", "1 holds, 20 not measured", "no run of arm vanilla"):
        assert wanted in text
    assert [c["verdict"] for c in tree["claims"]].count("holds") == 1
    c18 = next(c for c in tree["claims"] if c["claim"] == "C18")
    assert c18["parts"][0]["estimate"] == pytest.approx(1.0, abs=0.02)
    assert c18["seeds"] == 8
    assert text.count("\n| C") == 21


def test_no_rows_and_no_file_are_errors(tmp_path: Path) -> None:
    write_table(Rows().table(), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no rows"):
        page.read([tmp_path / "empty.parquet"], "x")
    with pytest.raises(DataError, match="no results"):
        page.read([tmp_path / "missing.parquet"], "x")
