"""The hash chain and its signed heads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlback.errors import LedgerError
from rlback.ledger.chain import GENESIS, MOST_UNSIGNED, check_heads, check_newest, event_hash, first_break
from rlback.ledger.heads import Heads


def chain(n: int) -> list[tuple]:
    rows, previous = [], GENESIS
    for seq in range(1, n + 1):
        fields = (seq, "2026-01-01T00:00:00.000Z", "kind", "subject", "ada", "human", json.dumps({"n": seq}), previous)
        previous = event_hash(*fields)
        rows.append((*fields, previous))
    return rows


def test_an_untouched_chain_has_no_break():
    """Five events that follow one another hold; so does an empty ledger."""
    assert first_break(chain(5)) is None
    assert first_break([]) is None


@pytest.mark.parametrize("column", range(1, 9))
def test_a_change_to_any_column_breaks_the_chain_at_that_event(column: int):
    """Whatever is altered in event 3, the break is found at event 3, and at 4 only for its own hash."""
    rows = chain(5)
    altered = list(rows[2])
    altered[column] = "f" * 64 if column in (7, 8) else altered[column] + "x"
    rows[2] = tuple(altered)
    assert first_break(rows).seq == 3


def test_a_removed_event_is_named():
    """Without event 2 the chain breaks at 2."""
    rows = chain(4)
    del rows[1]
    broken = first_break(rows)
    assert broken.seq == 2
    assert "missing" in broken.why


def test_an_event_rewritten_with_a_fitting_hash_breaks_at_the_next():
    """Whoever recomputes event 3's own hash is found out by event 4, which holds the old one."""
    rows = chain(5)
    fields = (*rows[2][:6], json.dumps({"n": 99}), rows[2][7])
    rows[2] = (*fields, event_hash(*fields))
    assert first_break(rows).seq == 4


def test_a_cut_tail_and_a_forked_chain_are_found_by_the_signed_heads(tmp_path: Path):
    """The chain alone cannot see its tail go; the head signed for event 5 can, and knows event 5's hash."""
    heads = Heads(tmp_path / "heads.jsonl", tmp_path / "key")
    rows = chain(5)
    heads.append(5, rows[4][8])
    hashes = {row[0]: row[8] for row in rows}
    assert check_heads(heads.lines(), hashes, heads.verify) is None
    cut = check_heads(heads.lines(), {k: v for k, v in hashes.items() if k < 4}, heads.verify)
    assert cut.seq == 4
    assert "cut" in cut.why
    forked = check_heads(heads.lines(), {**hashes, 5: "0" * 64}, heads.verify)
    assert forked.seq == 5


def test_a_head_signed_with_another_key_is_refused(tmp_path: Path):
    """A head whose signature is not ours is a finding, not a fact."""
    Heads(tmp_path / "heads.jsonl", tmp_path / "other-key").append(1, "a" * 64)
    ours = Heads(tmp_path / "mine.jsonl", tmp_path / "key")
    ours.append(1, "a" * 64)
    lines = (tmp_path / "heads.jsonl").read_text().splitlines()
    assert "signature" in check_heads(lines, {1: "a" * 64}, ours.verify).why


def test_a_line_cut_short_by_a_crash_does_not_spoil_the_heads(tmp_path: Path):
    """Half a line, and whole ones after it, still verify."""
    heads = Heads(tmp_path / "heads.jsonl", tmp_path / "key")
    heads.append(1, "a" * 64)
    with heads.file.open("a") as file:
        file.write('{"seq": 2, "ha')
    heads.append(2, "b" * 64)
    assert check_heads(heads.lines(), {1: "a" * 64, 2: "b" * 64}, heads.verify) is None


def test_the_key_is_for_its_owner_alone(tmp_path: Path):
    """The signing key's file is readable and writable by its owner only."""
    heads = Heads(tmp_path / "heads.jsonl", tmp_path / "key")
    heads.append(1, "a" * 64)
    assert heads.key_file.stat().st_mode & 0o777 == 0o600


def test_two_writers_of_a_first_head_sign_with_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another writer makes the key and signs between our look for a key and our look for heads: we sign with theirs."""
    ours, theirs = (Heads(tmp_path / "heads.jsonl", tmp_path / "key") for _ in range(2))
    read = ours.lines

    def lines() -> list[str]:
        if not theirs.file.exists():
            theirs.append(1, "a" * 64)
        return read()

    monkeypatch.setattr(ours, "lines", lines)
    ours.append(2, "b" * 64)
    assert check_heads(read(), {1: "a" * 64, 2: "b" * 64}, ours.verify) is None
    assert ours.newest() == (2, "b" * 64)


def test_heads_without_their_key_are_not_signed_with_a_new_one(tmp_path: Path):
    """A key that is gone is an error that names it, and no other takes its place."""
    heads = Heads(tmp_path / "heads.jsonl", tmp_path / "key")
    heads.append(1, "a" * 64)
    heads.key_file.unlink()
    with pytest.raises(LedgerError, match="is gone"):
        heads.append(2, "b" * 64)
    assert not heads.key_file.exists()


@pytest.mark.parametrize(
    "line", ["\ufffd", '{"seq":1e400}', '{"hash":"a","seq":1e400,"signature":"00"}', "[" * 100_000, "[]", "7"]
)
def test_a_line_that_neither_we_nor_a_crash_wrote_is_named_by_its_number(line: str):
    """Anything but a head or the beginning of one is a break of the file, not of an event."""
    broken = check_heads(["", line], {1: "a"}, lambda message, signature: True)
    assert broken.seq == 0
    assert "line 2" in broken.why


def test_heads_reach_the_end_of_the_chain_but_for_one_transaction(tmp_path: Path):
    """With event 10 signed last, 18 events may be there and no 19th; without a file at most the first event."""
    heads = Heads(tmp_path / "heads.jsonl", tmp_path / "key")
    assert heads.lines_if_any() is None
    assert check_newest(None, 0) is None
    assert check_newest(None, 1) is None
    assert "gone" in check_newest(None, 2).why
    heads.append(10, "a" * 64)
    heads.append(9, "b" * 64)  # two writers may sign in either order
    assert MOST_UNSIGNED == 8
    assert check_newest(heads.lines(), 18) is None
    assert check_newest(heads.lines(), 19).seq == 11


def test_the_newest_signed_event_must_be_there_to_go_on(tmp_path: Path):
    """A chain that lacks it, or holds another in its place, is refused; a head that is not ours counts for nothing."""
    heads = Heads(tmp_path / "heads.jsonl", tmp_path / "key")
    heads.require_reached({}.get)
    heads.append(3, "c" * 64)
    heads.append(2, "b" * 64)
    with heads.file.open("a") as file:
        file.write('{"hash":"d","seq":9,"signature":"00"}\n[[\n')
    assert heads.newest() == (3, "c" * 64)
    heads.require_reached({3: "c" * 64}.get)
    with pytest.raises(LedgerError, match="no such event"):
        heads.require_reached({2: "b" * 64}.get)
    with pytest.raises(LedgerError, match="another one"):
        heads.require_reached({3: "d" * 64}.get)
