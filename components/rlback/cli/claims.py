"""`rlback study claims`: what the results of studies say of published claims."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlback.cli.output import next_command, say

#: Studies that the claims are tested on together: the main setting, and the others.
STUDIES = ("claims", "claims-settings")


def claims(options: argparse.Namespace) -> int:
    """Tests every claim on the results, prints the verdicts, and writes the page where one is asked for."""
    from rlback.studies.claims import page

    names = STUDIES if options.name is None else (options.name,)
    named, page_at = [options.name] if options.name else [], ["--out", options.out] if options.out else []
    command = " ".join(["rlback study claims", *named, *page_at])
    found, origin = page.read([_results(name) for name in names], command)
    if options.out:
        target = Path(options.out)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page.markdown(found, origin), encoding="utf-8")
    if options.json:
        say(json.dumps(page.as_json(found, origin), indent=1, allow_nan=False))
        return 0
    for answer in found:
        numbers = answer.numbers
        shown = answer.reason if numbers is None else f"{numbers[0]:.3g} [{numbers[1]:.3g}, {numbers[2]:.3g}]"
        say(f"{answer.claim.name:4} {answer.verdict:13} {shown:26} {answer.claim.says}")
    if options.out:
        say(f"Every comparison: {options.out}")
    else:
        next_command(f"{command} --out docs/claims.md")
    return 0


def _results(name: str) -> Path:
    """A Parquet file as it is, or the results of a study by its name."""
    if name.endswith(".parquet"):
        return Path(name)
    from rlback.project import find_project

    return find_project().root / "reports" / "studies" / name / "results.parquet"
