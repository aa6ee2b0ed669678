"""What the pictures of a report are made of: SVG elements, colours, and values as shown to a reader.

Nothing depends on a style sheet to be readable: shapes and strokes are attributes, and `FIGURE_CSS` only adds
colours (light and dark). Colour never carries meaning alone: methods have names and shapes of their own,
declined candidates a cross, approved ones a tick.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any
from xml.sax.saxutils import escape

Data = Mapping[str, Any]

LIGHT = "--bg:#ffffff;--ink:#1c2430;--soft:#586273;--grid:#e1e5ea;--no:#b3093c;--yes:#00744f;--wait:#8a5a00;"
LIGHT += "--m0:#0063a8;--m1:#bf4a06;--m2:#00795a;--m3:#9c3f86;--m4:#806000;--m5:#4f5d6e"
DARK = "--bg:#171c23;--ink:#e8ecf1;--soft:#a3adba;--grid:#323a45;--no:#ff8095;--yes:#4fd6a5;--wait:#f2bd5c;"
DARK += "--m0:#62b5f5;--m1:#ff9a5c;--m2:#45d0a3;--m3:#e59ad0;--m4:#e8c34f;--m5:#b6c0cd"
FIGURE_CSS = (
    f":root{{{LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}"
    "svg{color:var(--ink);font-family:system-ui,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif}"
    ".soft{color:var(--soft)}.grid{color:var(--grid)}.no{color:var(--no)}.yes{color:var(--yes)}.wait{color:var(--wait)}"
    + "".join(f".m{i}{{color:var(--m{i})}}" for i in range(6))
    + ".paper{fill:var(--bg)}"
    ".halo{stroke:var(--bg);paint-order:stroke;stroke-width:4px;stroke-linejoin:round}"
)

TEXT_LIMIT = 2000
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: object, limit: int = TEXT_LIMIT) -> str:
    """Any text as it may be shown: at most `limit` characters, nothing invisible left in it.

    Control, format (bidi, zero-width, tags), surrogate, private and unassigned characters become ⟦U+202E⟧;
    what was cut off is counted. Escaping for HTML or XML is still to be done.
    """
    whole = str(text)
    left = len(whole) - limit
    shown = whole[:limit].replace("\r\n", "\n")
    marked = "".join(
        char if char in "\n\t" or unicodedata.category(char) not in _UNSEEN else f"⟦U+{ord(char):04X}⟧"
        for char in shown
    )
    return f"{marked}… ({left:,} more)" if left > 0 else marked


def label(text: object, length: int = 26) -> str:
    """`text` on one line of at most `length` characters, escaped, for use inside a figure."""
    line = " ".join(visible(text, 4 * length).split())
    return escape(line if len(line) <= length else line[: length - 1] + "…")


def address(name: object, length: int = 14) -> str:
    """A checkpoint's name such as `policy@5` like `label`, cut so that its number stays."""
    whole = label(name, 200)
    policy, at, version = whole.rpartition("@")
    if len(whole) <= length or not at or len(version) > 5:
        return label(name, length)
    return f"{label(policy, max(length - len(version) - 1, 2))}@{version}"


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """A number with a true minus sign and grouped thousands; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """A share as a whole percentage."""
    return "–" if value is None or not math.isfinite(value) else f"{number(100 * value, 0)} %"


def interval(share: Mapping[str, Any] | None) -> str:
    """A share with its 95 % interval: `34 % (25–44 %)`."""
    if not share or share.get("value") is None:
        return "–"
    if share.get("low") is None or share.get("high") is None:
        return percent(share["value"])
    return f"{percent(share['value'])} ({number(100 * share['low'], 0)}–{percent(share['high'])})"


def standalone(figure: str) -> str:
    """The figure as a file of its own, with its colours, a margin and a background."""
    head, body = figure.split(">", 1)
    width, height = (int(size) for size in re.search(r'viewBox="0 0 (\d+) (\d+)"', head).groups())  # type: ignore[union-attr]
    box = f'viewBox="-16 -16 {width + 32} {height + 32}" width="{width + 32}" height="{height + 32}"'
    head = re.sub(r'viewBox="[^"]*" width="[^"]*" height="[^"]*"', box, head)
    paper = f'<rect class="paper" fill="#fff" x="-16" y="-16" width="{width + 32}" height="{height + 32}"/>'
    return f"{head}><style>{FIGURE_CSS}</style>{paper}{body}\n"


def svg(width: float, height: float, uid: str, title: str, description: str, body: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-labelledby="{uid}-t {uid}-d">'
        f'<title id="{uid}-t">{escape(title)}</title><desc id="{uid}-d">{escape(description)}</desc>'
        + "".join(body)
        + "</svg>"
    )


def text(
    x: float,
    y: float,
    words: str,
    cls: str = "",
    *,
    size: float = 12,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """`words` must be escaped already."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" fill="currentColor" font-size="{size}" '
        f'text-anchor="{anchor}"{weight}>{words}</text>'
    )


def path(d: str, cls: str, width: float = 1.5, *, dash: str = "", opacity: float = 1.0) -> str:
    extra = (f' stroke-dasharray="{dash}"' if dash else "") + (f' opacity="{opacity}"' if opacity < 1 else "")
    return (
        f'<path d="{d}" class="{cls}" fill="none" stroke="currentColor" stroke-width="{width}" '
        f'stroke-linecap="round" stroke-linejoin="round"{extra}/>'
    )


def cross(x: float, y: float, r: float, cls: str, width: float = 2.2) -> str:
    return path(f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}", cls, width)


def tick(x: float, y: float, cls: str) -> str:
    return path(f"M{x - 5:.1f} {y:.1f}l3.6 4 l6.4 -8", cls, 2.2)


def shape(index: int, x: float, y: float, r: float = 5) -> str:
    """A method's own mark: disc, square, triangle, diamond, hexagon, triangle down."""
    corners = (0, 4, 3, 4, 6, 3)[index % 6]
    turn = (0, math.pi / 4, -math.pi / 2, 0, 0, math.pi / 2)[index % 6]
    if not corners:
        return f'<circle class="m{index % 6}" cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="currentColor"/>'
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    points = " ".join(f"{x + 1.25 * r * math.cos(a):.1f},{y + 1.25 * r * math.sin(a):.1f}" for a in angles)
    return f'<polygon class="m{index % 6}" points="{points}" fill="currentColor"/>'


def text_width(words: str, size: float = 12) -> float:
    return 0.58 * size * len(re.sub(r"&\w+;", "x", words))
