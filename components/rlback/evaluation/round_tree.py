"""Figure 2 of a report: which candidate hangs off which checkpoint, and where the policy went back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlback.evaluation.findings import gated_rounds, held, own_base, returns
from rlback.evaluation.svg import (
    Data,
    address,
    cross,
    interval,
    label,
    number,
    path,
    svg,
    text,
    tick,
    visible,
)

PILL = 104.0  # width of a checkpoint on the trunk
PITCH = 206.0  # least width of a round in the wide figure
LANE = 112.0  # height of a declined candidate in the wide figure
ROW = 86.0  # height of a round in the narrow figure


@dataclass
class _Node:
    name: str
    x: float
    y: float
    trunk: bool
    lane: int = 0
    ports: list[str] = field(default_factory=list)  # loops that hang below it, in order

    def port(self, key: str) -> float:
        """x of one loop's line at the lower edge; first loops furthest right, so that lines do not cross."""
        half = PILL / 2 - 12 if self.trunk else 6.0
        gap = min(11.0, 2 * half / max(len(self.ports) - 1, 1))
        return self.x + half - gap * self.ports.index(key)


def tree_figure(data: Data, *, width: int, uid: str) -> str:
    """The tree of every method that has rounds: time runs to the right, under 600 px downwards."""
    shown = [method for method in list(data["methods"].values())[:6] if gated_rounds(method)]
    body: list[str] = []
    y, widest = 0.0, float(width)
    for method in shown:
        if len(shown) > 1:
            body.append(text(0, y + 14, label(method["label"], 60), bold=True, size=13))
            y += 26
        draw = _draw_down if width < 600 else _draw_right
        pitch = max(PITCH, min(250.0, (width - PILL / 2 - 110) / len(method["rounds"])))
        drawn, wide, high = draw(own_base(method, data["base"]), method, y, pitch)
        body += drawn
        widest, y = max(widest, wide), y + high
    return svg(widest, y, uid, "The tree of rounds", " ".join(tree_in_words(m) for m in shown), body)


def tree_in_words(method: Data) -> str:
    """The tree as one sentence a round, for those who cannot see it."""
    back = returns(method)
    told = [f"{visible(method['label'], 60)}:"]
    for r in method["rounds"]:
        end = f", back to {visible(back[r['round']], 60)}" if r["round"] in back else ""
        start, candidate = visible(r["start"], 60), visible(r["candidate"], 60)
        told.append(f"round {r['round']} from {start} to {candidate}: {visible(r['decision'], 20)}{end}.")
    for move in method.get("by_hand", ()):
        told.append(f"By hand back from {visible(move['from'], 60)} to {visible(move['to'], 60)}.")
    return " ".join(told)


def _lines(base: Data, method: Data, r: Data, room: int) -> list[tuple[str, str, bool]]:
    """(words, class, bold) under or beside a candidate."""
    colour = {"approved": "yes", "declined": "no"}.get(r["decision"], "wait")
    word = "waits for a decision" if r["decision"] == "open" else r["decision"]
    now = ", held now" if r["candidate"] == held(method, base) else ""
    if r.get("diverged"):
        return [("training diverged", colour, True), ("no candidate", "", False)]
    lines = [(f"{address(r['candidate'], room)} {label(word, 22)}{now}", colour, True)]
    lines.append((f"win rate {interval(r.get('win_rate'))}", "", False))
    if r.get("gold") is not None and r.get("start_gold") is not None:
        change = number(r["gold"] - r["start_gold"], sign=True)
        lines.append((f"gold {number(r['start_gold'])} → {number(r['gold'])} ({change})", "", False))
    elif r.get("gold") is not None:
        lines.append((f"gold {number(r['gold'])}", "", False))
    return lines


