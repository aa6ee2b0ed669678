from __future__ import annotations

from functools import partial

import pytest
import torch

from rlback.environments.episodes import Episodes, own_tokens, replay, sample_episodes
from rlback.environments.protocol import Reply
from rlback.errors import ConfigError, DataError
from rlback.models.policy import Policy, token_logps
from rlback.models.sampler import sample
from rlback.models.tokenizers import word_level
from tests.environments.scripted import Dice, Echo, scripted
from tests.models.builders import PROMPTS, policy
from tests.models.test_sampler import gpt2

WORDS = word_level(["a", "b", "c", "d", "e"])
A, B, C, D, E = range(5)
BOS, EOS, PAD = WORDS.bos_token_id, WORDS.eos_token_id, WORDS.pad_token_id
ALPHABET = {"<bos>": "a", "a": "b", "b": "c", "c": "d", "d": "e", "e": "a"}
#: Ends turns at words below 5 and lets an untrained policy talk for a while.
ECHO = Echo(rounds=3, stop=frozenset(range(5)), farewell=(7, 8))


def play(made: Policy, prompts, environment, *, new: int = 24, seed: int = 5, **more) -> Episodes:
    return sample_episodes(made, prompts, environment=environment, max_new_tokens=new, seed=seed, **more)


def test_turns_that_end_at_a_stop_token():
    """Two turns by hand: a b, answered with b a; b, answered with the farewell d e. The mask is the policy's part."""
    drawn = play(scripted(WORDS, ALPHABET), [[BOS]], Echo(stop=frozenset([B]), farewell=(D, E)))
    assert drawn.completions() == [(A, B, B, A, B, D, E)]
    assert drawn.mask.tolist() == [[True, True, False, False, True, False, False]]
    assert (drawn.finished.tolist(), drawn.turns, drawn.states) == ([True], [2], [(2, 1)])
    assert drawn.logps[0].abs().max() < 1e-6


def test_turns_that_end_by_length():
    """Two turns of two tokens: a b, answered with b a; b c, after which there is nothing to add."""
    drawn = play(scripted(WORDS, ALPHABET), [[BOS]], Echo(turn_tokens=2))
    assert drawn.completions() == [(A, B, B, A, B, C)]
    assert drawn.mask.tolist() == [[True, True, False, False, True, True]]
    assert drawn.finished.tolist() == [True]


def test_rows_take_turns_at_their_own_pace():
    """First turns by hand: d e a b, stopped at b; c d e a, four tokens; b, stopped at once. All are one batch."""
    drawn = play(scripted(WORDS, ALPHABET), [[BOS, C], [BOS, B], [BOS, A]], Echo(stop=frozenset([B])))
    assert drawn.completions() == [
        (D, E, A, B, B, A, E, D, E, A, B),
        (C, D, E, A, A, E, D, C, D, E, A, B),
        (B, B, C, D, E, A),
    ]
    assert drawn.lengths.tolist() == [11, 12, 6]
    assert drawn.mask.sum(1).tolist() == [7, 8, 5]
    assert drawn.ids[2, 6:].tolist() == [PAD] * 6
    assert drawn.states == [(4, 3), (4, 4), (1, 4)]


@pytest.mark.parametrize(("new", "cut"), [(1, (A,)), (3, (A, B, B)), (4, (A, B, B, A)), (6, (A, B, B, A, B, D))])
def test_an_episode_without_room_is_cut(new: int, cut: tuple[int, ...]):
    """Inside a turn, inside an answer or inside the farewell: what is there so far stays, and it did not finish."""
    drawn = play(scripted(WORDS, ALPHABET), [[BOS]], Echo(stop=frozenset([B]), farewell=(D, E)), new=new)
    assert drawn.completions() == [cut]
    assert drawn.finished.tolist() == [False]


def test_positions_cap_each_row():
    """With 12 positions, a prompt of 10 has room for 2 tokens and one of 1 for 11; a prompt of 12 is refused."""
    made = scripted(WORDS, ALPHABET, positions=12)
    drawn = play(made, [[BOS, *[A] * 9], [BOS]], Echo(rounds=9, turn_tokens=2), new=99)
    assert drawn.lengths.tolist() == [2, 11]
    assert drawn.finished.tolist() == [False, False]
    with pytest.raises(DataError, match="prompt 1 has 12 tokens"):
        play(made, [[BOS], [A] * 12], Echo())


