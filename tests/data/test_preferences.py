"""Reading preference files: shapes, formats, groups, weights and counts."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlback.data.preferences import read_pairs, render_messages
from rlback.errors import DataError
from rlback.records import PreferencePair

PLAIN = {"prompt": "2 + 2?", "chosen": "4, “four”\nexactly", "rejected": "5 \u202e\u200b ئ"}
USER = {"role": "user", "content": "Hello"}


def said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def one_pair(tmp_path: Path, row: Any, **options: Any) -> PreferencePair:
    return read_pairs(write(tmp_path / "one.jsonl", row), **options).pairs[0]


def as_csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.mark.parametrize(
    ("pack", "ending"),
    [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz"), (bz2.compress, ".bz2")],
)
@pytest.mark.parametrize(
    ("encode", "name"),
    [
        (lambda rows: "\n".join(map(json.dumps, rows)).encode(), "jsonl"),
        (lambda rows: b"\xef\xbb\xbf" + "\r\n\r\n".join(map(json.dumps, rows)).encode(), "jsonl"),
        (lambda rows: json.dumps(rows, indent=1, ensure_ascii=False).encode(), "json"),
        (as_csv, "csv"),
    ],
)
def test_every_text_format_gives_the_same_pairs(
    tmp_path: Path,
    encode: Callable[[list[Any]], bytes],
    name: str,
    pack: Callable[[bytes], bytes],
    ending: str,
) -> None:
    """The content decides, not the file's name, and texts survive unchanged."""
    rows = [PLAIN, {**PLAIN, "rejected": "6"}]
    path = tmp_path / "misnamed.txt"
    path.write_bytes(pack(encode(rows)))
    found = read_pairs(path)
    assert found.format == name + ending
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [(p.prompt, p.chosen, p.rejected) for p in found.pairs] == [tuple(row.values()) for row in rows]
    assert (found.rows, found.invalid, found.shapes) == (2, 0, {"explicit prompt, plain": 2})


def test_parquet_texts_and_messages(tmp_path: Path) -> None:
    """Parquet gives plain rows and message lists alike; columns that are not needed are not decoded."""
    plain = tmp_path / "plain"
    pq.write_table(
        pa.table({**{k: [v] for k, v in PLAIN.items()}, "when": pa.array([2**62], "timestamp[us]")}), plain
    )
    assert one_of(plain) == tuple(PLAIN.values())
    talk = tmp_path / "talk"
    pq.write_table(pa.table({"chosen": [[USER, said("Hi")]], "rejected": [[USER, said("Go")]]}), talk)
    assert one_of(talk) == ("\n\nHuman: Hello\n\nAssistant:", "Hi", "Go")
    assert read_pairs(talk).format == "parquet"


def one_of(path: Path) -> tuple[str, str, str]:
    (pair,) = read_pairs(path).pairs
    return pair.prompt, pair.chosen, pair.rejected


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": [USER], "chosen": "Hi", "rejected": "Go"}, "\n\nHuman: Hello\n\nAssistant:"),
        (
            {"prompt": [USER], "chosen": [said("Hi")], "rejected": [said("Go")]},
            "\n\nHuman: Hello\n\nAssistant:",
        ),
        ({"chosen": [USER, said("Hi")], "rejected": [USER, said("Go")]}, "\n\nHuman: Hello\n\nAssistant:"),
        (
            {"prompt": "Hello", "chosen": [USER, said("Hi")], "rejected": [USER, said("Go")]},
            "\n\nHuman: Hello\n\nAssistant:",
        ),
        ({"prompt": "Hello", "a": "Go", "b": "Hi", "label": "b"}, "Hello"),
        ({"prompt": "Hello", "a": "Hi", "b": "Go", "label": "a"}, "Hello"),
        (
            {"conversation_a": [USER, said("Go")], "conversation_b": [USER, said("Hi")], "winner": "model_b"},
            "\n\nHuman: Hello\n\nAssistant:",
        ),
    ],
)
def test_shapes_lead_to_the_same_completions(tmp_path: Path, row: Any, prompt: str) -> None:
    """However a row is written, Hi is chosen and Go rejected."""
    pair = one_pair(tmp_path, row)
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, "Hi", "Go")


def test_whole_dialogues_are_cut_at_the_last_assistant_turn(tmp_path: Path) -> None:
    """Prompt and completion put together are the dialogue again, earlier assistant turns in the prompt."""
    shared = "\n\nHuman: One\n\nAssistant: Two\n\nHuman: Three\n\nAssistant:"
    row = {"chosen": shared + " yes", "rejected": shared + " no"}
    pair = one_pair(tmp_path, row)
    assert pair == PreferencePair(shared, " yes", " no")


