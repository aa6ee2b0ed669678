"""The words of `rlback labels`: quarantine, import and export."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Adds = Callable[..., None]


def add_label_verbs(verb: Callable[..., argparse.ArgumentParser], actor: Adds, json: Adds, reason: Adds) -> None:
    """Adds the verb to the command line; `actor`, `json` and `reason` add the options every verb shares."""
    acts: Any = verb("labels", "", "labels as a whole: quarantine, import, export").add_subparsers(
        dest="act", metavar="ACT", required=True
    )

    act = acts.add_parser("quarantine", help="take labels out of every count; they stay on record")
    act.set_defaults(function="labels:quarantine")
    act.add_argument("annotator", help="whose labels; all of them, in every batch, unless one of these is named:")
    where = act.add_mutually_exclusive_group()
    where.add_argument("--batch", default="", metavar="CAMPAIGN.rN", help="those in this batch only")
    where.add_argument("--comparison", default="", metavar="CAMPAIGN.rN.M", help="the one on this comparison only")
    reason(act)
    actor(act)
    json(act)

    act = acts.add_parser("lift", help="lift a quarantine: its labels count again")
    act.set_defaults(function="labels:lift")
    act.add_argument("number", type=int, help="as `rlback labels quarantines` shows it")
    reason(act)
    actor(act)
    json(act)

    act = acts.add_parser("quarantines", help="every quarantine, those in force and those lifted")
    act.set_defaults(function="labels:quarantines")
    json(act)

    act = acts.add_parser("import", help="labels from a file: all of it or nothing")
    act.set_defaults(function="labels:import_file")
    act.add_argument("file", help="preferences as TRL writes them, a raw export, Label Studio's JSON, or Argilla's records")
    act.add_argument("--campaign", required=True)
    forms = ("preferences", "raw", "label-studio", "argilla")
    act.add_argument("--form", choices=forms, default="", help="default: told by its rows")
    act.add_argument("--annotator", default="", help="whose labels they are, where the file does not say")
    actor(act)
    json(act)

    act = acts.add_parser("export", help="the labels of a batch as a file; the same as `rlback export`")
    add_export(act)
    actor(act)


def add_export(act: argparse.ArgumentParser) -> None:
    """What `rlback export` and `rlback labels export` take."""
    act.set_defaults(function="console:export")
    act.add_argument("batch", help="as `rlback status` names it: CAMPAIGN.rN")
    act.add_argument(
        "--form", choices=("raw", "trl", "trl-conversational", "label-studio", "argilla"), default="raw",
        help="everything a label holds (default), preference pairs as `rlback run --pairs` reads them, or another tool's tasks",
    )  # fmt: skip
    act.add_argument("--output", metavar="FILE", help="default: standard output")
