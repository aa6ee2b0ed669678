"""`rlback study claims` prints, writes a page and gives JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlback.cli.parser import run
from rlback.studies.table import write_table
from tests.studies.claims.making import Rows


def test_verdicts_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Rows()
    for arm, gold in (("take-last", 1.0), ("take-last-up-front", 2.0)):
        rows.ends("main", arm, [{"gold": gold}])
    results, target = tmp_path / "results.parquet", tmp_path / "docs" / "claims.md"
    write_table(rows.table(), results)
    assert run(["study", "claims", str(results), "--out", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "C18  fails         -1 [" in printed
    assert "no run of arm vanilla in setting main" in printed
    assert "1 fails, 20 not measured" in target.read_text()
    assert run(["study", "claims", str(results), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["claims"]) == 21


def test_a_study_that_was_not_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "claims", str(tmp_path / "none.parquet")]) != 0
    assert "run the study first" in capsys.readouterr().err
