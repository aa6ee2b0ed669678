from __future__ import annotations

import json
from random import Random

import pytest

from rlback.environments.calculator import WORDS, Sum, calculator
from rlback.environments.episodes import OutcomeScorer, replay, sample_episodes
from rlback.environments.protocol import Reply
from rlback.errors import ConfigError, DataError
from rlback.models.tokenizers import word_level
from tests.environments.scripted import scripted

TOKENIZER = word_level([*WORDS, "please"])
CALC = calculator(TOKENIZER)
BOS, EOS = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id
CLEAN = Sum(42)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.convert_tokens_to_ids(text.split()))


def test_a_whole_episode():
    """1 + 2 by hand: the call, the tool's 3 that is not the policy's, a wrong answer, and then the right one."""
    steps = {"?": "calc", "calc": "1", "1": "+", "+": "2", "2": "=", "3": "answer", "answer": "4", "4": "<eos>"}
    drawn = sample_episodes(
        scripted(TOKENIZER, steps), [(BOS, *ids("1 + 2 ?"))], environment=CALC, max_new_tokens=20, seed=0
    )
    written = ids("calc 1 + 2 = 3 answer 4 <eos>")
    assert drawn.completions() == [written]
    assert drawn.mask.tolist() == [[True] * 5 + [False] + [True] * 3]
    assert drawn.finished.tolist() == [True]
    assert drawn.states == [Sum(3, calls=1, answer=4, ended=True)]
    right = ids("calc 1 + 2 = 3 answer 3 <eos>")
    scorer = OutcomeScorer(CALC)
    assert scorer.score(drawn.prompts * 3, [written, right, right[:-1]]).tolist() == [0.0, 1.0, 0.0]
    assert scorer.identity() == OutcomeScorer(calculator(TOKENIZER)).identity()
    assert scorer.identity() != OutcomeScorer(calculator(TOKENIZER, max_turns=5)).identity()


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ("calc 1 2 + 3 0 =", "4 2"),
        ("please calc 2 * ( 3 - 9 ) =", "- 1 2"),
        ("calc 9 calc 7 =", "7"),
        ("calc 1 + =", "error"),
        ("calc =", "error"),
        ("1 + 1 =", "error"),
        ("=", "error"),
        ("calc please =", "error"),
        ("calc <pad> 1 =", "error"),
        ("calc 9 9 9 9 9 9 * 9 9 9 9 9 9 * 9 =", "error"),
        ("calc 1 + 1", "error"),
        ("please please", "error"),
    ],
)
def test_calls(turn: str, said: str):
    """The value of what follows the last `calc`, in digits; anything else is an error, said in a token."""
    reply = CALC.answer(CLEAN, ids(turn))
    assert reply == Reply(Sum(42, calls=1, failed=int(said == "error")), ids(said))


@pytest.mark.parametrize(
    ("turn", "answer"),
    [
        ("answer 4 2 <eos>", 42),
        ("please answer 7 answer 0 4 2 <eos>", 42),
        ("answer - 5 <eos>", -5),
        ("answer 4 0 + 2 <eos>", None),
        ("answer - - 4 2 <eos>", None),
        ("answer <eos>", None),
        ("4 2 <eos>", None),
        ("<eos>", None),
    ],
)
def test_answers(turn: str, answer: int | None):
    """The end token ends the episode; the answer is the number after the last `answer`, and a sum is no number."""
    reply = CALC.answer(CLEAN, ids(turn))
    assert reply == Reply(Sum(42, answer=answer, ended=True), done=True)
    assert CALC.outcome(reply.state) == float(answer == 42)


def test_only_the_policy_calls():
    """A call in the prompt is a prompt without a question, and the tool's own words are not read as a call."""
    with pytest.raises(DataError, match="asks the calculator nothing"):
        CALC.begin((BOS, *ids("calc 1 + 1 = ?")), 0)
    prompt, first = (BOS, *ids("1 + 1 ?")), ids("calc 5 = 5")
    state = replay(CALC, prompt, (*first, *ids("= error"))).state
    assert state == Sum(2, calls=2, failed=1)


@pytest.mark.parametrize("prompt", ["", "?", "1 + 1", "1 + ?", "please ?", "1 <bos> ?", "1 / 2 ?"])
def test_prompts_without_a_question(prompt: str):
    """A prompt that asks for no value is refused with what is wrong with it."""
    with pytest.raises(DataError, match="asks the calculator nothing"):
        CALC.begin((BOS, *ids(prompt)), 0)


def test_hostile_turns_are_always_answered():
    """Random ids, special tokens among them, get an answer of known words and never raise."""
    rng = Random(0)
    for _ in range(300):
        turn = tuple(rng.randrange(len(TOKENIZER)) for _ in range(rng.randint(1, 24)))
        reply = CALC.answer(CLEAN, turn)
        assert set(reply.tokens) <= set(CALC.words.values())
        assert reply.done == (turn[-1] == EOS)


def test_turns_are_capped():
    """A policy that calls for ever is cut after `max_turns` calls, and one that never stops after `turn_tokens`."""
    made = calculator(TOKENIZER, max_turns=2, turn_tokens=3)
    caller = scripted(TOKENIZER, {"?": "calc", "calc": "7", "7": "=", "=": "calc"})
    prompt = [(BOS, *ids("7 ?"))]
    drawn = sample_episodes(caller, prompt, environment=made, max_new_tokens=30, seed=0)
    assert drawn.completions() == [ids("calc 7 = 7 = error")]
    talker = scripted(TOKENIZER, {"?": "please", "please": "please", "error": "please"})
    drawn = sample_episodes(talker, prompt, environment=made, max_new_tokens=30, seed=0)
    assert drawn.completions() == [ids("please please please error please please please error")]
    assert not drawn.finished.any()


def test_the_vocabulary_is_checked():
    """A tokenizer without one of the words is refused by that word; the lineage is plain JSON."""
    with pytest.raises(ConfigError, match="'error'"):
        calculator(word_level([word for word in WORDS if word != "error"]))
    assert json.loads(json.dumps(CALC.lineage())) == CALC.lineage()
