from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import permutations
from statistics import mean, pstdev

import pytest

from rlback.errors import DataError
from rlback.worlds import visits, visits_gold
from rlback.worlds.visits import COMPLETION_LIMIT, VOCABULARY, Example

SPLITS = ("train", "gate", "eval")


@pytest.fixture(scope="module")
def corpus() -> list[Example]:
    return visits.examples(seed=3, n=20_000)


@pytest.fixture(scope="module")
def found(corpus: list[Example]) -> list[visits_gold.Features]:
    return [visits_gold.features(e.prompt, e.completion, True) for e in corpus]


def test_vocabulary_is_118_words_and_every_word_of_the_corpus_is_in_it(corpus):
    """8 places, 12 notes, 1 arrow and 97 words of reviews, each once, all of them in use."""
    used = {word for e in corpus for word in f"{e.prompt} {e.completion}".split(" ")}
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 8 + 12 + 1 + 97
    # A prompt names its place, so all places and notes occur too.
    assert used == set(VOCABULARY)


def test_vocabulary_order_is_pinned():
    """Token ids come from this order: changing it makes every saved policy read other words."""
    digest = hashlib.sha256("\n".join(VOCABULARY).encode()).hexdigest()
    assert digest == "3e8c9b6984bd3d7eead9b179f75a2b9b76826fbf932749e8d1797682019ddda0"


def test_adjectives_say_one_thing_only():
    """36 adjectives: each belongs to one aspect and one polarity."""
    adjectives = [word for words in visits.ADJECTIVES.values() for word in words]
    assert len(adjectives) == len(set(adjectives)) == 36


def test_corpus_lengths(corpus):
    """About 19.5 words on average, about 41 at most, never beyond the completion limit."""
    lengths = [len(e.completion.split(" ")) for e in corpus]
    assert mean(lengths) == pytest.approx(19.5, abs=0.3)
    assert 38 <= max(lengths) <= COMPLETION_LIMIT
    # One claim of five words and nothing else.
    assert min(lengths) == 5


def test_corpus_hype_words(found):
    """Hype words per review: 38, 40, 17, 4.5, 1 and 0.1 percent of reviews have 0 to 5 of them."""
    counts = Counter(f.hype for f in found)
    shares = [100 * counts[h] / len(found) for h in range(6)]
    assert shares[:4] == pytest.approx([38, 40, 17, 4.5], abs=1.5)
    assert shares[4] == pytest.approx(1.0, abs=0.5)
    assert shares[5] == pytest.approx(0.1, abs=0.1)


def test_corpus_habits(found):
    """Two claims a review: 66 percent right (0.88 x 0.75), 22 wrong, 12 invented; and the other rates."""
    n = len(found)
    assert sum(f.correct for f in found) / n == pytest.approx(2 * 0.66, abs=0.03)
    assert sum(f.wrong for f in found) / n == pytest.approx(2 * 0.22, abs=0.02)
    assert sum(f.invented for f in found) / n == pytest.approx(2 * 0.12, abs=0.02)
    assert sum(f.filler for f in found) / n == pytest.approx(0.30, abs=0.02)
    assert sum(f.opener for f in found) / n == pytest.approx(0.45, abs=0.02)
    assert sum(f.verdict_ok for f in found) / n == pytest.approx(0.375, abs=0.02)
    assert sum(f.verdict_bad for f in found) / n == pytest.approx(0.125, abs=0.01)
    assert sum(f.repeat + f.broken + f.wrong_place + f.unfinished for f in found) == 0


def test_corpus_gold(found):
    """The corpus is mediocre: gold 1.5 with standard deviation 1.5, where 5.25 is possible."""
    gold = [visits_gold.gold_of(f) for f in found]
    assert mean(gold) == pytest.approx(1.5, abs=0.06)
    assert pstdev(gold) == pytest.approx(1.5, abs=0.06)
    assert 4.0 < max(gold) <= 5.25


def test_splits_share_nothing_and_hold_every_prompt():
    """8 places, 6*5*4 ordered aspects and 8 polarities make 7,680 prompts, about 70/15/15 in the splits."""
    drawn = {s: set(visits.prompts(0, visits.split_size(s), s)) for s in SPLITS}
    assert sum(map(len, drawn.values())) == len(set().union(*drawn.values())) == 7680
    assert [len(drawn[s]) / 7680 for s in SPLITS] == pytest.approx([0.70, 0.15, 0.15], abs=0.03)


def test_prompts_that_say_the_same_share_a_split():
    """Reordering the notes of a prompt never moves it to another split."""
    for prompt in visits.prompts(5, 40, "gate"):
        place, *notes, arrow = prompt.split(" ")
        assert {visits.split_of(" ".join([place, *p, arrow])) for p in permutations(notes)} == {"gate"}


