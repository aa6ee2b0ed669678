"""The words of `rlback labels`: quarantine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Adds = Callable[..., None]


def add_label_verbs(verb: Callable[..., argparse.ArgumentParser], actor: Adds, json: Adds, reason: Adds) -> None:
    """Adds the verb to the command line; `actor`, `json` and `reason` add the options every verb shares."""
    acts: Any = verb("labels", "", "labels as a whole: quarantine").add_subparsers(
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
