"""Every score by name: how it is computed for a region, and the sentence that stands beneath a table.

| name                              | meaning                                                                    |
|-----------------------------------|----------------------------------------------------------------------------|
| `dice`                            | F1 score of voxels                                                         |
| `precision` `recall` `specificity`| of voxels                                                                  |
| `hd95`                            | robust Hausdorff distance, mm                                              |
| `assd`                            | average symmetric surface distance of border voxels, mm                    |
| `nsd_05` `nsd_10`                 | normalised surface Dice at .5 and 1 mm, by the organisers' formula         |
| `surface_dice_05` `_10`           | the same by DeepMind's formula, weighted by area: not comparable with it   |
| `volume` `reference_volume`       | of the prediction and the reference, ml                                    |
| `volume_error_ml` `_percent`      | prediction minus reference                                                 |
| `lesion_dice` `_hd95` `_nsd_05` `_nsd_10` | mean over lesions; `_std`: their standard deviation                |
| `lesion_tp` `_fp` `_fn` `_precision` `_recall` `_f1` | lesions counted                                         |
| `lesion_f1_small` `_medium` `_large` | F1 of lesions under 1, of 1 to 10, and over 10 ml                       |
| `mets_...`                        | of BraTS-METS, under brats2026 only: see `mets`                            |
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from raum_lightning.errors import ConfigError
from raum_lightning.metrics import mets
from raum_lightning.metrics.lesions import MaskPair
from raum_lightning.metrics.region import ScoredRegion
from raum_lightning.metrics.rules import Rules

Score = Callable[[ScoredRegion], float]


@dataclass(frozen=True)
class Measure:
    """One score of a region.

    Args:
        of: Computes it.
        text: What it is, with `rules` as a field of the format string.
        better: 1 where more is better, -1 where less is, 0 where neither.
        missing: What a case without prediction has, under rules that count it.
        only: Name of the only rules that have it.
    """

    of: Score
    text: str
    better: int = 1
    missing: float = math.nan
    only: str = ""


def explain(metric: str, rules: Rules) -> str:
    """Return the sentence that stands beneath a table of this metric."""
    return METRICS[metric].text.format(rules=rules)


def all_metrics(rules: Rules) -> tuple[str, ...]:
    """Return the names of all metrics that these rules have."""
    return tuple(name for name, measure in METRICS.items() if measure.only in ("", rules.name))


def select(names: Iterable[str], rules: Rules) -> tuple[str, ...]:
    """Return metrics by name, each once; "all" are all that the rules have. Raises `ConfigError` for any other."""
    if isinstance(names, str):
        raise ConfigError(f"metrics={names!r} must be a list of names: [{names!r}]")
    found: dict[str, None] = {}
    for name in names:
        known = all_metrics(rules)
        if name != "all" and name not in known:
            why = f"exists under {METRICS[name].only} only" if name in METRICS else "does not exist"
            raise ConfigError(f"metric {name!r} {why}; choose from {', '.join(known)}, all")
        found |= dict.fromkeys(known if name == "all" else [name])
    return tuple(found)


def part_name(name: str) -> tuple[str, str]:
    """Return the metric and the region of a score: `dice` and `whole_tumor` of `dice_whole_tumor`.

    Both may hold "_": the metric is the longest of `METRICS` that fits. What stands before a "/", as in
    `cleaned/dice_wt`, stays with the metric. Any other name is parted at its last "_".
    """
    for start in (0, name.rfind("/") + 1):
        if fitting := [metric for metric in METRICS if name.startswith(f"{metric}_", start)]:
            end = start + max(map(len, fitting))
            return name[:end], name[end + 1 :]
    metric, _, region = name.rpartition("_")
    return metric, region


_SHARE = "{rules.absent_text} where reference and prediction are both empty, 0 where exactly one is"
_MM = "in mm, {rules.absent_mm_text} where both are empty, {rules.missed_mm:.8g} where exactly one is"


def _share(measure: Score) -> Score:
    return lambda region: region.share(measure)


def _distance(measure: Score) -> Score:
    return lambda region: region.distance(measure)


def _by_lesion(name: str, what: str, measure: Callable[[MaskPair, Rules], float], mm: bool) -> dict[str, Measure]:
    """The mean and the standard deviation of a measure over lesions."""

    def missed(rules: Rules) -> float:
        return rules.missed_lesion_mm if mm else 0.0

    def mean(region: ScoredRegion) -> float:
        rules = region.rules
        return region.lesions.mean(
            lambda pair: measure(pair, rules),
            missed=missed(rules),
            unmatched=math.inf if mm else 0.0,
            absent=rules.absent_mm if mm else rules.absent,
        )

    def deviation(region: ScoredRegion) -> float:
        rules = region.rules
        return region.lesions.deviation(lambda pair: measure(pair, rules), missed=missed(rules))

    text = f"{what}, the mean over {{rules.lesions_text}}"
    return {
        f"lesion_{name}": Measure(mean, text, -1 if mm else 1, missing=373.0 if mm else 0.0),
        f"lesion_{name}_std": Measure(deviation, f"standard deviation of lesion_{name} in the case", 0, missing=0.0),
    }


def _count(name: str, better: int) -> Measure:
    text = f"{name} of lesions, matched by the rules; nothing where it has no denominator"
    return Measure(lambda region: float(getattr(region.lesions.counts(), name)), text, better, missing=0.0)


def _f1_of(low_ml: float, high_ml: float, text: str) -> Measure:
    # 10 ml itself belongs to the middle class
    low, high = (math.nextafter(1e3 * ml, math.inf) if ml == 10 else 1e3 * ml for ml in (low_ml, high_ml))
    return Measure(lambda region: region.lesions.counts(low, high).f1, f"F1 of lesions of {text}")


METRICS: dict[str, Measure] = {
    "dice": Measure(_share(lambda region: region.overlap.dice), _SHARE, missing=0.0),
    "precision": Measure(_share(lambda region: region.overlap.precision), _SHARE),
    "recall": Measure(_share(lambda region: region.overlap.recall), _SHARE),
    "specificity": Measure(lambda region: region.overlap.specificity, "over the whole grid"),
    "hd95": Measure(
        _distance(lambda region: region.masks.hd95(region.rules)),
        f"robust Hausdorff distance of {{rules.border_text}} {_MM}",
        -1,
        missing=373.0,
    ),
    "assd": Measure(
        _distance(lambda region: region.masks.borders.assd()),
        f"mean distance of border voxels {_MM}",
        -1,
    ),
    "nsd_05": Measure(_share(lambda region: region.masks.borders.nsd(0.5)), "border voxels within 0.5 mm", missing=0.0),
    "nsd_10": Measure(_share(lambda region: region.masks.borders.nsd(1.0)), "border voxels within 1 mm"),
    "surface_dice_05": Measure(
        _share(lambda region: region.masks.elements.surface_dice(0.5)), "surface area within 0.5 mm, by DeepMind"
    ),
    "surface_dice_10": Measure(
        _share(lambda region: region.masks.elements.surface_dice(1.0)), "surface area within 1 mm, by DeepMind"
    ),
    "volume": Measure(lambda region: region.predicted_ml, "of the prediction, in ml", 0),
    "reference_volume": Measure(lambda region: region.reference_ml, "of the reference, in ml", 0),
    "volume_error_ml": Measure(
        lambda region: region.predicted_ml - region.reference_ml, "prediction minus reference, in ml", 0
    ),
    "volume_error_percent": Measure(
        lambda region: 100 * (region.predicted_ml / region.reference_ml - 1) if region.reference_ml else math.nan,
        "prediction minus reference, in % of the reference; nothing where that is empty",
        0,
    ),
    **_by_lesion("dice", "Dice", lambda pair, rules: pair.dice, mm=False),
    **_by_lesion("hd95", "HD95 in mm", lambda pair, rules: pair.hd95(rules), mm=True),
    **_by_lesion("nsd_05", "NSD at 0.5 mm", lambda pair, rules: pair.borders.nsd(0.5), mm=False),
    **_by_lesion("nsd_10", "NSD at 1 mm", lambda pair, rules: pair.borders.nsd(1.0), mm=False),
    "lesion_tp": _count("tp", 1),
    "lesion_fp": _count("fp", -1),
    "lesion_fn": _count("fn", -1),
    "lesion_precision": _count("precision", 1),
    "lesion_recall": _count("recall", 1),
    "lesion_f1": _count("f1", 1),
    "lesion_f1_small": _f1_of(0, 1, "less than 1 ml"),
    "lesion_f1_medium": _f1_of(1, 10, "1 to 10 ml"),
    "lesion_f1_large": _f1_of(10, math.inf, "more than 10 ml"),
    **{
        f"mets_{name}": Measure(figure, text, better, missing=373.0 if name == "hd95" else 0.0, only="brats2026")
        for name, (figure, text, better) in mets.FIGURES.items()
    },
}
