"""The search for steps that make masks better: on cases whose references are known, each step only where it is safe.

Steps are searched one after the other in the order in which they are done, each with what was taken before it. A step
is judged by leaving one case out: its value is the best on all other cases, its gain what it does to the one left out.
It is taken where the 95 % interval of the mean gain in Dice (a bootstrap over cases) includes no loss, and Dice, else
HD95, else the third figure gains. Only values that are no loss by themselves are chosen from: a milder one takes the
place of the best where that harms a case. Of those as good in Dice it is the one with the smallest HD95. Thresholds of
probabilities, though applied first, are searched last: while specks are there, they decide what is best.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raum_lightning.errors import EvaluationError
from raum_lightning.labels import Regions
from raum_lightning.metrics import Rules
from raum_lightning.metrics.evaluation import workers_for
from raum_lightning.metrics.folders import MaskFile
from raum_lightning.metrics.statistics import bootstrap_interval
from raum_lightning.postprocess import Postprocess, nested
from raum_lightning.postprocess.files import Files, Rows, kept
from raum_lightning.postprocess.variants import Values

SIZES_MM3 = (5, 10, 20, 50, 100, 150, 250, 500, 1000, 2000, 5000, 10000, 20000)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
COUNTS = (5, 3, 2, 1)
ENHANCING_MM3 = (20, 50, 100, 200, 300, 500, 1000)
# the nearest to 0.5 first
THRESHOLDS = (0.45, 0.55, 0.4, 0.6, 0.35, 0.65, 0.3, 0.7, 0.2, 0.8)
# a mean Dice that gains less gains nothing
SAME_DICE = 1e-4
# values whose mean Dice differs by less are as good, and HD95 decides; below a tenth of a mm the third figure
ALIKE_DICE = 5e-4
# rounding is no loss
ROUNDING = -1e-9
FEWEST = 3
# cases for which no other process is started
FEW = 5

Gains = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """What the search found of one step.

    Args:
        name: The step and its region.
        value: The best value on all cases, as text.
        gain: Mean gain in Dice of the cases left out.
        low: Lower end of its 95 % interval.
        high: Upper end.
        gain_mm: Mean fall of HD95 in mm of the cases left out.
        gain_third: Mean gain of their third figure.
        taken: Whether it is part of the result.
    """

    name: str
    value: str
    gain: float
    low: float
    high: float
    gain_mm: float
    gain_third: float
    taken: bool


@dataclass(frozen=True)
class Fitted:
    """The steps that were taken, what the search found of each, and the mean `figures` before and after."""

    steps: Postprocess
    found: tuple[Step, ...]
    before: Values
    after: Values
    cases: int


def fit(
    pairs: Sequence[tuple[MaskFile, MaskFile]],
    rules: Rules,
    *,
    probabilities: Sequence[Path] = (),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Return the steps that are safe on these predictions and references; `progress` is told (done, of) steps.

    `probabilities` are the files of the predictions' probabilities, in their order, by which thresholds are searched
    too. Raises `EvaluationError` for fewer than three cases, and where one cannot be read.
    """
    if len(pairs) < FEWEST:
        raise EvaluationError(f"{len(pairs)} cases are too few to leave one out; give at least {FEWEST}")
    if absent := [path for path in probabilities if not path.is_file()]:
        raise EvaluationError(f"{absent[0]}: no such file; `raum segment --cases DIR --probabilities DIR` writes it")
    sources = probabilities or repeat(None, len(pairs))
    files = [Files(*pair, source, rules) for pair, source in zip(pairs, sources, strict=True)]
    with kept(files, workers or workers_for(len(pairs), FEW)) as table:
        regions = pairs[0][1].dataset.regions
        return search(table, regions, thresholds=bool(probabilities), progress=progress)


