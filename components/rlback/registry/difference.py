"""How two checkpoints differ in what made them: configuration, data, reward model, code, libraries. Reads, never writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlback.project import Project
from rlback.registry.lineage import audit
from rlback.registry.operations import Version

VALUE_CHARS = 120


def difference(project: Project, old: Version, new: Version) -> list[dict[str, Any]]:
    """Rows of (part, key, old, new) where the two differ; a part in which nothing differs has one row with key None."""
    before, after = audit(project, old), audit(project, new)
    parts: list[tuple[str, Any, Any]] = [
        ("configuration", before["campaign"]["config"], after["campaign"]["config"]),
        ("data", {**before["data"], "inputs": before["campaign"]["inputs"]},
         {**after["data"], "inputs": after["campaign"]["inputs"]}),
        ("reward model", _reward(before), _reward(after)),
        ("code", before["code"] or {}, after["code"] or {}),
        ("libraries", before["libraries"] or {}, after["libraries"] or {}),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for part, was, now in parts:
        left, right = flat(was), flat(now)
        changed = [key for key in sorted({*left, *right}) if left.get(key) != right.get(key)]
        rows += [{"part": part, "key": key, "old": _shown(left.get(key)), "new": _shown(right.get(key))} for key in changed]
        if not changed:
            rows.append({"part": part, "key": None, "old": "", "new": ""})
    return rows


def _reward(found: Mapping[str, Any]) -> dict[str, Any]:
    model = found["reward_model"] or {}
    return {key: model[key] for key in ("digest", "fitted_after_round", "pairs", "given", "snapshot") if key in model}


def flat(tree: Any, under: str = "") -> dict[str, Any]:
    """A tree of mappings as dotted keys; lists are values."""
    if not isinstance(tree, Mapping):
        return {under: tree} if under else {}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{under}.{key}" if under else str(key))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = str(value)
    if len(text) in (32, 40, 64) and text.isalnum():
        return text[:12]
    return text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}… ({len(text) - VALUE_CHARS} more)"
