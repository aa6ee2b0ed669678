"""Figure 1 of a report: gold and proxy reward against distance from the base policy, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby, pairwise

from rlback.evaluation.findings import gated_rounds, has_gold
from rlback.evaluation.svg import (
    Data,
    cross,
    label,
    number,
    path,
    shape,
    svg,
    text,
    text_width,
    visible,
)

Box = tuple[float, float, float, float]
#: Ends of rounds that lie closer than this (pixels) have one label together: their marks cover each other anyway.
TOGETHER = 14.0
#: How far from its point a label may be, and in which directions.
REACHES = (13, 19, 28, 40, 54, 70, 90, 115)
AROUND = ((1, 0), (0, -1), (0, 1), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (1, -0.5), (1, 0.5), (-1, -0.5), (-1, 0.5))


class _Panel:
    """One plot: data to pixels, and a placer that keeps labels off lines and off each other."""

    def __init__(self, box: Box, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.left, self.top, self.width, self.height = box
        self.x_high = max([*xs, 0.5]) * 1.03
        self.ticks = nice_ticks(min(ys, default=0.0), max(ys, default=1.0), 5 if self.height > 170 else 4)
        low, high = min([*ys, self.ticks[0]]), max([*ys, self.ticks[-1]])
        pad = 0.06 * (high - low)
        self.low, self.high = low - pad, high + pad
        self.taken: list[Box] = []  # left, top, right, bottom of what no label may cover
        self.inked: list[tuple[float, float]] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (
            self.left + self.width * x / self.x_high,
            self.top + self.height * (self.high - y) / (self.high - self.low),
        )

    def line(
        self, points: Sequence[tuple[float, float]], cls: str, width: float, dash: str, opacity: float
    ) -> str:
        where = [self.at(*point) for point in points]
        for (x0, y0), (x1, y1) in pairwise(where):
            steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / 5))
            self.inked += [(x0 + (x1 - x0) * k / steps, y0 + (y1 - y0) * k / steps) for k in range(steps + 1)]
        return path(
            "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in where), cls, width, dash=dash, opacity=opacity
        )

    def place(self, x: float, y: float, words: str, cls: str, *, bold: bool = False) -> tuple[str, str]:
        """`words` near the pixel (x, y), where it covers least: the line that leads there if it is far, and the text."""
        wide, best, best_cost, far, side = text_width(words), None, math.inf, 0, 1
        others = [box for box in self.taken if not _meet(box, (x, y, x, y))]  # what no leading line should cross
        for reach in REACHES:
            for dx, dy in AROUND:
                left = x + dx * reach - (wide if dx < 0 else wide / 2 if dx == 0 else 0)
                box = (left, y + dy * reach - 7, left + wide, y + dy * reach + 7)
                if box[0] < self.left or box[2] > self.left + self.width + 4:
                    continue
                if box[1] < self.top - 10 or box[3] > self.top + self.height:
                    continue
                over = sum(_meet(box, other) for other in self.taken)
                ink = sum(_meet(box, (px - 2, py - 2, px + 2, py + 2)) for px, py in self.inked)
                led = self._lead(x, y, box) if reach > 20 else []
                struck = sum(_meet(other, (px, py, px, py)) for px, py in led for other in others)
                cost = 1000 * over + 6 * ink + 20 * struck + reach + max(0, reach - 40)
                if cost < best_cost:
                    best, best_cost, far, side = box, cost, reach, dx
        if best is None or best_cost >= 1000:  # rather no label than one on top of another
            return "", ""
        self.taken.append(best)
        lead = ""
        if far > 20:
            way = self._lead(x, y, best)
            self.inked += way
            lead = path(f"M{x:.1f} {y:.1f}L{way[-1][0]:.1f} {way[-1][1]:.1f}", cls, 0.8, opacity=0.7)
        # Widths are estimated, and rather too wide: the text keeps to the end of its box that is next to the point.
        at, anchor = {1: (best[0], "start"), 0: (best[0] + wide / 2, "middle"), -1: (best[2], "end")}[side]
        return lead, text(at, best[3] - 3, words, f"{cls} halo", anchor=anchor, bold=bold)

    def _lead(self, x: float, y: float, box: Box) -> list[tuple[float, float]]:
        """Points every few pixels from (x, y) to the nearest place of a label."""
        near_x, near_y = min(max(x, box[0]), box[2]), min(max(y, box[1] + 3), box[3] - 3)
        steps = max(1, int(math.hypot(near_x - x, near_y - y) / 4))
        return [(x + (near_x - x) * k / steps, y + (near_y - y) * k / steps) for k in range(steps + 1)]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) covering [low, high] from within."""
    span = max(high - low, 1e-6)
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def _finite(point: Data, key: str) -> bool:
    return all(point.get(name) is not None and math.isfinite(point[name]) for name in ("kl", key))


