"""Set-up for `make`: pip with the pinned versions, and a line that says how far it is.

Run with the virtual environment's own Python. pip's output goes to .venv/install.log; its end is shown if it fails.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

LOG = Path(".venv/install.log")
#: torch comes first and alone, so that no resolver picks a larger build of it.
STEPS = (
    ("torch", ["-c", "constraints.txt", "torch"]),
    ("everything else", ["-c", "constraints.txt", "-e", ".[dev]"]),
)
#: How often a line is written where there is no terminal to rewrite one on.
EVERY_S = 20.0


def main() -> int:
    began = time.monotonic()
    with LOG.open("w", encoding="utf-8") as log:
        for number, (what, arguments) in enumerate(STEPS, 1):
            status = install(f"[{number}/{len(STEPS)}] {what}", arguments, log, began)
            if status:
                print(f"\nThe set-up failed; the end of {LOG}:", file=sys.stderr)
                end = LOG.read_text(encoding="utf-8").splitlines()[-15:]
                print("\n".join(end), file=sys.stderr)
                print(advice(what, end), file=sys.stderr)
                return status
    say(f"Set up in {time.monotonic() - began:.0f} s.", last=True)
    return 0


def install(title, arguments, log, began):
    """Runs one pip; counts the packages it names while it looks for them, and says when it unpacks them.

    The time goes on while pip says nothing, as it does for as long as it unpacks.
    """
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", *arguments]
    said = log.tell()
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    found, doing, told = 0, "looking for packages", time.monotonic()
    say(f"{title}: {doing}", last=not sys.stdout.isatty())
    with LOG.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(said)
        while True:
            status = process.poll()
            before = doing
            for line in lines:
                found += line.startswith(("Collecting ", "Requirement already satisfied: "))
                if line.startswith("Installing collected packages"):
                    doing = f"unpacking {line.count(',') + 1} packages (the longest part)"
                elif found and not doing.startswith("unpacking"):
                    doing = f"{found} packages found"
            if status is not None:
                return status
            now = time.monotonic()
            unpacks = doing != before and doing.startswith("unpacking")
            if sys.stdout.isatty() or now - told >= EVERY_S or unpacks:
                told = now
                say(f"{title}: {doing}, {now - began:.0f} s", last=not sys.stdout.isatty())
            time.sleep(0.5)


def advice(what, end):
    """What to do about the last lines of pip's log, where they say that its index lacks a package."""
    said = "\n".join(end)
    missing = "No matching distribution" in said or "Could not find a version" in said
    # Where a pin is what cannot be had, pip calls it a conflict of the package with its constraint.
    if what == "torch" and (missing or "conflicting dependencies" in said or "ResolutionImpossible" in said):
        return (
            "pip's package index has no build of torch in the pinned version (constraints.txt) for this Python and machine. Set\n"
            "PIP_INDEX_URL, or PIP_EXTRA_INDEX_URL beside it, to an index that has builds of torch for the CPU (torch's own\n"
            "installation page names one), or take another Python (make PYTHON=python3.12), and give the command again."
        )
    if missing:
        return "The package index that pip asks does not have it: set PIP_INDEX_URL to one that has, and give the command again."
    return "Give the command again once that is mended; what is installed already stays."


def say(text, *, last=False):
    """One line; on a terminal it takes the place of the one before."""
    print(f"\r\033[K{text}" if sys.stdout.isatty() else text, end="\n" if last else "", flush=True)


if __name__ == "__main__":
    sys.exit(main())
