"""The console command `rlback`."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit status. What it needs is imported when it runs."""
    from rlback.cli.parser import run

    return run(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
