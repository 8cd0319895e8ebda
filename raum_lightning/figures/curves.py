"""Curves as inline SVG, which the style sheet of the page around them colours."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34
# more are not seen on a screen: means of neighbours stand for them
MOST_POINTS = 300
# of lines, in the style sheet
STYLES = 7


def chart(title: str, curves: Mapping[str, Points], *, top: float | None = None) -> str:
    """Curves of points (step, value) under a heading with their legend, as HTML; `top` is where the ordinate ends.

    Lines have the classes `line c0` to `line c6` in their order, which differ in colour and dashes. A mouse over a line
    shows its last value.
    """
    steps, values = zip(*(point for curve in curves.values() for point in curve), strict=True)
    end, high = max(steps) or 1.0, top or max(0.0, *values) or 1.0
    y_ticks = ticks(min(0.0, *values), high)
    low = y_ticks[0]

    def across(x: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * x / end, 1)

    def down(y: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low), 1)

    parts = [f'<path class="grid" d="M{LEFT} {down(y)}H{WIDTH - RIGHT}"/>' for y in y_ticks]
    parts += [f'<text class="y" x="{LEFT - 8}" y="{down(y)}">{y:.6g}</text>' for y in y_ticks]
    parts += [f'<text class="x" x="{across(x)}" y="{HEIGHT - BOTTOM + 16}">{x:,.0f}</text>' for x in ticks(0, end)]
    parts += [f'<text class="unit" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}">step</text>']
    legend = []
    for place, (name, curve) in enumerate(curves.items()):
        number = place % STYLES
        # the last point once more: a curve of one point is drawn as a dot
        line = " ".join(f"{across(x)},{down(y)}" for x, y in [*thin(curve), curve[-1]])
        said = f"{escape(name)}: {curve[-1][1]:.4g} at step {curve[-1][0]:,.0f}"
        parts.append(f'<polyline class="line c{number}" points="{line}"><title>{said}</title></polyline>')
        legend.append(f'<span class="key c{number}">{escape(name)}</span>')
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> {" ".join(legend)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} by step">{"".join(parts)}</svg>'
        "</figure>"
    )


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from `low` on, a multiple of 1, 2 or 5 times a power of ten apart, up to `high`."""
    span = (high - low) * (1 + 1e-9)  # three steps of 1e-4 are less than 3e-4 to a computer
    step = 10 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (5, 2, 1) if span / (factor * step) >= 3)
    first = math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def thin(curve: Points) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: means over neighbours."""
    size = math.ceil(len(curve) / MOST_POINTS)
    chunks = [curve[first : first + size] for first in range(0, len(curve), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in chunks]