def test_too_many_turns_are_cut():
    """After `max_turns` turns the last answer still stands there, and the episode did not finish."""
    drawn = play(scripted(WORDS, ALPHABET), [[BOS]], Echo(rounds=9, turn_tokens=1, max_turns=2))
    assert drawn.completions() == [(A, A, B, B)]
    assert (drawn.finished.tolist(), drawn.turns) == ([False], [2])


@pytest.mark.parametrize("make", [policy, gpt2])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logps_equal_a_forward_pass(make, temperature: float):
    """The policy's tokens have the log-probabilities of a separate pass over the whole rows, so a ratio starts at 1."""
    made = make()
    drawn = play(made, PROMPTS, ECHO, temperature=temperature, samples_per_prompt=3)
    logps, tokens = token_logps(made.model, drawn.prompts, drawn.completions(), PAD, temperature)
    assert (logps * drawn.mask - drawn.logps).abs().max() < 1e-4
    assert not drawn.logps[~drawn.mask].any()
    assert 0 < int((tokens & ~drawn.mask).sum()) < int(tokens.sum())


@pytest.mark.parametrize("make", [policy, gpt2])
def test_neighbours_do_not_matter(make):
    """A row has the same episode alone, next to other prompts and in any batch size: only its number counts."""
    made, dice = make(), Dice(rounds=5, turn_tokens=2)
    whole = play(made, PROMPTS, dice, samples_per_prompt=2)
    for batch_size in (1, 3):
        again = play(made, PROMPTS, dice, samples_per_prompt=2, batch_size=batch_size)
        assert (again.completions(), again.states) == (whole.completions(), whole.states)
    among_others = play(made, [[22], [1] * 30, *PROMPTS[2:3], [22, 4], [5]], dice, samples_per_prompt=2)
    assert among_others.completions()[4:6] == whole.completions()[4:6]
    part = play(made, PROMPTS[3:], dice, samples_per_prompt=2, first_row=6)
    assert (part.completions(), part.states) == (whole.completions()[6:], whole.states[6:])
    assert torch.allclose(part.logps, whole.logps[6:, : part.logps.shape[1]], atol=1e-5)


def test_without_answers_it_is_the_plain_sampler():
    """An environment that has nothing to say until the end token leaves every number as `sample` draws it."""
    made = policy()
    silent = Echo(rounds=1, stop=frozenset([made.tokenizer.eos_token_id]), turn_tokens=99)
    for precision in ("fp32", "bf16"):
        plain = sample(made, PROMPTS, max_new_tokens=20, seed=5, samples_per_prompt=3, precision=precision)
        drawn = play(made, PROMPTS, silent, new=20, samples_per_prompt=3, precision=precision)
        for name in ("ids", "lengths", "mask", "logps", "finished"):
            assert torch.equal(getattr(drawn, name), getattr(plain, name))
        assert 0 < int(plain.finished.sum()) < 15


def test_the_same_prompt_twice_is_two_episodes():
    """Rows of one prompt draw on their own, whether asked for as samples or as repeated prompts."""
    made = policy()
    samples = play(made, PROMPTS[:1], ECHO, samples_per_prompt=4).completions()
    assert len(set(samples)) == 4
    assert play(made, PROMPTS[:1] * 4, ECHO).completions() == samples


def test_seed_decides_and_global_state_does_not():
    """The same seed repeats, also what the environment draws; another differs; torch's generator stays where it was."""
    made, dice = policy(), Dice(rounds=4, turn_tokens=2)
    torch.manual_seed(1)
    first = play(made, PROMPTS, dice)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), expected)
    again = play(made, PROMPTS, dice)
    assert (again.completions(), again.states) == (first.completions(), first.states)
    other = play(made, PROMPTS, dice, seed=6)
    assert other.completions() != first.completions()
    assert len({state[1:] for state in first.states}) > 1


def test_it_takes_the_samplers_place():
    """With the environment fixed it is called as `sample` is, and gives what `sample` gives: rows grouped by prompt."""
    sampler = partial(sample_episodes, environment=ECHO)
    drawn = sampler(policy(), PROMPTS, max_new_tokens=9, seed=0, temperature=1.0, samples_per_prompt=2, first_row=0)
    assert drawn.prompts == [tuple(prompt) for prompt in PROMPTS for _ in range(2)]
    assert drawn.ids.shape == drawn.mask.shape == drawn.logps.shape
    assert drawn.mask[:, 0].all()
    assert sampler(policy(), [], max_new_tokens=9, seed=0).completions() == []