def _pill(node: _Node, *, tick_: bool, now: bool) -> str:
    cls = "yes" if tick_ else "ink"
    fill = (
        f'<rect class="{cls} paper" x="{node.x - PILL / 2:.1f}" y="{node.y - 15:.1f}" width="{PILL}" '
        f'height="30" rx="15" fill="#fff" stroke="currentColor" stroke-width="{3 if now else 1.6}"/>'
    )
    mark = tick(node.x - PILL / 2 + 19, node.y, "yes") if tick_ else ""
    name = text(
        node.x + (9 if tick_ else 0),
        node.y + 4,
        address(node.name, (8 if len(node.name) <= 8 else 7) if tick_ else 12),  # the tick takes its room
        anchor="middle",
        bold=True,
    )
    return fill + mark + name


def _bubble(node: _Node, decision: str) -> str:
    cls = {"approved": "yes", "declined": "no"}.get(decision, "wait")
    ring = (
        f'<circle class="{cls} paper" cx="{node.x:.1f}" cy="{node.y:.1f}" r="13" fill="#fff" '
        'stroke="currentColor" stroke-width="2"/>'
    )
    if decision == "declined":
        return ring + cross(node.x, node.y, 5, "no")
    if decision == "approved":
        return ring + tick(node.x, node.y, "yes")
    return ring + text(node.x, node.y + 5, "?", "wait", anchor="middle", bold=True, size=14)


def _back(points: str, x: float, y: float) -> str:
    """A dashed return line that ends in an arrow head pointing up at (x, y)."""
    head = f'<path class="no" d="M{x:.1f} {y:.1f}l-4.5 9h9z" fill="currentColor"/>'
    return f'<g class="back">{path(points + f"V{y + 8:.1f}", "no", 1.8, dash="6 4")}{head}</g>'


def _by_hand(method: Data, nodes: Mapping[str, _Node]) -> list[tuple[_Node, _Node]]:
    """Rollbacks by hand between checkpoints on the trunk, as (from, to), the oldest first."""
    pairs = [(nodes.get(move["from"]), nodes.get(move["to"])) for move in method.get("by_hand", ())]
    return [(a, b) for a, b in pairs if a is not None and b is not None and a.trunk and b.trunk and a is not b]


def _out(d: str, decision: str) -> str:
    cls = {"approved": "yes", "declined": "soft"}.get(decision, "wait")
    return path(d, cls, 3.2 if decision == "approved" else 1.8)


def _ports(
    nodes: Mapping[str, _Node], rounds: Sequence[Data], back: Mapping[int, str], straight: set[int]
) -> None:
    for r in rounds:
        if r["round"] not in straight:
            nodes[r["start"]].ports.append(f"out{r['round']}")
        if r["round"] in back:
            nodes[back[r["round"]]].ports.append(f"back{r['round']}")


def _plan(
    base: Data, rounds: Sequence[Data], down: bool, y: float, pitch: float
) -> tuple[dict[str, _Node], set[int]]:
    """Where every checkpoint goes, and the rounds whose line runs straight along the trunk or a lane."""
    nodes: dict[str, _Node] = {}
    straight: set[int] = set()

    def trunk(name: str, column: float) -> _Node:
        x, y_ = (PILL / 2 + 2, y + 24 + ROW * column) if down else (PILL / 2 + 6 + pitch * column, y + 92)
        return _Node(name, x, y_, True)

    newest = nodes[base["name"]] = trunk(base["name"], 0)
    lanes: dict[int, int] = {}  # column -> lane of the candidate there
    for column, r in enumerate(rounds, 1):
        start = nodes.get(r["start"])
        if (
            start is None
        ):  # a checkpoint of another campaign, or a step checkpoint: it stands on the trunk by itself
            start = newest = nodes[r["start"]] = trunk(r["start"], column - 0.5)
        if r["decision"] == "approved":
            node = trunk(r["candidate"], column)
            if start is newest:
                straight.add(r["round"])
            newest = node
        else:
            begun = 0 if start.trunk and start.name == base["name"] else _column(rounds, start.name)
            lane = 1 + max((lanes[c] for c in lanes if c > begun), default=0)
            if not start.trunk and not any(lanes[c] >= start.lane for c in lanes if c > begun):
                lane = start.lane
                straight.add(r["round"])
            lanes[column] = lane
            top = trunk(r["candidate"], column)
            node = _Node(
                r["candidate"],
                PILL + 24 if down else top.x,
                top.y if down else top.y + LANE * lane - 40,
                False,
                lane,
            )
        nodes[r["candidate"]] = node
    return nodes, straight


