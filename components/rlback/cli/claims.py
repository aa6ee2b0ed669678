"""`rlback study claims`: what the results of studies say of published claims."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rlback.cli.output import next_command, say

#: Studies that the claims are tested on together: the main setting, and the others.
STUDIES = ("claims", "claims-settings")


def add(acts: Any) -> None:
    """The act `claims` of the verb `study`."""
    text = "which published claims hold in the results of a study, and by how much"
    act = acts.add_parser("claims", help=text, description=text)
    act.set_defaults(function="claims:claims")
    act.add_argument("results", nargs="*", metavar="NAME", help=f"studies, or Parquet files (default: {' '.join(STUDIES)})")
    act.add_argument("--out", metavar="PAGE", help="write the page (Markdown) here as well")
    act.add_argument("--json", action="store_true", help="print JSON")


def claims(options: argparse.Namespace) -> int:
    """Tests every claim on the results, prints the verdicts, and writes the page where one is asked for."""
    from rlback.studies.claims import page

    names = tuple(options.results) or STUDIES
    command = " ".join(["rlback study claims", *options.results, *(["--out", options.out] if options.out else [])])
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

    return find_project().state / "studies" / name / "results.parquet"
