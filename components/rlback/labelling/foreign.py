"""Labels as other tools write them, both ways: Label Studio's JSON and Argilla's records. Pure.

Which completion stands left in an exported task is drawn from the comparison's id, and read back from it: otherwise the
candidate would always be on one side. Ties, both bad and skips have words of their own in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlback.data.formats import RowProblem
from rlback.data.shapes import storable
from rlback.records import Completion, Verdict, seed_of

MOST_CHARS = 400_000
SIDES = ("left", "right", "tie", "both-bad", "skip")
_ARGILLA = {"left": "response-1", "right": "response-2"}


@dataclass(frozen=True)
class Task:
    """A comparison as it goes out, `left` being the completion (a or b) that stands first."""

    comparison: str
    prompt: str
    a: str
    b: str
    left: str


@dataclass(frozen=True)
class Said:
    """One person's answer: a side of `SIDES`, by whom, how long it took."""

    side: str
    annotator: str
    seconds: float | None
    time: str


@dataclass(frozen=True)
class Read:
    """One label read from a file. `comparison` is "" where the file names none; `left` the side that stood left."""

    comparison: str
    prompt: str
    a: str
    b: str
    left: str
    verdict: Verdict
    both_bad: bool
    annotator: str
    seconds: float | None
    flags: tuple[str, ...] = ()
    rationale: str = ""


def task_of(comparison: str, prompt: str, a: Completion, b: Completion) -> Task:
    """A comparison as a task for another tool."""
    return Task(comparison, prompt, a.text, b.text, "ab"[seed_of(comparison, "export") % 2])


def side_of(verdict: str, both_bad: bool, left: str) -> str:
    """A verdict on a and b as a side of `SIDES`, with completion `left` on the left."""
    if both_bad:
        return "both-bad"
    return {left: "left"}.get(verdict, "right") if verdict in ("a", "b") else verdict


def verdict_of(side: str, left: str) -> tuple[Verdict, bool]:
    """What `side_of` was given."""
    right: Verdict = "b" if left == "a" else "a"
    verdicts: dict[str, Verdict] = {"left": left, "right": right, "tie": "tie", "both-bad": "tie", "skip": "skip"}  # type: ignore[dict-item]
    return verdicts[side], side == "both-bad"


def label_studio_task(task: Task, said: list[Said]) -> dict[str, Any]:
    """A task for a labelling interface with `Pairwise` (named `pairwise`) and `Choices` (named `verdict`)."""
    left, right = (task.a, task.b) if task.left == "a" else (task.b, task.a)
    annotations = []
    for one in said:
        result = []
        if one.side in ("left", "right"):
            result = [{"from_name": "pairwise", "to_name": "answer1", "type": "pairwise", "value": {"selected": one.side}}]
        elif one.side != "skip":
            result = [{"from_name": "verdict", "to_name": "answer1", "type": "choices", "value": {"choices": [one.side]}}]
        annotations.append(
            {"completed_by": {"email": one.annotator}, "was_cancelled": one.side == "skip", "lead_time": one.seconds,
             "created_at": one.time, "result": result}
        )  # fmt: skip
    data = {"prompt": task.prompt, "answer1": left, "answer2": right, "comparison": task.comparison}
    return {"data": data, "annotations": annotations}


def argilla_record(task: Task, said: list[Said]) -> dict[str, Any]:
    """A record with fields prompt, response-1 and response-2, and a label question `preference`."""
    left, right = (task.a, task.b) if task.left == "a" else (task.b, task.a)
    answers = [
        {"value": _ARGILLA.get(one.side, one.side), "user_id": one.annotator} for one in said if one.side != "skip"
    ]
    return {
        "id": task.comparison, "fields": {"prompt": task.prompt, "response-1": left, "response-2": right},
        "metadata": {"comparison": task.comparison, "skipped_by": [one.annotator for one in said if one.side == "skip"]},
        "suggestions": {}, "responses": {"preference": answers} if answers else {}, "vectors": {},
    }  # fmt: skip