def _column(rounds: Sequence[Data], name: str) -> int:
    return next((i for i, r in enumerate(rounds, 1) if r["candidate"] == name), 0)


def _draw_right(base: Data, method: Data, y: float, pitch: float) -> tuple[list[str], float, float]:
    rounds, back = method["rounds"], returns(method)
    nodes, straight = _plan(base, rounds, False, y, pitch)
    _ports(nodes, rounds, back, straight)
    lines, things = [], []
    bottom = max(n.y + (34 if n.trunk else 96) for n in nodes.values())
    for column, r in enumerate(rounds, 1):
        start, node = nodes[r["start"]], nodes[r["candidate"]]
        things.append(
            text(PILL / 2 + 6 + pitch * column, y + 14, f"round {r['round']}", "soft", anchor="middle")
        )
        if r["round"] in straight:
            lines.append(_out(f"M{start.x:.1f} {start.y:.1f}H{node.x:.1f}", r["decision"]))
        elif node.trunk:  # from an older or a declined checkpoint up to the trunk
            side = node.x - PILL / 2 - 22
            rise = f"H{side - 12:.1f}q12 0 12 -12V{node.y + 12:.1f}q0 -12 12 -12h12"
            if start.trunk:
                x = start.port(f"out{r['round']}")
                leave = f"M{x:.1f} {start.y:.1f}V{bottom - 12:.1f}q0 12 12 12"
                bottom += 16
            else:
                leave = f"M{start.x + 13:.1f} {start.y:.1f}"
            lines.append(_out(leave + rise, r["decision"]))
        else:
            x = start.port(f"out{r['round']}")
            lines.append(
                _out(f"M{x:.1f} {start.y:.1f}V{node.y - 14:.1f}q0 14 14 14H{node.x:.1f}", r["decision"])
            )
        if r["round"] in back:
            target = nodes[back[r["round"]]]
            x, right, low = target.port(f"back{r['round']}"), node.x + 92, node.y + 78
            edge = target.y + (15 if target.trunk else 13)
            lines.append(
                _back(
                    f"M{node.x + 13:.1f} {node.y:.1f}H{right - 16:.1f}q16 0 16 16V{low - 16:.1f}q0 16 -16 16"
                    f"H{x + 14:.1f}q-14 0 -14 -14",
                    x,
                    edge,
                )
            )
        words = _lines(base, method, r, 14)
        first = node.y - 20 - 16 * (len(words) - 1) - 4 if node.trunk else node.y + 31
        for k, (line, cls, bold) in enumerate(words):
            things.append(text(node.x, first + 16 * k, line, cls, anchor="middle", bold=bold))
        things.append("" if node.trunk else _bubble(node, r["decision"]))
    for start, target in _by_hand(method, nodes):
        # Below all else, so that it crosses no candidate; into the left half of the pill, away from the loops.
        x, from_x, low = target.x - PILL / 4, start.x - PILL / 4, bottom + 6
        turn = 12 if x > from_x else -12
        way = f"M{from_x:.1f} {start.y + 15:.1f}V{low - 12:.1f}q0 12 {turn} 12H{x - turn:.1f}q{turn} 0 {turn} -12"
        lines.append(_back(way, x, target.y + 15))
        things.append(text((x + from_x) / 2, low - 5, "by hand", "no", anchor="middle"))
        bottom = low + 18
    things += _trunk_pills(base, method, nodes)
    head = nodes[base["name"]]
    called = "base policy" if held(method, base) != base["name"] else "base policy, held now"
    gold = [(f"gold {number(base['gold'])}", "")] if base.get("gold") is not None else []
    for k, (line, cls) in enumerate([*reversed(gold), (called, "soft")]):
        things.append(text(head.x - PILL / 2 + 2, head.y - 24 - 16 * k, line, cls))
    return lines + things, PILL / 2 + 6 + pitch * len(rounds) + 102, bottom - y


