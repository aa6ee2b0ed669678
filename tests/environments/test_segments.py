from __future__ import annotations

import json
from random import Random

import pytest

from rlback.environments.episodes import sample_episodes
from rlback.environments.segments import ACTIONS, STEPS, VOCABULARY, Spot, after, render, segments, start_of, walk
from rlback.errors import ConfigError, DataError
from rlback.models.tokenizers import decode, encode_prompt, word_level
from tests.environments.scripted import scripted

TOKENIZER = word_level(VOCABULARY)
ISLAND = segments(TOKENIZER)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.convert_tokens_to_ids(text.split()))


def test_moves_and_edges():
    """North is up the page; the edge holds the walker back and is remembered for that step."""
    spot = start_of("x0 y1 calm =>")
    assert (spot, spot.place) == (Spot(0, 1, "calm"), "@nw")
    spot = after(spot, "north")
    assert spot == Spot(0, 0, "calm", 1)
    spot = after(spot, "west")
    assert spot == Spot(0, 0, "calm", 2, bumped=True)
    assert after(spot, "south") == Spot(0, 1, "calm", 3)
    assert after(spot, "stay") == Spot(0, 0, "calm", 3)


def test_the_wind_blows_after_every_third_action():
    """From column 3 with an east wind, staying: carried at actions 3 and 6, and held by the edge without a bump."""
    spot, columns = start_of("x3 y2 wind:east =>"), []
    for _ in range(9):
        spot = after(spot, "stay")
        columns.append(spot.x)
    assert columns == [3, 3, 4, 4, 4, 5, 5, 5, 5]
    assert not spot.bumped


def test_ninths_of_the_island():
    """Each ninth is two by two cells, named by compass, the middle one apart."""
    rows = [" ".join(Spot(x, y, "calm").place for x in range(6)) for y in range(6)]
    assert rows[0] == rows[1] == "@nw @nw @n @n @ne @ne"
    assert rows[2] == rows[3] == "@w @w @mid @mid @e @e"
    assert rows[4] == rows[5] == "@sw @sw @s @s @se @se"


def test_a_whole_segment():
    """Twelve steps by hand: east into the middle, then out and in for ever; every second token is the island's."""
    follow = {"=>": "east", "@w": "east", "@mid": "west"}
    prompts = [tuple(encode_prompt(TOKENIZER, "x1 y2 calm =>"))]
    drawn = sample_episodes(scripted(TOKENIZER, follow), prompts, environment=ISLAND, max_new_tokens=25, seed=0)
    text = " ".join(["east @mid west @w"] * 6)
    assert [decode(TOKENIZER, ids_) for ids_ in drawn.completions()] == [text]
    assert drawn.completions()[0] == (*ids(text), TOKENIZER.eos_token_id)
    assert drawn.mask.tolist() == [[True, False] * 12 + [False]]
    assert (drawn.finished.tolist(), drawn.states) == ([True], [Spot(1, 2, "calm", 12)])


def test_a_turn_that_is_no_action_ends_the_walk():
    """Special tokens, places and words of the prompt are no actions: the end token follows at once, without an error."""
    state = start_of("x1 y2 calm =>")
    for token in range(len(TOKENIZER)):
        reply = ISLAND.answer(state, (token,))
        if token in ids(" ".join(ACTIONS)):
            assert (len(reply.tokens), reply.state.step, reply.done) == (1, 1, False)
        else:
            assert (reply.tokens, reply.state, reply.done) == ((TOKENIZER.eos_token_id,), state, True)


def test_a_walk_is_read_back():
    """Words lead to the same spots as the environment's; the first word that does not belong ends the walk."""
    spots, whole = walk("x1 y2 calm =>", "east @mid west @w stay")
    assert ([(s.x, s.y) for s in spots], whole) == ([(1, 2), (2, 2), (1, 2), (1, 2)], True)
    for text, steps in (("east @w west", 0), ("east @mid @mid", 1), ("east east", 0), ("hello", 0)):
        spots, whole = walk("x1 y2 calm =>", text)
        assert (len(spots) - 1, whole) == (steps, False)
    assert walk("x0 y0 calm =>", " ".join(["stay @nw"] * 13))[1] is False


def test_random_walks_stay_on_the_board():
    """Over 200 random walks every spot is on the board and read back as it was."""
    rng = Random(0)
    for _ in range(200):
        prompt = f"x{rng.randrange(6)} y{rng.randrange(6)} {rng.choice(['calm', 'wind:north', 'wind:west'])} =>"
        spots, words = [start_of(prompt)], []
        for _ in range(STEPS):
            words.append(rng.choice(ACTIONS))
            spots.append(after(spots[-1], words[-1]))
            words.append(spots[-1].place)
        assert all(0 <= s.x < 6 and 0 <= s.y < 6 for s in spots)
        assert walk(prompt, " ".join(words)) == (spots, True)


def test_people_see_a_picture():
    """The board with the last step in each cell, the moves, and what happened under them."""
    assert render("x1 y1 wind:south =>", "east @n south @mid south @s") == "\n".join([
        "wind:south",
        ". . . . . .",
        ". S 1 . . .",
        ". . 2 * . .",
        ". . * * . .",
        ". . 3 . . .",
        ". . . . . .",
        "",
        "> v v",
        "  *",
        "broken off after 3 steps",
    ])  # fmt: skip
    ids_ = (TOKENIZER.bos_token_id, *ids("x0 y0 calm =>")), (*ids("north @nw stay @nw"), TOKENIZER.eos_token_id)
    assert ISLAND.render(*ids_).splitlines()[1] == "2 . . . . ."
    assert ISLAND.render(*ids_).splitlines()[8:10] == ["^ o", "!"]


@pytest.mark.parametrize("prompt", ["", "x6 y0 calm =>", "x0 y0 calm", "y0 x0 calm =>", "x0 y0 storm =>", "x0  y0 calm =>"])
def test_foreign_prompts_are_refused(prompt: str):
    """A prompt of another world is named in the error."""
    with pytest.raises(DataError, match="not a prompt of the segments world"):
        start_of(prompt)


def test_the_vocabulary_is_checked():
    """A tokenizer of another world is refused by the first word it lacks; the lineage is plain JSON."""
    with pytest.raises(ConfigError, match="'=>'"):
        segments(word_level(["a"]))
    assert json.loads(json.dumps(ISLAND.lineage())) == ISLAND.lineage()
