"""`rlback outbox`: what is to be told to the outside."""

from __future__ import annotations

import argparse
import json

from rlback.cli.output import say


def deliver(options: argparse.Namespace) -> int:
    """Delivers what is due now; 1 where something did not arrive."""
    from rlback.orchestration.delivering import deliver_due
    from rlback.project import find_project

    done = deliver_due(find_project())
    if options.json:
        print(json.dumps({"deliveries": done}))
    else:
        for one in done:
            say(f"{one['seq']} to {one['target']}: {one['state']}{'; ' + one['error'] if one['error'] else ''}")
        if not done:
            say("Nothing is due.")
    return 1 if any(one["error"] for one in done) else 0


def listing(options: argparse.Namespace) -> int:
    """What waits or was given up."""
    from rlback.orchestration.delivering import outbox_counts, pending
    from rlback.project import find_project

    project = find_project()
    counts, rows = outbox_counts(project), pending(project)
    if options.json:
        print(json.dumps({"counts": counts, "deliveries": rows}))
        return 0
    say(", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "The outbox is empty.")
    for row in rows:
        tried = f"{row['state']} after {row['attempts']} tries"
        say(f"{row['seq']} {row['kind']} of {row['subject']} to {row['target']}: {tried}; {row['error']}")
    return 0