def _curves(method: Data, key: str) -> list[tuple[int, bool, list[tuple[float, float]]]]:
    """(round, kept, points) for each unbroken stretch of a method's curve; x is the square root of the KL."""
    stretches: list[tuple[int, bool, list[tuple[float, float]]]] = []
    for number_, group in groupby(method["curve"], key=lambda point: point.get("round", 1)):
        points = [p for p in group if _finite(p, key)]
        for kept, run in groupby(points, key=lambda p: bool(p.get("kept", True))):
            xy = [(math.sqrt(max(p["kl"], 0.0)), p[key]) for p in run]
            if stretches and stretches[-1][0] == number_:  # the line goes on where the kept part ends
                xy = [stretches[-1][2][-1], *xy]
            stretches.append((number_, kept, xy))
    return stretches


def curves_figure(data: Data, *, width: int, uid: str) -> str:
    """Gold and proxy reward against sqrt(KL from the base policy), as two panels over one x axis.

    Gold and proxy have different scales, so they share no y axis. Distance as in Gao et al. (2210.10760,
    section 2). Without gold there is one panel.
    """
    methods = list(data["methods"].values())[:6]
    gold = has_gold(data)
    keys = [("gold", "Gold reward (points)", "")] if gold else []
    keys.append(("proxy", "Proxy reward (sd above base samples)", "7 4"))
    narrow = width < 600
    left, right, height = 40, 8, (210 if narrow else 290) if gold else (240 if narrow else 330)
    legend, y = _legend(methods, width, gold)
    xs = [math.sqrt(max(p["kl"], 0)) for m in methods for p in m["curve"] if _finite(p, "kl")]
    body = [legend]
    panel = None
    for key, title, dash in keys:
        ys = [p[key] for m in methods for p in m["curve"] if _finite(p, key)]
        base = data.get("base", {}).get(key)
        if base is not None and ys:
            ys.append(base)
        if not ys:
            continue
        tall = height if key == keys[0][0] else height * 0.66
        panel = _Panel((left, y + 22, width - left - right, tall), xs, ys)
        body.append(text(0, y + 8, title, bold=True, size=13))
        body += _draw_panel(panel, methods, key, dash, base, first=key == keys[0][0])
        y += 22 + tall + 34
    if panel is None:
        body.append(text(0, y + 8, "No point of any curve was recorded.", "soft"))
        return svg(width, y + 24, uid, "No reward curve", "No point of any curve was recorded.", body)
    for tick in nice_ticks(0, panel.x_high, 6 if narrow else 10):
        body.append(text(panel.at(tick, 0)[0], y - 16, f"{tick:g}", "soft", anchor="middle"))
    axis = f"{'√KL' if narrow else 'square root of the KL'} from the base policy (√nats)"
    body.append(text(left + panel.width / 2, y + 4, axis, "soft", anchor="middle"))
    what = "Gold and proxy reward" if gold else "Proxy reward"
    names = ", ".join(visible(m["label"], 60) for m in methods)
    return svg(
        width,
        y + 12,
        uid,
        f"{what} against distance from the base policy",
        f"One line for each method ({names}). Declined rounds are faded and end in a cross; approved "
        "checkpoints are ringed. The tables of this report hold the numbers.",
        body,
    )