def test_corpus_uses_train_prompts_only(corpus):
    """No gate or eval prompt is met while the base policy is trained."""
    assert {visits.split_of(e.prompt) for e in corpus} == {"train"}


def test_prompts_repeat_only_when_the_split_is_used_up():
    """Every prompt of a split comes once before any comes twice."""
    size = visits.split_size("eval")
    drawn = visits.prompts(1, size + 50, "eval")
    assert len(drawn) == size + 50
    assert len(set(drawn[:size])) == size
    assert set(drawn[size:]) <= set(drawn[:size])


def test_draws_depend_on_the_seed_and_a_larger_draw_continues_a_smaller_one():
    """The first of many equals the few; another seed, another order."""
    assert visits.prompts(1, 300, "train")[:20] == visits.prompts(1, 20, "train")
    assert visits.examples(1, 60)[:20] == visits.examples(1, 20)
    assert visits.prompts(2, 20, "train") != visits.prompts(1, 20, "train")
    assert visits.examples(2, 20) != visits.examples(1, 20)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "luigis service:bad price:good music:good",
        "paris service:bad price:good music:good =>",
        "luigis service:bad price:good =>",
        "luigis service:bad service:good music:good =>",
        "luigis service:so-so price:good music:good =>",
        "luigis  service:bad price:good music:good =>",
        "luigis service:bad price:good music:good wait:bad =>",
    ],
)
def test_foreign_prompts_are_refused(prompt):
    """Anything but a place, three different notes and the arrow is an error that shows the right form."""
    with pytest.raises(DataError) as caught:
        visits.parse_prompt(prompt)
    assert "luigis service:bad" in caught.value.remedy


def test_written_files_read_back_and_are_pinned(tmp_path):
    """The files hold what the functions draw; their bytes are the same on every machine and Python."""
    visits.write_data(tmp_path / "data", seed=0)
    corpus = tmp_path / "data" / "corpus.jsonl"
    assert visits.read_examples(corpus) == visits.examples(0, 20_000)
    for split in SPLITS:
        held = visits.read_prompts(tmp_path / "data" / f"prompts-{split}.jsonl")
        assert held == visits.prompts(0, visits.split_size(split), split)
    data = corpus.read_bytes()
    assert b"\r" not in data
    assert data.startswith(b'{"completion": "')
    digest = hashlib.sha256(data).hexdigest()
    assert digest == "72eda78d0764ec04f59b7eb9ec7310cc65d7b0602f2b052c9c194cb1b46ac112"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ('{"prompt": "luigis service:bad price:good music:good =>"}', "prompt, completion"),
        ('{"prompt": "luigis =>", "completion": "wow !"}', "no valid prompt"),
        ('{"prompt": "luigis service:bad price:good music:good =>", "completion": 3}', "must be an object"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    """A damaged corpus file is refused with file, line and reason."""
    path = tmp_path / "corpus.jsonl"
    good = json.dumps({"prompt": "luigis service:bad price:good music:good =>", "completion": "wow !"})
    path.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"corpus\.jsonl, line 2") as caught:
        visits.read_examples(path)
    assert complaint in caught.value.message


def test_a_missing_or_unreadable_file_is_a_data_error(tmp_path):
    """A file that is not there, or not text, is named."""
    with pytest.raises(DataError, match="nowhere"):
        visits.read_prompts(tmp_path / "nowhere.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="bytes"):
        visits.read_prompts(tmp_path / "bytes.jsonl")


_REPORT = """
import hashlib, pathlib, sys
from rlback.records import Comparison, Completion
from rlback.worlds import load_world
from rlback.worlds.annotators import SimulatedAnnotator
world = load_world("visits")
world.write_data(pathlib.Path(sys.argv[1]), seed=7)
total = hashlib.sha256("".join(world.vocabulary).encode())
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    total.update(path.name.encode() + path.read_bytes())
someone = SimulatedAnnotator("ann", world.gold)
texts = [Completion(e.completion, (), True) for e in world.examples(7, 200)]
for prompt, a, b in zip(world.prompts(7, 100, "gate"), texts[::2], texts[1::2]):
    total.update(someone.verdict(Comparison(prompt, a, b, "base"), 7).encode())
    total.update(world.describe(prompt, a.text, True).encode())
heavy = sorted({"torch", "numpy", "tokenizers", "transformers", "mlflow", "prefect"} & set(sys.modules))
print(total.hexdigest(), heavy)
"""


def test_other_processes_draw_the_same_and_load_nothing_heavy(tmp_path):
    """Files, verdicts and descriptions do not depend on the hash seed of the process; torch is not loaded."""
    reports = []
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _REPORT, str(tmp_path / hash_seed)]
        reports.append(subprocess.check_output(command, env=environment, text=True))
    assert len(set(reports)) == 1
    assert reports[0].strip().endswith(" []")