def test_replay_tells_who_wrote_what():
    """Going through the ids again gives the mask, the state and the end that sampling gave, for cut episodes too."""
    made = policy()
    for new in (5, 9, 24):
        drawn = play(made, PROMPTS, ECHO, new=new, samples_per_prompt=3)
        for row, completion in enumerate(drawn.completions()):
            again = replay(ECHO, drawn.prompts[row], completion)
            assert list(again.mask) == drawn.mask[row, : len(completion)].tolist()
            assert (again.state, again.finished) == (drawn.states[row], bool(drawn.finished[row]))
        assert torch.equal(own_tokens(ECHO, drawn.prompts, drawn.completions()), drawn.mask)
    assert own_tokens(None, [[1], [1]], [[5, 6], [7]]).tolist() == [[True, True], [True, False]]
    assert own_tokens(ECHO, [], []).shape == (0, 0)


def test_replay_refuses_what_is_no_episode():
    """An answer that the environment never gave, and tokens after the end, are named with their place."""
    told = Echo(stop=frozenset([B]), farewell=(D, E))
    episode = (A, B, B, A, B, D, E)
    assert replay(told, [BOS], episode).finished
    with pytest.raises(DataError, match=r"token 3 of the completion is 2 where environment echo answers 0"):
        replay(told, [BOS], (A, B, B, C))
    with pytest.raises(DataError, match=r"token 7 .* has ended"):
        replay(told, [BOS], (*episode, A))


def test_bad_requests_are_refused():
    """Counts below one, empty prompts, and an environment that speaks of tokens the model does not have."""
    made = policy()
    for name in ("max_new_tokens", "temperature", "samples_per_prompt", "batch_size"):
        with pytest.raises(ConfigError, match=name):
            sample_episodes(made, PROMPTS, **{"environment": ECHO, "max_new_tokens": 4, "seed": 0, name: 0})
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        play(made, [[1], []], ECHO)
    for token in (24, -1):
        with pytest.raises(ConfigError, match=f"environment echo answers with token {token}; the policy has 24"):
            play(made, PROMPTS, Echo(rounds=1, turn_tokens=1, farewell=(token,)))


class Unruly(Echo):
    """Breaks its protocol in its second episode: says `reply`, or raises it."""

    def __init__(self, reply: object, where: str = "answer") -> None:
        super().__init__(rounds=1, turn_tokens=1)
        self.__dict__.update(reply=reply, where=where)

    def begin(self, prompt, seed):
        return self._say("begin", prompt, prompt)

    def answer(self, state, turn):
        return self._say("answer", state, Reply(state, (), done=True))

    def _say(self, where, prompt, otherwise):
        if where != self.where or len(prompt) == 1:
            return otherwise
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


@pytest.mark.parametrize(
    ("environment", "match"),
    [
        (Unruly(KeyError("x"), "begin"), r"fails in `begin`; KeyError: 'x'"),
        (Unruly(RuntimeError("no"), "answer"), r"fails in `answer`; RuntimeError: no"),
        (Unruly(None), "answers with a NoneType; a Reply is due"),
        (Unruly(Reply((), None)), "answers with a NoneType of tokens; a tuple is due"),
        (Unruly(Reply((), "de")), "answers with a str of tokens; a tuple is due"),
        *((Unruly(Reply((), (bad,))), f"answers with token {bad!r}; a token is an integer") for bad in (1.0, True, "d", None)),
    ],
)
def test_an_environment_that_breaks_its_protocol_is_named(environment: Unruly, match: str):
    """With its row: what it raises, an answer that is none, and tokens that are no ids; sampled and replayed."""
    prompts = [[1], [1, 2]]
    with pytest.raises(ConfigError, match=rf"environment echo {match}.* \(row 11\)$"):
        play(policy(), prompts, environment, first_row=10)
    with pytest.raises(ConfigError, match=rf"environment echo {match}.* \(row 1\)$"):
        own_tokens(environment, prompts, [[5], [5, 6]])
    with pytest.raises(ConfigError, match=rf"environment echo {match}"):
        replay(environment, prompts[1], [5, 6])


def test_an_environments_own_refusal_passes():
    """An error of ours says what is wrong already."""
    with pytest.raises(DataError, match=r"^not mine$"):
        play(policy(), [[1, 2]], Unruly(DataError("not mine"), "begin"))