def _draw_panel(
    panel: _Panel, methods: Sequence[Data], key: str, dash: str, base: float | None, *, first: bool
) -> list[str]:
    out: list[str] = []
    marks: list[str] = []
    words: list[tuple[float, float, str, str, bool]] = []  # the first get the best place
    narrow = panel.width < 500
    round_word, declined = ("", "") if narrow else ("round ", " declined")
    digits = next(d for d in (0, 1, 2, 3) if d == 3 or all(abs(t - round(t, d)) < 1e-9 for t in panel.ticks))
    for tick in panel.ticks:
        x, y = panel.at(0, tick)
        out.append(path(f"M{x:.1f} {y:.1f}h{panel.width:.1f}", "grid", 1))
        out.append(text(x - 6, y + 4, number(tick, digits), "soft", anchor="end"))
    if base is not None and first:
        x, y = panel.at(panel.x_high, base)
        out.append(panel.line([(0, base), (panel.x_high, base)], "soft", 1.2, "1 5", 1))
        words.append((x - 30, y, f"base {number(base)}", "soft", False))
    told = [m for m in methods if gated_rounds(m)][: len(methods) if len(methods) < 3 else 1] if first else []
    for index, method in enumerate(methods):
        cls = f"m{index}"
        decisions = {r["round"]: r["decision"] for r in gated_rounds(method)}
        stretches = _curves(method, key)
        for _, kept, points in stretches:
            look = (2.6, 1.0) if kept else (1.8, 0.45)
            out.append(panel.line(points, cls, look[0], dash, look[1]))
        ends: dict[str, list[tuple[float, float, int]]] = {"approved": [], "declined": []}
        for round_, group in groupby(stretches, key=lambda stretch: stretch[0]):
            runs = list(group)
            if decisions.get(round_) == "approved":
                x, y = panel.at(*next((pts for _, kept, pts in reversed(runs) if kept), runs[-1][2])[-1])
                marks.append(
                    f'<circle class="{cls}" cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" '
                    'stroke="currentColor" stroke-width="2"/>' + shape(index, x, y, 3.5)
                )
                ends["approved"].append((x, y, round_))
            elif decisions.get(round_) == "declined":
                x, y = panel.at(*runs[-1][2][-1])
                marks.append(cross(x, y, 5, cls))
                ends["declined"].append((x, y, round_))
        for decision, those in ends.items() if method in told else ():
            for x, y, rounds in _together(those):
                many = round_word.replace("round", "rounds") if len(rounds) > 1 else round_word
                told_rounds = f"{many}{', '.join(map(str, rounds))}{declined if decision == 'declined' else ''}"
                words.append((x, y, told_rounds, cls, False))
        last = next((points[-1] for _, kept, points in reversed(stretches) if kept), None)
        if last and not decisions:
            marks.append(shape(index, *panel.at(*last), 5))
        if last and not (narrow and (len(methods) > 3 or not first)):
            words.insert(0, (*panel.at(*last), label(method["label"]), cls, True))
        peak = method.get("gold_peak") if key == "gold" else None
        steps = [p for p in method["curve"] if _finite(p, key)]
        if peak is not None and steps:
            at = min(steps, key=lambda p: abs(p["step"] - method.get("gold_peak_step", 0)))
            x, y = panel.at(math.sqrt(max(at["kl"], 0)), peak)
            marks.append(f'<path class="{cls}" d="M{x:.1f} {y - 5:.1f}l-6 -10h12z" fill="currentColor"/>')
            step = "" if narrow else f", step {at['step']}"
            words.append((x, y - 8, f"peak {number(peak)}{step}", cls, False))
    panel.taken += [(x - 9, y - 9, x + 9, y + 9) for x, y, *_ in words]
    placed = [panel.place(x, y, words_, cls, bold=bold) for x, y, words_, cls, bold in words]
    return [*out, *(lead for lead, _ in placed), *(shown for _, shown in placed), *marks]


def _together(ends: Sequence[tuple[float, float, int]]) -> list[tuple[float, float, list[int]]]:
    """(x, y, rounds) of each place where rounds end, those close to each other as one."""
    found: list[tuple[float, float, list[int]]] = []
    for x, y, round_ in ends:
        near = next((rounds for at_x, at_y, rounds in found if math.hypot(x - at_x, y - at_y) < TOGETHER), None)
        if near is None:
            found.append((x, y, [round_]))
        else:
            near.append(round_)
    return found


def _legend(methods: Sequence[Data], width: float, gold: bool) -> tuple[str, float]:
    """The key above the plot, wrapped to `width`, and the height it takes."""
    ring = '<circle class="soft" cx="{x}" cy="{y}" r="7" fill="none" stroke="currentColor" stroke-width="2"/>'
    items = [(f"m{i}", label(m["label"])) for i, m in enumerate(methods)]
    items += [("ring", "approved, with its round"), ("cross", "declined (its round is faded)")]
    items = items if any(gated_rounds(m) for m in methods) else items[: len(methods)]
    if gold and any(m.get("gold_peak") is not None for m in methods):
        items.append(("peak", "gold peak"))
    out, x, y = [], 0.0, 12.0
    for kind, words in items:
        need = 34 + text_width(words) + 14
        if x and x + need > width:
            x, y = 0.0, y + 20
        if kind == "ring":
            out.append(ring.format(x=x + 15, y=y - 4))
        elif kind == "cross":
            out.append(cross(x + 15, y - 4, 5, "soft"))
        elif kind == "peak":
            out.append(f'<path class="soft" d="M{x + 15} {y + 1}l-6 -10h12z" fill="currentColor"/>')
        else:
            out.append(path(f"M{x + 2} {y - 4}h26", kind, 2.6) + shape(int(kind[1:]), x + 15, y - 4))
        out.append(text(x + 34, y, words))
        x += need
    return "".join(out), y + 20
