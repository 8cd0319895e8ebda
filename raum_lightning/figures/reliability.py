"""The reliability diagram of a calibration as inline SVG: how often probabilities are right."""

from collections.abc import Mapping, Sequence
from html import escape

# of a bin: its voxels, their mean confidence, and the share that is right
Bin = Sequence[float]

SIZE, LEFT, RIGHT, TOP, BOTTOM = 300, 46, 10, 10, 34
TICKS = (0, 0.25, 0.5, 0.75, 1)
# radius in pixels of the dot of a bin that holds all voxels
DOT = 9.0


def reliability_chart(title: str, curves: Mapping[str, Sequence[Bin]]) -> str:
    """Return curves of confidence against the share of right voxels, under a heading with their legend, as HTML.

    On the diagonal probabilities are right as often as they say. The area of a dot is the share of the voxels that its
    bin holds; a mouse over it shows the numbers.
    """
    parts = [f'<path class="grid" d="M{_across(0)} {_down(0)}L{_across(1)} {_down(1)}"/>']
    parts += [f'<path class="grid" d="M{LEFT} {_down(y)}H{SIZE - RIGHT}"/>' for y in TICKS]
    parts += [f'<text class="y" x="{LEFT - 8}" y="{_down(y)}">{y:g}</text>' for y in TICKS]
    parts += [f'<text class="x" x="{_across(x)}" y="{SIZE - BOTTOM + 16}">{x:g}</text>' for x in TICKS]
    parts += [f'<text class="unit" x="{SIZE - RIGHT}" y="{SIZE - 3}">confidence, against the share right</text>']
    legend = []
    for number, (name, bins) in enumerate(curves.items()):
        points = " ".join(f"{_across(confidence)},{_down(right)}" for _, confidence, right in bins)
        parts.append(f'<polyline class="line c{number}" points="{points}"></polyline>')
        total = sum(one[0] for one in bins)
        for voxels, confidence, right in bins:
            said = f"{escape(name)}: {voxels:,.0f} voxels, confidence {confidence:.3f}, right {right:.3f}"
            radius = max(1.5, DOT * (voxels / total) ** 0.5)
            place = f'cx="{_across(confidence)}" cy="{_down(right)}" r="{radius:.1f}"'
            parts.append(f'<circle class="line c{number}" {place}><title>{said}</title></circle>')
        legend.append(f'<span class="key c{number}">{escape(name)}</span>')
    label = f'role="img" aria-label="{escape(title)}"'
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> {" ".join(legend)}</figcaption>'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" {label}>{"".join(parts)}</svg></figure>'
    )


def _across(x: float) -> float:
    return round(LEFT + (SIZE - LEFT - RIGHT) * x, 1)


def _down(y: float) -> float:
    return round(TOP + (SIZE - TOP - BOTTOM) * (1 - y), 1)
