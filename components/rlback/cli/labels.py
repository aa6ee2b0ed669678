"""`rlback labels`: what concerns labels as a whole."""

from __future__ import annotations

import argparse
import json

from rlback.cli.output import actor_of, next_command, say


def quarantine(options: argparse.Namespace) -> int:
    """Puts labels in quarantine."""
    from rlback.project import find_project
    from rlback.registry.quarantine import put_in

    outcome = put_in(
        find_project().store, options.annotator, actor_of(options), options.reason, batch=options.batch,
        comparison=options.comparison,
    )  # fmt: skip
    return _told(outcome, "in quarantine", options)


def lift(options: argparse.Namespace) -> int:
    """Lifts a quarantine."""
    from rlback.project import find_project
    from rlback.registry.quarantine import lift as lift_one

    return _told(lift_one(find_project().store, options.number, actor_of(options), options.reason), "lifted", options)


def quarantines(options: argparse.Namespace) -> int:
    """Lists every quarantine."""
    from rlback.labelling.display import visible
    from rlback.labelling.quarantines import list_quarantines
    from rlback.project import find_project

    found = list_quarantines(find_project().store)
    if options.json:
        print(json.dumps([vars(q) for q in found], indent=2))
        return 0
    for one in found:
        state = "lifted" if one.lifted else "in force"
        say(f"{one.id}  {state}  {one.scope}; by {one.by}, {one.time[:16]}: {visible(one.reason)}")
    if not found:
        say("No label is or was in quarantine.")
    return 0


def import_file(options: argparse.Namespace) -> int:
    """Imports a file of labels."""
    from pathlib import Path

    from rlback.labelling.imports import import_labels
    from rlback.project import find_project

    store = find_project().store
    done = import_labels(
        store, Path(options.file), options.campaign, actor_of(options), form=options.form, annotator=options.annotator
    )
    if options.json:
        print(json.dumps(vars(done)))
        return 0
    counted = ", ".join(f"{n} {what}" for what, n in sorted(done.counts.items()))
    say(f"Import {done.number} ({done.form}, sha256 {done.sha256[:12]}): {done.labels} labels for {done.campaign}; {counted}.")
    if done.batch:
        say(f"Comparisons that were not here are batch {done.batch}: at no gate, and in the next snapshot.")
    return 0


def _told(outcome, state: str, options: argparse.Namespace) -> int:  # type: ignore[no-untyped-def]
    number = outcome.quarantine.id
    if options.json:
        body = {"quarantine": number, "labels": outcome.labels, "superseded": outcome.superseded, "decided": outcome.decided}
        print(json.dumps(body))
        return 0
    say(f"Quarantine {number}, {outcome.quarantine.scope}: {state}. It is about {outcome.labels} labels.")
    for gate in outcome.superseded:
        say(f"Gate {gate} is superseded: its evidence held these labels.")
        next_command("rlback advance")
    if outcome.decided:
        say(f"Decided on evidence with these labels, and standing: {', '.join(outcome.decided)}.")
    if state == "in quarantine":
        next_command(f"rlback labels lift {number} --reason \"…\"")
    return 0
