"""The search for steps that make masks better: on cases whose references are known, each step only where it is safe.

Steps are searched one after the other in the order in which they are done, each with what was taken before it. A step
is judged by leaving one case out: its value is the best on all other cases, its gain what it does to the one left out.
It is taken where the 95 % interval of the mean gain (a bootstrap over cases) includes no loss.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raum_lightning.datasets import DataSet
from raum_lightning.errors import EvaluationError, UserError
from raum_lightning.geometry import voxel_size
from raum_lightning.labels import Regions
from raum_lightning.metrics import Rules, score
from raum_lightning.metrics.evaluation import mapping
from raum_lightning.metrics.folders import MaskFile, read_pair
from raum_lightning.metrics.statistics import bootstrap_interval
from raum_lightning.postprocess import Postprocess, clean

SIZES_MM3 = (5, 10, 20, 50, 100, 150, 250, 500, 1000, 2000, 5000)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
COUNTS = (5, 3, 2, 1)
ENHANCING_MM3 = (20, 50, 100, 200, 300, 500, 1000)
# a mean Dice that differs by less is the same, and HD95 decides
SAME_DICE = 1e-4
FEWEST = 3

Gains = NDArray[np.float64]
# of each case, Dice and HD95 after each variant
Rows = list[list[tuple[float, float]]]


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
        taken: Whether it is part of the result.
    """

    name: str
    value: str
    gain: float
    low: float
    high: float
    gain_mm: float
    taken: bool


@dataclass(frozen=True)
class Fitted:
    """The steps that were taken, what the search found of each, and mean Dice and HD95 before and after."""

    steps: Postprocess
    found: tuple[Step, ...]
    before: tuple[float, float]
    after: tuple[float, float]
    cases: int


def figures(rules: Rules) -> tuple[str, str]:
    """Return the rules' Dice and HD95: by lesion where specks count as lesions there."""
    by_lesion = rules.name in ("brats2023", "brats2024")
    return ("lesion_dice", "lesion_hd95") if by_lesion else ("dice", "hd95")


def fit(
    pairs: Sequence[tuple[MaskFile, MaskFile]],
    rules: Rules,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Return the steps that are safe on these predictions and references; `progress` is told (done, of) steps.

    Raises `EvaluationError` for fewer than three cases, and `CaseError` or `LabelError` where one cannot be read.
    """
    if len(pairs) < FEWEST:
        raise EvaluationError(f"{len(pairs)} cases are too few to leave one out; give at least {FEWEST}")
    with mapping(workers) as mapped:

        def table(tried: Sequence[Postprocess]) -> Rows:
            rows = list(mapped(partial(_score_files, tried=tried, rules=rules), pairs))
            if problems := [row for row in rows if isinstance(row, str)]:
                raise EvaluationError(problems[0])
            return rows

        return search(table, pairs[0][1].dataset.regions, progress=progress)


def search(
    table: Callable[[Sequence[Postprocess]], Rows],
    regions: Regions,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Return the steps that are safe; `table` gives Dice and HD95 of each case, at least three, after each variant."""

    def gains(tried: Sequence[Postprocess]) -> Gains:
        return np.array(table(tried)).swapaxes(0, 1)

    stages = list(candidates(regions))
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


def candidates(regions: Regions) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Return each step by its name with the values that are tried."""
    order = sorted(regions, key=lambda name: -len(regions[name]))
    for region in order[:-1]:
        yield f"holes {region}", [{"holes": (region,)}]
    for key, values in (("min_mm3", SIZES_MM3), ("min_share", SHARES), ("largest", COUNTS)):
        for region in order:
            yield f"{key} {region}", [{key: {region: value}} for value in values]
    targets = ("core", "edema") if len(order) > 1 else ("core",)
    yield (
        f"min_enhancing_mm3 {order[-1]}",
        [{"min_enhancing_mm3": size, "enhancing_to": target} for target in targets for size in ENHANCING_MM3],
    )
    yield "core_needs_edema", [{"core_needs_edema": True}]


def _merged(taken: Postprocess, variant: dict[str, Any]) -> dict[str, Any]:
    merged = {}
    for key, value in variant.items():
        old = getattr(taken, key)
        merged[key] = (*old, *value) if isinstance(value, tuple) else old | value if isinstance(value, dict) else value
    return merged


def _score_files(
    pair: tuple[MaskFile, MaskFile], *, tried: Sequence[Postprocess], rules: Rules
) -> list[tuple[float, float]] | str:
    """Return the scores of one case after each variant; or why there are none."""
    try:
        prediction, target, affine = read_pair(*pair)
    except UserError as error:
        return str(error)
    return score_variants(prediction, target, tried, rules, spacing=voxel_size(affine), dataset=pair[1].dataset)


def score_variants(
    prediction: torch.Tensor,
    target: torch.Tensor,
    tried: Sequence[Postprocess],
    rules: Rules,
    *,
    spacing: tuple[float, float, float],
    dataset: DataSet,
) -> list[tuple[float, float]]:
    """Return Dice and HD95 of one case, the means over its regions, after each variant; masks are X Y Z."""
    known: dict[bytes, tuple[float, float]] = {}
    found = []
    for steps in tried:
        mask = clean(prediction.numpy(), steps, spacing, dataset.regions)
        key = mask.tobytes()
        if key not in known:
            chosen: dict[str, Any] = {"rules": rules, "regions": dataset.regions, "names": dataset.classes}
            scores = score(torch.from_numpy(mask), target, metrics=figures(rules), spacing=spacing, **chosen)
            dice, distance = (scores[f"{name}_mean"] for name in figures(rules))
            known[key] = dice, distance
        found.append(known[key])
    return found


def _judge(name: str, current: Gains, tables: Gains, values: Sequence[str]) -> tuple[Step, int]:
    """Return what leaving one case out says of a step, and which of its values is best on all cases."""
    cases = np.arange(len(current))
    gains = []
    for left_out in cases:
        others = cases != left_out
        best = _best(tables[:, others])
        gains.append(_gain(current[left_out], tables[best, left_out]))
    table = np.array(gains)
    low, high = bootstrap_interval(table[:, 0])
    low_mm, _ = bootstrap_interval(table[:, 1])
    gain, gain_mm = table.mean(axis=0).tolist()
    # rounding is no loss; without a gain in Dice one in mm, which no interval doubts, is enough
    safe = low >= -1e-9
    better = gain > SAME_DICE or (gain >= -1e-9 and gain_mm > 0 and low_mm >= 0)
    best = _best(tables)
    return Step(name, values[best], gain, low, high, gain_mm, bool(safe and better)), best


def _gain(before: Gains, after: Gains) -> tuple[float, float]:
    """Return the gain in Dice and in mm; a case without a score gains nothing."""
    dice, distance = after[0] - before[0], before[1] - after[1]
    return float(np.nan_to_num(dice)), float(np.nan_to_num(distance, posinf=0, neginf=0))


def _best(tables: Gains) -> int:
    """Return which variant has the largest mean Dice, and of those alike the smallest HD95; the mildest of equals."""
    means = [_means(table) for table in tables]
    top = max(dice for dice, _ in means)
    alike = [number for number, (dice, _) in enumerate(means) if dice >= top - SAME_DICE]
    return min(alike, key=lambda number: (means[number][1], number))


def _means(table: Gains) -> tuple[float, float]:
    known = table[~np.isnan(table).any(axis=1)]
    if not len(known):
        return 0.0, 0.0
    dice, distance = known.mean(axis=0).tolist()
    return dice, distance
