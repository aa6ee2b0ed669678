"""Campaigns on files of preferences, at a size that runs in a second or two, walked through as their user does."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from rlback.__main__ import main
from rlback.project import Project, make_project
from tests.conftest import ROOT

#: What makes a configuration of configs/ small; the rest of it stays as the file has it.
SMALL = (
    "name=people", "policy=people", "threads=1", "rounds=3", "stop_after_approvals=null", "source.held_out=2",
    "source.max_prompt_tokens=150", "source.max_completion_tokens=24",
    "base.shape={d_model: 16, layers: 1, heads: 2, mlp: 32, max_positions: 192}", "base.vocabulary=300",
    "base.training={steps: 4, batch: 4, lr: 0.01, warmup: 1, window: 32}", "reward_model.reference_samples=8",
    "reward_model.training={epochs: 1, batch: 8, lr: 0.001, warmup: 1}",
    "optimise={steps: 2, prompts_per_step: 2, samples_per_prompt: 2, lr: 0.01, beta: 0.05, max_new_tokens: 12, "
    "checkpoint_every: 1}",
    "labels={annotators: human, initial: 0, inside: 2, cross: 4}", "evaluation.prompts=8",
)  # fmt: skip


@contextmanager
def entered(root: Path) -> Iterator[Project]:
    """The project at `root`, as the place from which commands are given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RLBACK_PROJECT", raising=False)
        patch.setenv("PREFECT_HOME", str(root / ".prefect"))
        project = make_project(root)
        patch.chdir(root)
        try:
            yield project
        finally:
            project.store.close()


def command(*words: str, status: int = 0, keys: str = "") -> str:
    """Gives one command with `keys` typed at it; returns what it printed, both streams."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr("sys.stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
        found = main(list(words))
    assert found == status, said.getvalue()
    return said.getvalue()


def start(config: str, pairs: Path, *settings: str, status: int = 0) -> str:
    """`rlback run configs/CONFIG --pairs PAIRS`, small; later settings win over earlier ones."""
    given = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    return command(
        "run", str(ROOT / "configs" / config), "--pairs", str(pairs), "--engine", "inline", *given, status=status
    )


def advance(*, status: int = 0) -> str:
    """`rlback advance`, without Prefect."""
    return command("advance", "--engine", "inline", status=status)


def decide(verdict: str, gate: str) -> None:
    """A person's decision on the evidence that `rlback gate show` printed."""
    shown = json.loads(command("gate", "show", gate, "--json"))
    command("gate", verdict, gate, "--digest", shown["digest"], "--reason", f"{verdict} it", "--as", "bob")


def preferences(topics: int = 8, each: int = 3) -> list[tuple[str, str, str, str]]:
    """Made-up (first turn, second turn, better reply, worse reply), `each` of one first turn."""
    return [
        (
            f"Should topic number {topic} be taught in school?",
            f"And what of class {number}?",
            f"Yes: topic {topic} helps every child in class {number}, and it costs little.",
            f"No, never {topic} in {number}.",
        )
        for topic in range(topics)
        for number in range(each)
    ]


def lines(rows: Sequence[Any]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def plain() -> list[dict[str, str]]:
    """Rows {prompt, chosen, rejected} of texts; rows of one topic share their prompt."""
    return [{"prompt": first, "chosen": better, "rejected": worse} for first, _, better, worse in preferences()]
