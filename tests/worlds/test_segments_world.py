from __future__ import annotations

import hashlib
import statistics

import pytest

from rlback.environments.segments import walk
from rlback.errors import DataError
from rlback.records import Comparison, Completion
from rlback.worlds import load_world
from rlback.worlds.annotators import SimulatedAnnotator
from rlback.worlds.segments_world import SEGMENTS, Features, features, split_of

STAY = "x2 y2 calm =>"


def stays(steps: int) -> str:
    return " ".join(["stay @mid"] * steps)


def test_heat_is_what_gold_goes_by():
    """At the fire from the start: steps 1 to 3 are warm, 4 to 12 burn; 3 - 9 = -6."""
    assert features(STAY, stays(12)) == Features(warm=3, burnt=9)
    assert SEGMENTS.gold(STAY, stays(12), True) == -6
    assert SEGMENTS.hype(STAY, stays(12), True) == 12


def test_cooling_off():
    """Three steps in, then out and in: heat 3, 2, 3, 2, ... never above 3, so 3 + 4 warm steps and none burnt."""
    text = " ".join([stays(3), *["west @w east @mid"] * 4, "west @w"])
    assert features(STAY, text) == Features(warm=7)
    assert SEGMENTS.gold(STAY, text, True) == 7
    assert SEGMENTS.describe(STAY, text, True) == "7 warm"


def test_edges_and_missing_steps_cost():
    """Two bumps cost 0.6, nine steps not taken 4.5; words that do not belong to the walk count as not taken."""
    text = "north @nw north @nw east @nw"
    start = "x0 y0 calm =>"
    assert features(start, text) == Features(bumps=2, missing=9)
    assert SEGMENTS.gold(start, text, True) == pytest.approx(-5.1)
    assert SEGMENTS.counts(start, text + " @mid @mid", True) == {"warm": 0, "burnt": 0, "bumps": 2, "missing": 9}
    assert SEGMENTS.describe(start, text, False) == "0 warm, 2 against the edge, 9 not taken"


def test_the_policy_is_never_told():
    """Two walks with the same observations all along differ in gold: by a bump that nobody mentions."""
    away = "north @nw stay @nw"
    one, other = (f"x{x} y{y} calm =>" for x, y in ((0, 1), (0, 0)))
    assert [s.place for s in walk(one, away)[0]] == [s.place for s in walk(other, away)[0]]
    assert SEGMENTS.gold(one, away, True) - SEGMENTS.gold(other, away, True) == pytest.approx(0.3)


def test_splits_do_not_meet():
    """180 prompts fall into three splits; asking for more gives every prompt once before any comes again."""
    found = {split: SEGMENTS.prompts(0, 400, split) for split in ("train", "gate", "eval")}
    sizes = [len(set(prompts)) for prompts in found.values()]
    assert sum(sizes) == 180 == len(set().union(*found.values()))
    assert sizes[0] > 100
    for split, prompts in found.items():
        assert {split_of(prompt) for prompt in prompts} == {split}
        size = len(set(prompts))
        assert len(set(prompts[:size])) == size
        assert SEGMENTS.prompts(0, 50, split) == prompts[:50]
        assert SEGMENTS.prompts(1, 400, split) != prompts


def test_walkers_show_the_warmth_more_than_the_burns():
    """Corpus walks are whole; gold rises with steps at the fire up to five and falls beyond, which few walks reach."""
    examples = SEGMENTS.examples(0, 2_000)
    assert examples[:100] == SEGMENTS.examples(0, 100)
    by_steps: dict[int, list[float]] = {}
    for example in examples:
        assert split_of(example.prompt) == "train"
        assert features(example.prompt, example.completion).missing == 0
        assert len(example.completion.split()) == SEGMENTS.completion_limit
        at_fire = int(SEGMENTS.hype(example.prompt, example.completion, True))
        by_steps.setdefault(at_fire, []).append(SEGMENTS.gold(example.prompt, example.completion, True))
    means = [statistics.fmean(by_steps[steps]) for steps in range(6)]
    assert means == sorted(means)
    assert statistics.fmean(by_steps[8]) < statistics.fmean(by_steps[2])
    assert sum(len(golds) for steps, golds in by_steps.items() if steps >= 7) < 0.12 * len(examples)


def test_annotators_compare_segments():
    """A noiseless annotator prefers the walk of higher gold; one who likes the fire too much prefers the burns."""
    a, b = (Completion(text, (1,), True) for text in (stays(12), stays(3) + " west @w" + " stay @w" * 8))
    pair = Comparison(STAY, a, b, "base")
    assert SimulatedAnnotator("sim", SEGMENTS.gold, temperature=0, hype=SEGMENTS.hype).verdict(pair, 0) == "b"
    fond = SimulatedAnnotator("fond", SEGMENTS.gold, temperature=0, hype_bias=1.1, hype=SEGMENTS.hype)
    assert fond.verdict(pair, 0) == "a"


def test_data_files_are_the_same_everywhere(tmp_path):
    """Written twice the bytes agree and are the ones known; the corpus reads back; a foreign prompt is refused."""
    SEGMENTS.write_data(tmp_path / "a")
    SEGMENTS.write_data(tmp_path / "b")
    total = hashlib.sha256()
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        total.update(path.name.encode() + path.read_bytes())
    assert total.hexdigest()[:16] == "ea5fcdb20920054a"
    assert SEGMENTS.read_corpus(tmp_path / "a")[:50] == SEGMENTS.examples(0, 50)
    corpus = tmp_path / "a" / "corpus.jsonl"
    corpus.write_text('{"completion": "stay @mid", "prompt": "luigis =>"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl, line 1: holds no valid prompt"):
        SEGMENTS.read_corpus(tmp_path / "a")


def test_it_is_a_world_by_name():
    """`source: {world: segments}` finds it; labels show the picture."""
    assert load_world("segments") is SEGMENTS
    assert SEGMENTS.render(STAY, stays(2)).splitlines()[3] == ". . 2 * . ."