def _draw_down(base: Data, method: Data, y: float, pitch: float) -> tuple[list[str], float, float]:
    rounds, back = method["rounds"], returns(method)
    nodes, straight = _plan(base, rounds, True, y, pitch)
    _ports(nodes, rounds, back, straight)
    lines, things = [], []
    for r in rounds:
        start, node = nodes[r["start"]], nodes[r["candidate"]]
        if node.trunk and start.trunk:
            lines.append(_out(f"M10 {start.y:.1f}V{node.y:.1f}", r["decision"]))
        elif r["round"] in straight:
            lines.append(_out(f"M{start.x:.1f} {start.y:.1f}V{node.y:.1f}", r["decision"]))
        elif node.trunk:  # a declined candidate that was trained on, and then approved
            d = f"M{start.x:.1f} {start.y + 13:.1f}v14q0 10 -10 10H90q-10 0 -10 10V{node.y - 15:.1f}"
            lines.append(_out(d, r["decision"]))
        else:
            x, end = start.port(f"out{r['round']}"), node.x - 12
            turn = f"V{node.y - 10:.1f}q0 10 10 10H{end:.1f}" if start.trunk else f"V{node.y:.1f}H{end:.1f}"
            lines.append(_out(f"M{x:.1f} {start.y:.1f}{turn}", r["decision"]))
        if r["round"] in back:
            target = nodes[back[r["round"]]]
            x, low = target.port(f"back{r['round']}"), node.y + 36
            edge = target.y + (15 if target.trunk else 13)
            lines.append(
                _back(
                    f"M{node.x:.1f} {node.y + 13:.1f}V{low - 12:.1f}q0 12 -12 12H{x + 10:.1f}q-10 0 -10 -10",
                    x,
                    edge,
                )
            )
        words = [(f"round {r['round']}", "soft", False), *_lines(base, method, r, 9)]
        for k, (line, cls, bold) in enumerate(words):
            left = PILL + 14 if node.trunk else node.x + 20
            things.append(text(left, node.y - 20 + 15.5 * k, line, cls, bold=bold))
        things.append("" if node.trunk else _bubble(node, r["decision"]))
    for start, target in _by_hand(method, nodes):
        edge = PILL + 3
        way = path(f"M{edge} {start.y - 5:.1f}h5V{target.y + 6:.1f}h-2", "no", 1.8, dash="4 3")
        head = f'<path class="no" d="M{edge} {target.y + 6:.1f}l6 -4v8z" fill="currentColor"/>'
        lines.append(f'<g class="back">{way}{head}</g>')
        things.append(text(PILL + 14, start.y + 36, f"back to {address(target.name, 12)} by hand", "no"))
    things += _trunk_pills(base, method, nodes)
    gold = f", gold {number(base['gold'])}" if base.get("gold") is not None else ""
    now = ", held now" if held(method, base) == base["name"] else ""
    things.append(text(PILL + 14, nodes[base["name"]].y + 4, f"base policy{gold}{now}", "soft"))
    return lines + things, 344.0, ROW * len(rounds) + 84


def _trunk_pills(base: Data, method: Data, nodes: Mapping[str, _Node]) -> list[str]:
    now = held(method, base)
    approved = {r["candidate"] for r in method["rounds"] if r["decision"] == "approved"}
    return [_pill(n, tick_=n.name in approved, now=n.name == now) for n in nodes.values() if n.trunk]
