"""Labelling at a terminal: one comparison, two completions, one key.

Blind: neither which checkpoint wrote a side nor the reward model's scores are shown. The side order is drawn
for each comparison, stays where it is shown again, and is stored with the label.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rlback.labelling.batches import Stored, open_count, record_label, unlabelled
from rlback.labelling.display import completion, shortened, visible
from rlback.labelling.queue import take_back
from rlback.ledger.store import Store
from rlback.records import Actor, Verdict

KEYS = "1 left   2 right   t tie   s skip   u undo   q stop"
PIPED_KEYS = set("12tsuq")
SHOWN_CHARS = 4_000


def label_batch(store: Store, batch: str, annotator: Actor) -> tuple[int, int]:
    """Asks for labels until the batch is done or the annotator stops; returns (given now, left over).

    Every label is stored before the next comparison is shown. Standard input that is no terminal holds keys with or
    without blanks or line ends between them, or words of which the first letter counts (`_piped`).
    """
    mine = {item.id for item in unlabelled(store, batch, annotator.name)}
    waiting = [item for item in unlabelled(store, batch) if item.id in mine]
    total, given = len(waiting), 0
    sides: dict[str, str] = {}  # shown again after an undo, a comparison does not swap before the annotator's eyes
    print(f"Which completion is better? {total} comparisons in {batch}, labelled as {annotator.name}.")
    previous: tuple[Stored, str] | None = None
    position, shown = 0, -1
    with _keys() as keys:
        while position < total:
            item = waiting[position]
            if shown != position:
                left = sides.setdefault(item.id, secrets.choice("ab"))
                _show(item, left, position + 1, total)
                began, shown = time.monotonic(), position
            key = next(keys, "q")
            if key == "q":
                break
            if key == "u":
                if previous is None:
                    print("There is nothing to undo yet.")
                else:
                    position -= 1
                    given -= 1
                    # The label stays on record; its next revision takes it out of every count, and the comparison is open
                    # again, whether or not it gets another one now.
                    undone, seen_left = previous
                    take_back(store, undone.id, annotator, seen_left)
                    previous, shown = None, -1
                continue
            verdict = _verdict(key, left)
            if verdict is None:
                print(f"{visible(key)!r} is none of the keys: {KEYS}")
                continue
            record_label(store, item.id, annotator, verdict, left, round(time.monotonic() - began, 3))
            print(f"saved {time.strftime('%H:%M:%S')}")
            previous = (item, left)
            position += 1
            given += 1
    return given, open_count(store, batch)


def _verdict(key: str, left: str) -> Verdict | None:
    right = "b" if left == "a" else "a"
    verdicts: dict[str, Verdict] = {"1": left, "2": right, "t": "tie", "s": "skip"}  # type: ignore[dict-item]
    return verdicts.get(key)


def _show(item: Stored, left: str, number: int, total: int) -> None:
    width = min(100, shutil.get_terminal_size().columns)
    a, b = item.comparison.a, item.comparison.b
    first, second = (a, b) if left == "a" else (b, a)
    print(f"\n{'─' * width}\n{number} of {total}")
    print(_wrapped(shortened(item.comparison.prompt, SHOWN_CHARS), width))
    for name, side in (("1", first), ("2", second)):
        print(f"\n[{name}]\n{_wrapped(completion(side.text, side.answers, side.finished, SHOWN_CHARS), width)}")
    print(f"\n{KEYS}")


def _wrapped(shown: str, width: int) -> str:
    lines = [textwrap.wrap(line, width - 4) or [""] for line in shown.split("\n")]
    return "\n".join(f"    {part}" for line in lines for part in line)


def _piped(line: str) -> Iterator[str]:
    """The keys in a line: every letter of a word that is made of keys alone, otherwise the word's first letter.

    So `1 2 t`, `12t` and `1`, `2`, `tie` on lines of their own all say the same.
    """
    for word in line.lower().split():
        yield from word if set(word) <= PIPED_KEYS else word[0]


@contextmanager
def _keys() -> Iterator[Iterator[str]]:
    """Single key presses from a terminal, or the first letters of lines."""
    if not sys.stdin.isatty():
        yield (key for line in sys.stdin for key in _piped(line))
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def pressed() -> Iterator[str]:
        while key := sys.stdin.read(1):
            yield "q" if key in ("\x03", "\x04", "\x1b") else key.lower()

    try:
        yield pressed()
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