def test_dialogues_with_different_prompts(tmp_path: Path) -> None:
    """They are an error that names the line and the way out, or are dropped and counted."""
    good = {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: a\n\nAssistant: y"}
    path = write(tmp_path / "f", good, {**good, "chosen": "\n\nHuman: b\n\nAssistant: x"})
    with pytest.raises(DataError, match="line 2: the two sides answer different prompts") as caught:
        read_pairs(path)
    assert "prompt_mismatch" in str(caught.value.remedy)
    found = read_pairs(path, prompt_mismatch="drop")
    assert (found.rows, len(found.pairs), found.prompts_differ, found.invalid) == (2, 1, 1, 0)


def test_labels_without_a_winner_are_counted(tmp_path: Path) -> None:
    """Rows split into pairs, ties, both-bad verdicts and skips, and none is lost."""
    rows = [
        {"prompt": "p", "a": "x", "b": "y", "label": label}
        for label in ("a", "tie", "tie", "both_bad", "skip")
    ]
    found = read_pairs(write(tmp_path / "f", *rows))
    assert (len(found.pairs), found.ties, found.both_bad, found.skips, found.rows) == (1, 2, 1, 1, 5)
    with pytest.raises(DataError, match=r"no preference pair \(1 both bad, 1 skip, 2 tie\)"):
        read_pairs(write(tmp_path / "ties", *rows[1:]))


def test_duplicates_and_contradictions_are_counted_and_kept(tmp_path: Path) -> None:
    """Of x>y, x>y, y>x the second repeats and the third contradicts an earlier pair."""
    up = {"prompt": "p", "chosen": "x", "rejected": "y"}
    down = {"prompt": "p", "chosen": "y", "rejected": "x"}
    found = read_pairs(write(tmp_path / "f", up, up, down))
    assert (found.duplicates, found.contradictions, len(found.pairs)) == (1, 1, 3)


def test_group_weight_and_id(tmp_path: Path) -> None:
    """`group` goes before `topic`, a given column before both, and the group ends where it is told to."""
    row = {**PLAIN, "id": 7, "weight": 0.25, "topic": "ban-cars_yes_no", "source": "web"}
    pair = one_pair(tmp_path, row)
    assert (pair.id, pair.weight, pair.group) == ("7", 0.25, "ban-cars_yes_no")
    assert one_pair(tmp_path, row, group_until="_").group == "ban-cars"
    assert one_pair(tmp_path, row, group_column="source").group == "web"
    assert one_pair(tmp_path, {**row, "group": "g"}).group == "g"
    assert one_pair(tmp_path, PLAIN) == PreferencePair(*PLAIN.values())


def test_group_by_prompt_keeps_conversations_together(tmp_path: Path) -> None:
    """Rows that open with the same user turn share a group, later turns of the conversation included."""
    longer = [USER, said("Hi"), {"role": "user", "content": "And?"}]
    other = [{"role": "user", "content": "Bye"}]
    rows = [{"prompt": prompt, "chosen": "x", "rejected": "y"} for prompt in ([USER], longer, other)]
    dialogue = "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: And?\n\nAssistant:"
    rows.append({"chosen": dialogue + " x", "rejected": dialogue + " y"})
    groups = [p.group for p in read_pairs(write(tmp_path / "f", *rows), group_column="prompt").pairs]
    assert groups[0] == groups[1] == groups[3] != groups[2]
    assert "" not in groups


def test_a_given_renderer_makes_the_prompt(tmp_path: Path) -> None:
    """A chat template takes the place of the plain one for prompts that are message lists."""
    row = {"prompt": [USER], "chosen": "Hi", "rejected": "Go"}
    assert one_pair(tmp_path, row, render=lambda messages: f"<{messages[0]['content']}>").prompt == "<Hello>"


def test_plain_template() -> None:
    """Turns are marked, an open conversation invites the assistant, one assistant message is its content."""
    system = {"role": "system", "content": "Be kind"}
    assert render_messages([system, USER]) == "\n\nSystem: Be kind\n\nHuman: Hello\n\nAssistant:"
    assert render_messages([USER, said("Hi")]) == "\n\nHuman: Hello\n\nAssistant: Hi"
    assert render_messages([said("Hi")]) == "Hi"


def test_skip_invalid_counts_and_lists_at_most_twenty(tmp_path: Path) -> None:
    """25 bad rows among 26 leave one pair; the first 20 are named with their lines."""
    path = write(tmp_path / "f", *[{**PLAIN, "chosen": ""}] * 25, PLAIN)
    with pytest.raises(DataError, match="line 1: chosen is empty"):
        read_pairs(path)
    found = read_pairs(path, skip_invalid=True)
    assert (len(found.pairs), found.invalid, found.rows, len(found.problems)) == (1, 25, 26, 20)
    assert found.problems[19] == "line 20: chosen is empty"
