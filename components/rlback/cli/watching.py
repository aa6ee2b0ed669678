"""Progress bars of campaigns that run in this process or in others: read from their progress files."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlback.campaign.progress import read_progress

if TYPE_CHECKING:
    from rlback.project import Project

#: Without a terminal, a stage that lasts is heard of this often.
LINE_EVERY_S = 30.0
#: A stage's usual share of its round, for a bar that moves evenly; measured on the demo, need not be exact.
WEIGHT = {"base": 30.0, "fit_reward": 6.0, "optimise": 14.0, "evaluate": 2.0}


@contextmanager
def watched(project: Project, campaigns: Sequence[str], *, quiet: bool = False) -> Iterator[None]:
    """Shows one bar a campaign while the block runs; plain lines now and then where there is no terminal."""
    if quiet:
        yield
        return
    ended = threading.Event()
    show = _bars if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(project, campaigns, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bars(project: Project, campaigns: Sequence[str], ended: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[name]:<14}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bars = {name: progress.add_task("waiting", name=name, total=1.0) for name in campaigns}
        while True:
            for name, bar in bars.items():
                state = read_progress(project.state / "progress" / f"{name}.json")
                if state is not None:
                    progress.update(bar, completed=share_done(state), description=describe(state))
            if ended.wait(0.2):
                return


def _lines(project: Project, campaigns: Sequence[str], ended: threading.Event) -> None:
    last: dict[str, tuple[Any, ...]] = {}
    said: dict[str, float] = {}
    while True:
        for name in campaigns:
            state = read_progress(project.state / "progress" / f"{name}.json")
            key = (state["round"], state["stage"], state.get("part")) if state else ()
            now = time.monotonic()
            if state is not None and (last.get(name) != key or (running(state) and now - said[name] >= LINE_EVERY_S)):
                last[name], said[name] = key, now
                print(f"{name}: {share_done(state):4.0%} {describe(state)}", file=sys.stderr, flush=True)
        if ended.wait(1.0):
            return


def share_done(state: dict[str, Any]) -> float:
    """How much of a campaign is done, by the usual weight of its stages; rounds may end earlier than planned."""
    from rlback.campaign.plan import STAGE_ORDER

    def weight(stages: Sequence[str]) -> float:
        return sum(WEIGHT.get(stage, 0.5) for stage in stages)

    first, each = weight(STAGE_ORDER[0]), weight(STAGE_ORDER[1])
    order = STAGE_ORDER[min(1, state["round"])]
    position = order.index(state["stage"])
    inside = 1.0 if state.get("part") else state["done"] / state["total"] if state["total"] else 0.0
    done = weight(order[:position]) + weight([state["stage"]]) * inside
    done += first + each * (state["round"] - 1) if state["round"] else 0.0
    return min(1.0, done / (first + each * state["rounds"]))


def describe(state: dict[str, Any]) -> str:
    """The stage under way in a few words, with the figure that matters."""
    words = {
        "data": "making the data", "base": "training the base policy", "sample": "sampling completions",
        "label": "collecting labels", "snapshot": "freezing labels", "fit_reward": "fitting the reward model",
        "optimise": "optimising the policy", "evaluate": "measuring the candidate", "decide": "at the gate",
        "settle": "settling the round",
    }  # fmt: skip
    where = f"round {state['round']}/{state['rounds']}: " if state["round"] else ""
    metrics = state["metrics"]
    figure = next((f" ({k} {metrics[k]:.2f})" for k in ("proxy", "nll", "accuracy") if k in metrics), "")
    return where + (state.get("part") or words[state["stage"]]) + figure + time_left(state)


def running(state: dict[str, Any]) -> bool:
    """A stage has begun to count its steps and is not through them."""
    return 0 < state["done"] < state["total"]


def time_left(state: dict[str, Any]) -> str:
    """Of what is under way, from its pace since its first step: ", step 210 of 900, about 4 min left"."""
    if not running(state):
        return ""
    done, total = state["done"], state["total"]
    where = f", {'' if state.get('part') else 'step '}{done} of {total}"
    since, first = state["paced"]
    if done == first:
        return where
    seconds = (state["written"] - since) / (done - first) * (total - done)
    return f"{where}, about {f'{seconds:.0f} s' if seconds < 90 else f'{seconds / 60:.0f} min'} left"