def read_label_studio(row: Mapping[str, Any]) -> list[Read]:
    """The labels of one task with its annotations; none where it has none.

    Raises:
        RowProblem: what is missing or not understood.
    """
    data = _object(row, "data")
    texts = {name: _text(data, name) for name in ("prompt", "answer1", "answer2")}
    given = row.get("annotations")
    if not isinstance(given, list):
        raise RowProblem("annotations must be a list")
    found = []
    for number, one in enumerate(given, 1):
        if not isinstance(one, dict):
            raise RowProblem(f"annotation {number} must be an object")
        side = "skip" if one.get("was_cancelled") else _selected(one.get("result"), number)
        found.append(
            _read(str(data.get("comparison") or ""), texts["prompt"], texts["answer1"], texts["answer2"], side,
                  _label_studio_name(one.get("completed_by"), number), _seconds(one.get("lead_time")))
        )  # fmt: skip
    return found


def read_argilla(row: Mapping[str, Any]) -> list[Read]:
    """The labels of one record: responses of the question `preference`, a label or a ranking of the two responses.

    Raises:
        RowProblem: what is missing or not understood.
    """
    fields = _object(row, "fields")
    prompt, first, second = (_text(fields, name) for name in ("prompt", "response-1", "response-2"))
    metadata = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    responses = row.get("responses") or {}
    given = responses.get("preference", []) if isinstance(responses, dict) else None
    if not isinstance(given, list):
        raise RowProblem("responses must be an object of lists")
    assert isinstance(metadata, dict)
    id_ = str(metadata.get("comparison") or row.get("id") or "")
    found = []
    for number, one in enumerate(given, 1):
        if not isinstance(one, dict) or not isinstance(one.get("user_id"), str):
            raise RowProblem(f"response {number} must be an object with value and user_id")
        found.append(_read(id_, prompt, first, second, _argilla_side(one.get("value"), number), one["user_id"], None))
    skipped = metadata.get("skipped_by", [])
    if not isinstance(skipped, list) or not all(isinstance(name, str) for name in skipped):
        raise RowProblem("metadata.skipped_by must be a list of names")
    return found + [_read(id_, prompt, first, second, "skip", name, None) for name in skipped]


def _read(id_: str, prompt: str, first: str, second: str, side: str, annotator: str, seconds: float | None) -> Read:
    # Where the file names no comparison of ours, a new one is made, and first is a or b by the same kind of draw.
    left = "ab"[seed_of(*([id_] if id_ else [prompt, first, second]), "export") % 2]
    a, b = (first, second) if left == "a" else (second, first)
    verdict, both_bad = verdict_of(side, left)
    return Read(id_, prompt, a, b, left, verdict, both_bad, annotator, seconds)


def _selected(result: Any, number: int) -> str:
    if not isinstance(result, list) or not all(isinstance(one, dict) for one in result):
        raise RowProblem(f"annotation {number}: result must be a list of objects")
    for one in result:
        value = one.get("value") if isinstance(one.get("value"), dict) else {}
        choice = value.get("selected") if one.get("type") == "pairwise" else (value.get("choices") or [None])[0]
        if one.get("type") in ("pairwise", "choices") and choice in SIDES:
            return str(choice)
    raise RowProblem(f"annotation {number}: no result of type pairwise (left, right) or choices ({', '.join(SIDES[2:])})")


def _argilla_side(value: Any, number: int) -> str:
    known = {"response-1": "left", "response-2": "right", "tie": "tie", "both-bad": "both-bad", "skip": "skip"}
    if isinstance(value, str) and value in known:
        return known[value]
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, dict) for v in value):
        ranks = {v.get("value"): v.get("rank") for v in value}
        one, two = ranks.get("response-1"), ranks.get("response-2")
        if isinstance(one, int) and isinstance(two, int):
            return "tie" if one == two else "left" if one < two else "right"
    raise RowProblem(f"response {number}: value must be one of {', '.join(known)}, or a ranking of response-1 and response-2")


def _label_studio_name(completed_by: Any, number: int) -> str:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    if isinstance(completed_by, int) and not isinstance(completed_by, bool):
        return f"label-studio-{completed_by}"
    if isinstance(completed_by, str) and completed_by:
        return completed_by
    raise RowProblem(f"annotation {number}: completed_by must say who labelled (a number, or an object with email)")


def _object(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = row.get(name)
    if not isinstance(value, dict):
        raise RowProblem(f"{name} must be an object")
    return value


def _text(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise RowProblem(f"missing: {name!r}")
    return storable(name, row[name], MOST_CHARS)


def _seconds(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6
    return float(value) if good else None
