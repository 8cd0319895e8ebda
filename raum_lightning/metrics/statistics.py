"""Statistics of scores over cases, in which NaN is a case that has no such score."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 0


def mean(values: Iterable[float]) -> float:
    """Return the mean of those that are not NaN; NaN where all are."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class Summary:
    """Statistics of one score over cases.

    Args:
        mean: Over the cases that have it, as all others.
        std: Standard deviation of a sample; NaN for one case.
        median: The median.
        low: Lower end of the 95 % interval of the mean, by a bootstrap over cases.
        high: Its upper end.
        cases: How many have it.
    """

    mean: float
    std: float
    median: float
    low: float
    high: float
    cases: int


def summarise(values: Iterable[float]) -> Summary:
    """Return the statistics of scores, one per case; the same values give the same interval."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return Summary(math.nan, math.nan, math.nan, math.nan, math.nan, cases=0)
    # a distance may be infinite where no lesion is matched
    with np.errstate(invalid="ignore"):
        std = float(known.std(ddof=1)) if len(known) > 1 else math.nan
        low, high = bootstrap_interval(known)
    return Summary(mean(known), std, float(np.median(known)), low, high, len(known))


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the mean: percentiles over resampled cases, with a fixed seed."""
    means = values[_resamples(len(values))].mean(axis=1)
    if np.isfinite(means).all():
        low, high = np.percentile(means, [2.5, 97.5])
    else:  # between which none can be taken
        low, high = np.sort(means)[[round(share * (len(means) - 1)) for share in (0.025, 0.975)]]
    return float(low), float(high)


@lru_cache(maxsize=4)
def _resamples(cases: int) -> NDArray[np.int64]:
    return np.random.default_rng(SEED).integers(cases, size=(RESAMPLES, cases))
