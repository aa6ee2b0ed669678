"""A user's own file as an outcome reward: what it may hold, and what becomes of everything that it raises."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlback.campaign.scoring import scorer_of
from rlback.config import OutcomeConfig
from rlback.disks import full_disk
from rlback.errors import ConfigError
from tests.training.tiny import BOS, TOKENIZER, A


def scorer(root: Path, text: str) -> Any:
    """What a campaign makes of a file with this text, whose function is called `worth`."""
    (root / "grade.py").write_text(text)
    context: Any = SimpleNamespace(
        config=SimpleNamespace(scores=OutcomeConfig(function="grade.py:worth")), project=SimpleNamespace(root=root)
    )
    policy: Any = SimpleNamespace(tokenizer=TOKENIZER)
    return scorer_of(context, policy, {})


MUTE = "class Mute(Exception):\n    def __str__(self):\n        raise RuntimeError\n"
ABRUPT = "class Abrupt(BaseException):\n    pass\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import sys\nsys.exit(0)\n", r"SystemExit: 0 \(.*grade.py, line 2\)"),
        ("def worth(:\n", r"SyntaxError: .*line 1\)$"),
        (MUTE + "raise Mute\n", "Mute: .its text cannot be read"),
        (ABRUPT + "raise Abrupt('gone')\n", "Abrupt: gone"),
    ],
    ids=["exit", "syntax", "mute", "abrupt"],
)
def test_whatever_the_file_raises_is_an_error_that_names_it(tmp_path: Path, text: str, named: str) -> None:
    """An exit too, which would end the run as if all were well; and nothing of the file stays among the modules."""
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=rf"scores.function: .*grade.py cannot be imported: {named}") as refused:
        scorer(tmp_path, text)
    assert full_disk(refused.value, tmp_path) is None
    assert not {name for name in set(sys.modules) - before if "outcome" in name}


def test_the_file_can_be_interrupted(tmp_path: Path) -> None:
    """Ctrl-C while it is imported ends the run, and leaves no half of it among the modules."""
    before = set(sys.modules)
    with pytest.raises(KeyboardInterrupt):
        scorer(tmp_path, "raise KeyboardInterrupt\n")
    assert not {name for name in set(sys.modules) - before if "outcome" in name}


def test_the_file_may_hold_a_dataclass(tmp_path: Path) -> None:
    """Whose annotations are texts, so that its module is looked for by name."""
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Worth:\n"
        "    value: float\n\ndef worth(prompt: str, completion: str) -> float:\n    return Worth(0.25).value\n"
    )
    assert scorer(tmp_path, text).score([[BOS]], [[A]]).tolist() == [0.25]


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    """Neither sees the other, nor a module of that name."""
    made = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        made.append(scorer(tmp_path / place, f"def worth(prompt, completion):\n    return {len(made)}\n"))
    names = {one.function.__module__ for one in made}
    assert len(names) == 2
    assert names <= set(sys.modules)
    assert "grade" not in names