def search(
    table: Callable[[Sequence[Postprocess]], Rows],
    regions: Regions,
    *,
    thresholds: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Return the steps that are safe; `table` gives the `figures` of each case, at least three, after each variant.

    `thresholds` of probabilities are searched too where asked for.
    """

    def gains(tried: Sequence[Postprocess]) -> Gains:
        return np.array(table(tried)).swapaxes(0, 1)

    stages = list(candidates(regions, thresholds=thresholds))
    taken, found = Postprocess(), []
    before = current = gains([taken])[0]
    for done, (name, variants) in enumerate(stages, 1):
        tried = [replace(taken, **_merged(taken, variant)) for variant in variants]
        tables = gains(tried)
        step, best = _judge(name, current, tables, [str(Postprocess.of(variant)) for variant in variants])
        found.append(step)
        if step.taken:
            taken, current = tried[best], tables[best]
        if progress:
            progress(done, len(stages))
    return Fitted(taken, tuple(found), _means(before), _means(current), len(before))


def candidates(regions: Regions, *, thresholds: bool = False) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Return each step by its name with the values that are tried."""
    order = sorted(regions, key=lambda name: -len(regions[name]))
    chain = nested(regions)
    for region in chain[:-1]:
        yield f"holes {region}", [{"holes": (region,)}]
    for key, values in (("min_mm3", SIZES_MM3), ("min_share", SHARES)):
        for region in order:
            dropped = [{key: {region: value}} for value in values]
            yield f"{key} {region}", dropped + [variant | {"keep_one": (region,)} for variant in dropped]
    for region in order:
        yield f"largest {region}", [{"largest": {region: value}} for value in COUNTS]
    targets = ("core", "edema") if len(chain) > 1 else ("core",)
    yield (
        f"min_enhancing_mm3 {chain[-1]}",
        [{"min_enhancing_mm3": size, "enhancing_to": target} for target in targets for size in ENHANCING_MM3],
    )
    yield "core_needs_edema", [{"core_needs_edema": True}]
    for region in order if thresholds else ():
        yield f"threshold {region}", [{"threshold": {region: value}} for value in THRESHOLDS]


def _merged(taken: Postprocess, variant: dict[str, Any]) -> dict[str, Any]:
    merged = {}
    for key, value in variant.items():
        old = getattr(taken, key)
        if isinstance(value, tuple):
            merged[key] = tuple(dict.fromkeys((*old, *value)))
        else:
            merged[key] = old | value if isinstance(value, dict) else value
    return merged


def _judge(name: str, current: Gains, tables: Gains, values: Sequence[str]) -> tuple[Step, int]:
    """Return what leaving one case out says of a step, and which of its values is best on all cases."""
    harmless = [number for number, table in enumerate(tables) if _interval(table[:, 0] - current[:, 0])[0] >= ROUNDING]
    allowed = harmless or [*range(len(tables))]
    cases = np.arange(len(current))
    gains = np.zeros_like(current)
    for left_out in cases:
        best = _best(tables[:, cases != left_out], allowed)
        gains[left_out] = (tables[best, left_out] - current[left_out]) * (1, -1, 1)
    # a case without a score gains nothing
    gains = np.nan_to_num(gains, posinf=0, neginf=0)
    gain, gain_mm, gain_third = gains.mean(axis=0).tolist()
    (low, high), (low_mm, _), (low_third, _) = (_interval(column) for column in gains.T)
    nearer, fewer = gain_mm > 0 and low_mm >= 0, gain_third > SAME_DICE and low_third >= ROUNDING
    better = gain > SAME_DICE or (gain >= ROUNDING and (nearer or (fewer and gain_mm >= ROUNDING)))
    best = _best(tables, allowed)
    taken = bool(harmless and low >= ROUNDING and better)
    return Step(name, values[best], gain, low, high, gain_mm, gain_third, taken), best


def _interval(gains: Gains) -> tuple[float, float]:
    return bootstrap_interval(np.nan_to_num(gains, posinf=0, neginf=0))


def _best(tables: Gains, allowed: Sequence[int]) -> int:
    """Return which of the allowed variants is best: by Dice, of those alike by HD95, and the mildest of equals."""
    means = {number: _means(tables[number]) for number in allowed}
    top = max(dice for dice, _, _ in means.values())
    alike = [number for number, (dice, _, _) in means.items() if dice >= top - ALIKE_DICE]
    return min(alike, key=lambda number: (round(means[number][1], 1), -round(means[number][2], 3), number))


def _means(table: Gains) -> Values:
    known = table[~np.isnan(table[:, :2]).any(axis=1)]
    if not len(known):
        return 0.0, 0.0, 0.0
    dice, distance = known[:, :2].mean(axis=0).tolist()
    third = known[~np.isnan(known[:, 2]), 2]
    return dice, distance, float(third.mean()) if len(third) else 0.0
