"""The figures of BraTS-METS, which tells lesions of at least 20 mm³ from smaller ones (`brats-parse-metrics mets`).

A lesion counts as found where its Dice is at least 0.1. A false positive has no size there: all of them count against
the large lesions and against the small ones. Means are taken over the large lesions, found or missed (Dice and NSD 0,
373 mm), and all false positives; there is no figure where a case has no lesion of the size.
"""

import math
from collections.abc import Callable
from functools import partial
from statistics import fmean, pstdev

from raum_lightning.metrics.lesions import Counts, Lesions, MaskPair
from raum_lightning.metrics.region import ScoredRegion

LARGE_MM3 = 20.0
FOUND_DICE = 0.1
MISSED_MM = 373.0


def counts(lesions: Lesions, large: bool) -> Counts | None:
    """Return the large or the small lesions that are found, the false positives and the missed; None without any."""
    own = [pair for pair in lesions.found if (pair.target_mm3 >= LARGE_MM3) is large]
    missed = sum((size >= LARGE_MM3) is large for size in lesions.missed_mm3)
    if not own and not missed:
        return None
    tp = sum(pair.dice >= FOUND_DICE for pair in own)
    return Counts(tp, len(lesions.false_mm3), len(own) - tp + missed)


def _count(name: str, large: bool, region: ScoredRegion) -> float:
    found = counts(region.lesions, large)
    if found is None:
        return math.nan
    value = float(getattr(found, name))
    return 0.0 if math.isnan(value) else value


def _statistic(
    of: Callable[[list[float]], float], measure: Callable[[MaskPair], float], worst: float, region: ScoredRegion
) -> float:
    lesions = region.lesions
    large = [measure(pair) for pair in lesions.found if pair.target_mm3 >= LARGE_MM3]
    missed = sum(size >= LARGE_MM3 for size in lesions.missed_mm3)
    if not large and not missed:
        return math.nan
    return of(large + [worst] * (missed + len(lesions.false_mm3)))


Figure = tuple[Callable[[ScoredRegion], float], str, int]

FIGURES: dict[str, Figure] = {
    f"{size}_{name}": (
        partial(_count, name, size == "large"),
        f"{name} of lesions of {'at least' if size == 'large' else 'less than'} 20 mm³, found from Dice 0.1",
        -1 if name in ("fp", "fn") else 1,
    )
    for size in ("large", "small")
    for name in ("tp", "fp", "fn", "precision", "recall", "f1")
}
for _name, _measure, _worst in (
    ("dice", lambda pair: pair.dice, 0.0),
    ("hd95", lambda pair: pair.hd95_of_borders, MISSED_MM),
    ("nsd_10", lambda pair: pair.borders.nsd(1.0), 0.0),
):
    FIGURES[_name] = (
        partial(_statistic, fmean, _measure, _worst),
        f"mean over lesions of at least 20 mm³ and false positives; missed or false: {_worst:g}",
        -1 if _worst else 1,
    )
    FIGURES[f"{_name}_std"] = (partial(_statistic, pstdev, _measure, _worst), f"standard deviation of mets_{_name}", 0)
