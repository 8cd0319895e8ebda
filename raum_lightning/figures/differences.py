"""Methods against the first of them: the difference in each case, its mean and interval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = ("#1f6fd1", "#d9480f", "#2b8a3e", "#862e9c", "#b8860b", "#495057")
# inches
COLUMN, ROW, MARGIN = 4.2, 0.42, 1.3


def draw_differences(
    names: Sequence[str],
    table: Mapping[tuple[str, str], NDArray[np.float64]],
    intervals: Mapping[tuple[str, str, str], tuple[float, float, float]],
) -> Any:
    """Return a matplotlib `Figure`: a column for each score, a row for each region.

    Args:
        names: The methods.
        table: For each score and region the scores, methods by cases.
        intervals: For each score, region and method but the first: mean difference to the first, and its interval.
    """
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(metric for metric, _ in table))
    parts = list(dict.fromkeys(part for _, part in table))
    others = list(names)[1:]
    figure = Figure((COLUMN * len(metrics), MARGIN + ROW * len(parts) * max(2, len(others))), layout="constrained")
    for column, metric in enumerate(metrics, 1):
        axes = figure.add_subplot(1, len(metrics), column)
        axes.axvline(0, color="#868e96", linewidth=0.8)
        for row, part in enumerate(parts):
            for number, name in enumerate(others):
                colour = COLOURS[number % len(COLOURS)]
                height = row + (number - (len(others) - 1) / 2) * 0.8 / len(others)
                scores = table[metric, part]
                with np.errstate(invalid="ignore"):
                    points = scores[number + 1] - scores[0]
                axes.plot(points, np.full(len(points), height), "o", color=colour, alpha=0.25, markersize=3)
                mean, low, high = intervals[metric, part, name]
                label = name if row == 0 else None
                axes.plot((low, high), (height, height), color=colour, linewidth=2, label=label)
                axes.plot(mean, height, "d", color=colour, markersize=6)
        axes.set_yticks(range(len(parts)), [part if part == "mean" else part.upper() for part in parts])
        axes.invert_yaxis()
        axes.set_title(metric)
        axes.set_xlabel(f"difference to {names[0]}")
        if column == 1:
            axes.legend(frameon=False, fontsize=8)
    return figure
