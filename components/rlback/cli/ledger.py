"""`rlback ledger`: which database the project's ledger is in, and how it gets into another one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlback.cli.output import next_command, say
from rlback.errors import LedgerError


def where(options: argparse.Namespace) -> int:
    """Names the database; never a password."""
    from rlback.project import find_project

    store = find_project().store
    if options.json:
        print(json.dumps({"database": store.where, "events": store.event_count()}))
    else:
        say(f"{store.where}: {store.event_count()} events")
    return 0


def copy(options: argparse.Namespace) -> int:
    """Copies a SQLite file's ledger into the database that the project is set to."""
    from rlback.ledger.copying import copy_ledger
    from rlback.ledger.store import Store
    from rlback.project import find_project

    project, file = find_project(), Path(options.file).resolve()
    if not file.is_file():
        raise LedgerError(f"there is no ledger {file}", remedy="name a file such as .rlback/ledger.db")
    target = project.store
    if str(file) == target.where:
        raise LedgerError(f"{file} is where the project's ledger is now", remedy="set the other database first: docs/database.md")
    source = Store.sqlite(file, target.heads)
    rows = copy_ledger(source, target)
    source.close()
    if options.json:
        print(json.dumps({"from": str(file), "to": target.where, "rows": rows}))
        return 0
    say(f"{sum(rows.values())} rows, {rows['events']} of them events, copied from {file} to {target.where}.")
    say("The file is not read any more: keep it as a backup, out of the project.")
    next_command("rlback verify")
    return 0
