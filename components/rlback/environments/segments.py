"""A walk on a windy island, in tokens: an environment without language, gradient or score.

The board is 6 x 6 cells; a fire burns in the 2 x 2 cells in the middle. A prompt says where the walker starts and how
the wind blows. A turn is one action; the answer is the ninth of the island that the walker then stands in. After
every third action the wind carries the walker one cell further. A segment is over after `STEPS` actions.

    prompt   x1 y3 wind:east =>
    walk     east @mid stay @mid stay @mid ...

Actions and observations are words of one vocabulary, so a segment is a completion like any other: people compare two
of them (Christiano et al., Deep RL from Human Preferences, 1706.03741) and a reward model adds up a value per token,
as theirs does over observations and actions. What a walk is worth is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlback.environments.protocol import Reply
from rlback.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SIZE = 6
STEPS = 12
WIND_EVERY = 3
#: Action -> (cells east, cells south).
MOVES = {"north": (0, -1), "south": (0, 1), "east": (1, 0), "west": (-1, 0), "stay": (0, 0)}
ACTIONS = tuple(MOVES)
PLACES = ("@nw", "@n", "@ne", "@w", "@mid", "@e", "@sw", "@s", "@se")
FIRE = "@mid"
WINDS = ("calm", "wind:north", "wind:south", "wind:east", "wind:west")
COLUMNS, ROWS = tuple(f"x{i}" for i in range(SIZE)), tuple(f"y{i}" for i in range(SIZE))
ARROW = "=>"
PROMPT_WORDS = 4  # a column, a row, the wind and the arrow
VOCABULARY = (ARROW, *COLUMNS, *ROWS, *WINDS, *ACTIONS, *PLACES)

_ARROWS = {"north": "^", "south": "v", "east": ">", "west": "<", "stay": "o"}


@dataclass(frozen=True)
class Spot:
    """Where the walker is after `step` actions; x counts from the west, y from the north, both from 0.

    bumped: the last action went against the edge of the board (the wind does not count).
    """

    x: int
    y: int
    wind: str
    step: int = 0
    bumped: bool = False

    @property
    def place(self) -> str:
        """The ninth of the island, as the walker is told."""
        return PLACES[self.y * 3 // SIZE * 3 + self.x * 3 // SIZE]


def start_of(prompt: str) -> Spot:
    """The start that a prompt describes. Raises DataError for anything that is not a prompt of this environment."""
    words = prompt.split(" ")
    known = (COLUMNS, ROWS, WINDS, (ARROW,))
    if len(words) != PROMPT_WORDS or any(word not in there for word, there in zip(words, known, strict=True)):
        raise DataError(
            f"{prompt!r} is not a prompt of the segments world", remedy=f"write one like `x1 y3 wind:east {ARROW}`"
        )
    return Spot(COLUMNS.index(words[0]), ROWS.index(words[1]), words[2])


def after(spot: Spot, action: str) -> Spot:
    """Where the walker is after one of `ACTIONS`."""
    x, y = spot.x + MOVES[action][0], spot.y + MOVES[action][1]
    bumped = not (0 <= x < SIZE and 0 <= y < SIZE)
    if (spot.step + 1) % WIND_EVERY == 0 and spot.wind != "calm":
        east, south = MOVES[spot.wind.removeprefix("wind:")]
        x, y = _inside(x) + east, _inside(y) + south
    return Spot(_inside(x), _inside(y), spot.wind, spot.step + 1, bumped)


def _inside(place: int) -> int:
    return min(max(place, 0), SIZE - 1)


def walk(prompt: str, completion: str) -> tuple[list[Spot], bool]:
    """The start and every spot that a segment's words lead to, and whether all of its words belong to the walk.

    They stop belonging at the first word that is no action where one is due, or is not what the walker then sees.
    """
    spots = [start_of(prompt)]
    words = completion.split()
    for place in range(0, len(words), 2):
        if words[place] not in MOVES or spots[-1].step == STEPS:
            return spots, False
        spot = after(spots[-1], words[place])
        if place + 1 < len(words) and words[place + 1] != spot.place:
            return spots, False
        spots.append(spot)
    return spots, True


def render(prompt: str, completion: str) -> str:
    """A segment as a picture for people: the board, each cell with the last step the walker was in it, and the moves.

    `S` is the start, `1` to `9` and `a` to `c` are steps, `*` is the fire. Under every move stands `*` if it ended at
    the fire and `!` if it went against the edge.
    """
    spots, whole = walk(prompt, completion)
    actions = completion.split()[0 : 2 * len(spots) - 2 : 2]
    middle = range(SIZE // 3, SIZE - SIZE // 3)
    cells = {(x, y): "*" if x in middle and y in middle else "." for x in range(SIZE) for y in range(SIZE)}
    for spot in spots:
        cells[spot.x, spot.y] = "S123456789abc"[spot.step]
    board = [" ".join(cells[x, y] for x in range(SIZE)) for y in range(SIZE)]
    notes = ["!" if spot.bumped else "*" if spot.place == FIRE else " " for spot in spots[1:]]
    lines = [*board, "", " ".join(_ARROWS[action] for action in actions), " ".join(notes).rstrip()]
    lines += [f"broken off after {spots[-1].step} steps"] * (not whole or spots[-1].step < STEPS)
    return "\n".join([spots[0].wind, *lines])


@dataclass(frozen=True)
class Segments:
    """`Environment` over a tokenizer that has each word of `VOCABULARY` as one token (`segments` makes it).

    The last answer brings the end token too, so that a segment ends as every completion does. A policy that writes no
    action is at the end of its walk at once.
    """

    words: dict[str, int] = field(repr=False)
    start: int | None
    end: int
    name: str = "segments"
    max_turns: int = STEPS
    turn_tokens: int = 1
    stop: frozenset[int] = frozenset()

    def begin(self, prompt: Sequence[int], seed: int) -> Spot:
        """The start. Raises DataError for a foreign prompt."""
        return start_of(self._read(prompt[1:] if prompt[0] == self.start else prompt))

    def answer(self, state: Spot, turn: tuple[int, ...]) -> Reply[Spot]:
        """What the walker sees after its action, and the end token after the last one."""
        action = self._read(turn)
        if action not in MOVES:
            return Reply(state, (self.end,), done=True)
        spot = after(state, action)
        done = spot.step == STEPS
        return Reply(spot, (self.words[spot.place], *[self.end] * done), done)

    def lineage(self) -> dict[str, Any]:
        return {
            "name": self.name, "words": self.words, "start": self.start, "end": self.end, "size": SIZE, "steps": STEPS,
            "wind_every": WIND_EVERY,
        }  # fmt: skip

    def render(self, prompt: Sequence[int], completion: Sequence[int]) -> str:
        """`render` of token ids; start and end token left out."""
        texts = (self._read([i for i in ids if i not in (self.start, self.end)]) for ids in (prompt, completion))
        return render(*texts)

    def _read(self, ids: Sequence[int]) -> str:
        table = {token: word for word, token in self.words.items()}
        return " ".join(table.get(token, f"<{token}>") for token in ids)


def segments(tokenizer: PreTrainedTokenizerFast) -> Segments:
    """The environment for policies with this tokenizer. Raises ConfigError naming a word that it does not have."""
    vocabulary = tokenizer.get_vocab()
    missing = [word for word in VOCABULARY if word not in vocabulary]
    if missing:
        raise ConfigError(
            f"the tokenizer has no token {missing[0]!r}, which the segments world needs",
            remedy="train the base policy in this world (source.world: segments)",
        )
    words = {word: vocabulary[word] for word in VOCABULARY}
    return Segments(words, tokenizer.bos_token_id, tokenizer.eos_token_id)
