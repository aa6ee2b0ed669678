"""The public data sets, where they are at hand: known row counts and known properties."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlback.data.preferences import read_pairs
from rlback.data.split import length_baseline, split_by_group
from rlback.data.text import read_text
from rlback.data.votes import annotator_agreement, apply_votes, read_votes
from rlback.errors import DataError

ROOT = Path(os.environ.get("RLBACK_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
pytestmark = pytest.mark.shared


def public(name: str) -> Path:
    path = ROOT / "data" / name
    if not path.is_file():
        pytest.skip(f"{path} is not here; RLBACK_SHARED names the directory that holds data/")
    return path


@pytest.mark.parametrize(("name", "differ"), [("test.jsonl.gz", 5), ("explicit_prompt.jsonl.gz", 0)])
def test_hh_harmless(name: str, differ: int) -> None:
    """Both files give the same 2303 pairs; 4 rows have an empty side, 5 dialogues differ in prompt."""
    path = public(f"hh-rlhf-harmless-test/{name}")
    with pytest.raises(DataError, match="line 87: chosen is empty"):
        read_pairs(path)
    found = read_pairs(path, prompt_mismatch="drop", skip_invalid=True)
    assert (len(found.pairs), found.invalid, found.prompts_differ) == (2303, 4, differ)
    other = read_pairs(public("hh-rlhf-harmless-test/explicit_prompt.jsonl.gz"), skip_invalid=True)
    # Compared as one truth value, so that a failure prints none of these texts.
    same = found.pairs == other.pairs
    assert same


def test_oasst() -> None:
    """754 pairs of 100 trees, which the opening turn tells apart."""
    found = read_pairs(public("oasst-en100/pairs.jsonl.gz"), group_column="prompt")
    assert (len(found.pairs), len({pair.group for pair in found.pairs})) == (754, 100)


def test_ukp_convarg() -> None:
    """11,650 pairs of 16 debates; longer wins 77.2 %; debates share no argument; people agree as 0.876."""
    found = read_pairs(public("ukp-convarg1/strict_pairs.jsonl.gz"), group_until="_")
    assert (len(found.pairs), len({pair.group for pair in found.pairs}), found.invalid) == (11_650, 16, 0)
    assert length_baseline(found.pairs)["value"] == pytest.approx(0.772, abs=1e-3)
    split = split_by_group(found.pairs, 4, 0)
    assert (split.leaked_train, split.leaked_held) == (0, 0)
    assert len(split.train) + len(split.held) == 11_650

    votes = read_votes(public("ukp-convarg1/all_pairs_with_votes.jsonl.gz"))
    assert len(votes) == 16_927
    weights = [pair.weight for pair in apply_votes(found.pairs, votes)]
    assert (min(weights), max(weights), sum(weight < 0.5 for weight in weights)) == (0.2, 1.0, 129)
    agreement = annotator_agreement(votes[pair.id] for pair in found.pairs)
    assert agreement.pairwise < agreement.against_rest < agreement.majority_share
    assert agreement.majority_share == pytest.approx(0.876, abs=1e-3)


def test_eltec() -> None:
    """9,036 paragraphs in the validation novels; a budget of a million bytes is nearly used up."""
    assert sum(1 for _ in read_text(public("eltec-eng/valid.txt.xz"))) == 9_036
    size = sum(len(p.encode()) for p in read_text(public("eltec-eng/train.txt.xz"), max_bytes=1_000_000))
    assert 980_000 < size <= 1_000_000
