"""A file of made-up debates, and a study of the arguments world small enough for tests."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

GOOD, BAD = "because it saves money and time", "no way"


def write_pairs(path: Path, debates: int = 6) -> Path:
    """Two sides each with four pairs; the reasoned argument wins, whatever the debate."""
    rows = [
        {"topic": f"debate-{d}_{side}", "prompt": f"topic {d} {side}", "chosen": f"{side} {i} {GOOD}",
         "rejected": f"{side} {i} {BAD}"}
        for d in range(debates) for side in ("yes", "not") for i in range(4)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


_TREE: dict[str, Any] = {
    "name": "tiny", "world": "arguments", "seeds": {"first": 3, "count": 1}, "chunk": 1, "settings": {"plain": {}},
    "plan": {"rounds": 1, "segment_steps": 2, "segment_length": 1.0, "every": 1, "initial": 8, "inside": 2, "cross": 4},
    "world_settings": {
        "held_out": 3, "labelled": 1, "vocabulary": 300, "max_prompt_tokens": 32, "max_new_tokens": 6, "eval_prompts": 4,
        "reference_samples": 8, "device": "cpu",
        "shape": {"d_model": 16, "layers": 1, "heads": 2, "mlp": 16, "max_positions": 48},
        "training": {"steps": 3, "batch": 4, "lr": 0.01, "window": 16},
        "gold": {
            "shape": {"d_model": 64, "layers": 1, "heads": 2, "mlp": 224, "max_positions": 80},
            "training": {"steps": 2, "batch": 4, "lr": 0.005, "window": 16},
            "reward": {"epochs": 3, "batch": 8, "lr": 0.005, "warmup": 2}, "completion_tokens": 48, "folds": 3,
            "reward_shape": {"pooling": "mean", "bag": True},
        },
    },
    "optimiser": {
        "prompts_per_step": 2, "samples_per_prompt": 2, "dpo_batch": 4, "reward_shape": {"pooling": "mean"},
        "reward": {"epochs": 1, "batch": 4, "lr": 0.01},
    },
    "arms": ["vanilla", "gold"], "analysis": {"draws": 20},
}  # fmt: skip


def tree(pairs: Path | None, **world: Any) -> dict[str, Any]:
    """The study on these pairs, with keys of the world replaced."""
    made = copy.deepcopy(_TREE)
    made["world_settings"] |= world | ({"pairs": str(pairs)} if pairs is not None else {})
    return made
