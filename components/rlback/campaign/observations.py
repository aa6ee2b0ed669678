"""What is measured while a policy is optimised: kept line by line, so that a kill loses nothing.

Gold is measured here, outside the optimiser, which never sees it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlback.records import canonical_json

if TYPE_CHECKING:
    from rlback.models.policy import Policy
    from rlback.training.on_policy import StepRecord

CURVE_EVERY = 10
CURVE_WINDOW = 5

#: (prompt text, completion text, finished) -> gold
Gold = Callable[[str, str, bool], float]


class Observer:
    """Appends one line of measurements per optimiser step to a file.

    `gold_sd` standardises gold (on base samples); `base` and `reference` are needed where the KL from the base
    differs from the KL from the reference.
    """

    def __init__(
        self,
        file: Path,
        *,
        texts: Mapping[tuple[int, ...], str],
        gold: Gold | None,
        gold_sd: float,
        eps: float,
        lr: float,
        reference: Policy,
        base: Policy | None,
    ) -> None:
        self._file = file
        self._texts = texts
        self._gold = gold
        self._gold_sd = gold_sd
        self._eps = eps
        self._lr = lr
        self._reference = reference
        self._base = base
        _end_line(file)

    def __call__(self, record: StepRecord) -> None:
        row: dict[str, Any] = {
            "step": record.step,
            "proxy": float(record.scores.mean()),
            "kl_ref": float(record.kl.mean()),
            "finished": sum(record.finished) / len(record.finished),
        }
        if self._gold is not None:
            row |= self._exposure(record)
        if record.step % CURVE_EVERY == 0 or record.step % CURVE_EVERY == CURVE_EVERY - 1:
            row["kl_base"] = row["kl_ref"] + self._beyond_reference(record)
        with self._file.open("a", encoding="utf-8") as handle:
            handle.write(canonical_json(row) + "\n")

    def _exposure(self, record: StepRecord) -> dict[str, float]:
        """Gold, and whom the step paid for what. Its baseline leaves a completion out of its prompt's, or of the batch
        where a prompt has one completion (PPO); a batch of one has none, so nothing is said of it."""
        import torch

        from rlback.maths.advantages import leave_one_out
        from rlback.maths.misreward import exposure
        from rlback.models.tokenizers import decode

        assert self._gold is not None
        tokenizer = self._reference.tokenizer
        gold = torch.tensor(
            [
                self._gold(self._texts[tuple(prompt)], decode(tokenizer, ids), done)
                for prompt, ids, done in zip(record.prompts, record.completions, record.finished, strict=True)
            ]
        )
        scaled, weights = gold / self._gold_sd, record.weights.flatten().cpu()
        groups = scaled.view(-1, record.samples_per_prompt) if record.samples_per_prompt > 1 else scaled[None]
        alone = groups.shape[1] == 1
        found = exposure(
            record.advantages.flatten().cpu(),
            (torch.zeros_like(groups) if alone else leave_one_out(groups)).flatten(),
            torch.zeros_like(weights) if alone else weights,
            epsilon=self._eps,
            learning_rate=self._lr,
        )
        return {
            "gold": float(gold.mean()),
            "sign_wrong": found.sign_wrong,
            "sign_all": found.sign_all,
            "false_wrong": found.false_wrong,
            "false_all": found.false_all,
            "integrated": found.integrated,
        }

    def _beyond_reference(self, record: StepRecord) -> float:
        """Mean over samples of log pi_ref - log pi_base, summed over tokens: what turns kl_ref into kl_base."""
        if self._base is None:
            return 0.0
        import torch

        from rlback.models.policy import token_logps

        def total(policy: Policy) -> torch.Tensor:
            pad = policy.tokenizer.pad_token_id
            logps, _ = token_logps(policy.model, record.prompts, record.completions, pad)
            return (logps * record.mask).sum(1)

        with torch.no_grad():
            return float((total(self._reference) - total(self._base)).mean())


def _end_line(file: Path) -> None:
    """Ends the last line of a file, which a kill or a full disk may have cut short: what is added begins a line of its own."""
    if file.exists() and file.stat().st_size:
        with file.open("rb+") as handle:
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":
                handle.write(b"\n")


def read_observations(file: Path) -> list[dict[str, Any]]:
    """One row per step, in order; a step that a resumed run measured again counts once."""
    rows: dict[int, dict[str, Any]] = {}
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the line a kill cut short; its step is measured again
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def curve(rows: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """Points for the pictures: the start, then every `CURVE_EVERY` steps the mean of the last few batches."""
    points = []
    for i, row in enumerate(rows):
        if row["step"] >= steps or "kl_base" not in row:
            continue
        first = row["step"] == 0
        if not first and row["step"] % CURVE_EVERY != CURVE_EVERY - 1:
            continue
        window = rows[i : i + 1] if first else rows[max(0, i - CURVE_WINDOW + 1) : i + 1]
        points.append(
            {
                "step": 0 if first else row["step"] + 1,
                "kl": max(0.0, row["kl_base"]),
                "proxy": _mean(window, "proxy"),
                "gold": _mean(window, "gold") if "gold" in row else None,
            }
        )
    return points


def exposure_sums(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Sums of the exposure's numerators and denominators over steps; None where gold is not known."""
    if not rows or "sign_all" not in rows[0]:
        return None
    keys = ("sign_wrong", "sign_all", "false_wrong", "false_all", "integrated")
    return {key: sum(row[key] for row in rows) for key in keys}


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)
