import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from raum_lightning.errors import ConfigError
from raum_lightning.labels import REGIONS, in_classes
from raum_lightning.metrics import METRICS, RULES, SegmentationMetrics, find_rules, score
from raum_lightning.metrics.surface import hd95
from tests.helpers.ranks import in_two_processes

ISOTROPIC = (1.0, 1.0, 1.0)


def volume(seed: int) -> torch.Tensor:
    """Nested boxes of ED, NCR and ET, at a place of their own."""
    labels = torch.zeros(24, 20, 16, dtype=torch.uint8)
    for label, size, offset in ((2, 9, 0), (1, 6, 1), (3, 4, 2)):
        labels[
            tuple(slice(start + seed % 4, start + seed % 4 + size) for start in (offset + 2, offset + 3, offset + 1))
        ] = label
    return labels


def tiny(*labels: int) -> torch.Tensor:
    return torch.tensor(labels).view(1, 2, 4)


PREDICTION, TARGET = tiny(0, 2, 1, 3, 2, 0, 3, 1), tiny(0, 0, 1, 1, 2, 2, 3, 3)


def test_names_and_means_of_regions() -> None:
    scores = score(PREDICTION, TARGET, metrics=("dice", "volume"), spacing=(10, 10, 5), classes=("NCR", "RC"))
    # WT: TP 5, FP 1, FN 1; TC: TP 4; ET: TP 1, FP 1, FN 1; NCR: TP 1, FP 1, FN 1; RC in neither. A voxel is 0.5 ml
    assert scores == pytest.approx(
        {
            "dice_wt": 10 / 12,
            "dice_tc": 1,
            "dice_et": 2 / 4,
            "dice_mean": (10 / 12 + 1 + 2 / 4) / 3,
            "dice_ncr": 2 / 4,
            "dice_rc": 1,
            "volume_wt": 3,
            "volume_tc": 2,
            "volume_et": 1,
            "volume_mean": 2,
            "volume_ncr": 1,
            "volume_rc": 0,
        }
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_every_metric_has_a_value_for_every_region(dtype: torch.dtype) -> None:
    for rules in RULES.values():
        scores = score(volume(0).to(dtype), volume(1).to(dtype), metrics=("all",), spacing=ISOTROPIC, rules=rules)
        names = [name for name, measure in METRICS.items() if measure.only in ("", rules.name)]
        assert list(scores) == [f"{name}_{part}" for name in names for part in ("wt", "tc", "et", "mean")]
        absent = [name for name, value in scores.items() if not math.isfinite(value)]
        assert all("f1_medium" in name or "f1_large" in name or "small" in name for name in absent)


def test_distances_are_those_of_the_whole_masks() -> None:
    prediction, target, spacing = volume(0), volume(2), (0.5, 1.0, 2.0)
    scores = score(prediction, target, metrics=("hd95",), spacing=spacing)
    for name, classes in REGIONS.items():
        one, other = (in_classes(labels.numpy(), classes) for labels in (prediction, target))
        assert scores[f"hd95_{name.lower()}"] == hd95(one, other, spacing) > 0


def test_no_tumour_anywhere_and_a_missed_one() -> None:
    nothing, tumour = torch.zeros(24, 20, 16, dtype=torch.uint8), volume(0)
    metrics = ("dice", "hd95", "lesion_dice", "lesion_hd95")
    means = [f"{metric}_mean" for metric in metrics]
    both = score(nothing, nothing, metrics=metrics, spacing=ISOTROPIC)
    assert [both[key] for key in means] == [1, 0, 1, 0]
    missed = score(nothing, tumour, metrics=metrics, spacing=ISOTROPIC)
    assert [missed[key] for key in means] == pytest.approx([0, math.sqrt(240**2 + 240**2 + 155**2), 0, 374])


def test_unknown_names_are_told_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"metric 'f1' does not exist; choose from dice, precision, recall, .*lesion_hd95"
    ):
        SegmentationMetrics(("dice", "f1"))
    with pytest.raises(ConfigError, match="metric 'mets_dice' exists under brats2026 only; choose from dice"):
        SegmentationMetrics(("mets_dice",))
    with pytest.raises(ConfigError, match="rules 'brats2022' do not exist; choose from brats2020, brats2023"):
        find_rules("brats2022")
    with pytest.raises(ConfigError, match="class 'WT' does not exist; choose from NCR, ED, ET, RC"):
        score(PREDICTION, TARGET, metrics=("dice",), spacing=ISOTROPIC, classes=("WT",))


@pytest.mark.parametrize("spacing", [(-1, -1, 1), (0, 1, 1), (float("nan"), 1, 1), (float("inf"), 1, 1), (1, 1)])
def test_voxels_have_a_size(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"spacing=\[.*\] must be three finite numbers of mm above 0"):
        score(PREDICTION, TARGET, metrics=("hd95",), spacing=spacing)


def test_rules_by_name_and_metrics_as_a_list() -> None:
    named = score(PREDICTION, TARGET, metrics=("dice",), spacing=ISOTROPIC, rules="brats2023")
    assert named == score(PREDICTION, TARGET, metrics=("dice",), spacing=ISOTROPIC, rules=find_rules("brats2023"))
    with pytest.raises(ConfigError, match=r"metrics='dice' must be a list of names: \['dice'\]"):
        score(PREDICTION, TARGET, metrics="dice", spacing=ISOTROPIC)


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same grid, but have \(1, 2, 4\) and \(24, 20, 16\) voxels"):
        score(PREDICTION, volume(0), metrics=("dice",), spacing=ISOTROPIC)


def updated(metric: SegmentationMetrics, *cases: int) -> SegmentationMetrics:
    for case in cases:
        metric.update(volume(case), volume(case // 2), case=f"case {case}", spacing=(1.0, 1.0, 2.0))
    return metric


def test_each_case_counts_once() -> None:
    metric = updated(SegmentationMetrics(("dice", "hd95"), classes=("NCR",)), 1, 3, 2, 1, 1)
    rows = metric.per_case()
    assert list(rows) == ["case 1", "case 2", "case 3"]
    assert rows["case 3"] == score(
        volume(3), volume(1), metrics=("dice", "hd95"), spacing=(1.0, 1.0, 2.0), classes=("NCR",)
    )
    assert len({row["dice_wt"] for row in rows.values()}) > 1
    expected = {key: np.mean([row[key] for row in rows.values()]) for key in rows["case 1"]}
    assert metric.compute() == pytest.approx(expected)


# the classes of a data set with labels {1: ED, 2: NCR, 3: ET}, its regions and two masks
OTHER = ("background", "ED", "NCR", "ET")
OTHER_REGIONS = {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}
GUESS, TRUTH = tiny(1, 1, 2, 2, 3, 0, 0, 0), tiny(1, 1, 2, 0, 3, 3, 3, 0)
# ED: TP 2; NCR: TP 1, FP 1; ET: TP 1, FN 2; WT: TP 4, FP 1, FN 2; TC: TP 2, FP 1, FN 2
OTHER_DICE = {
    "dice_wt": 8 / 11,
    "dice_tc": 4 / 7,
    "dice_et": 2 / 4,
    "dice_mean": (8 / 11 + 4 / 7 + 2 / 4) / 3,
    "dice_ed": 1,
    "dice_ncr": 2 / 3,
}


def test_classes_are_told_by_the_names_of_the_data_set() -> None:
    metric = SegmentationMetrics(("dice",), classes=("ED", "NCR"), regions=OTHER_REGIONS, names=OTHER)
    metric.update(GUESS, TRUTH, case="a")
    assert metric.compute() == pytest.approx(OTHER_DICE)
    every = SegmentationMetrics(("dice",), classes=("all",), regions={}, names=OTHER)
    scores = every.score(GUESS, TRUTH, spacing=ISOTROPIC)
    assert np.isnan(scores.pop("dice_mean"))
    assert scores == pytest.approx({"dice_ed": 1, "dice_ncr": 2 / 3, "dice_et": 2 / 4})


def test_classes_are_told_by_the_names_of_the_data_set_that_is_followed() -> None:
    metric = SegmentationMetrics(("dice",), classes=("ED", "NCR"))
    glioma = metric.score(GUESS, TRUTH, spacing=ISOTROPIC)
    assert (glioma["dice_ncr"], glioma["dice_ed"]) == pytest.approx((1, 2 / 3))
    metric.follow(RULES["brats2023"], OTHER_REGIONS, OTHER)
    assert metric.score(GUESS, TRUTH, spacing=ISOTROPIC) == pytest.approx(OTHER_DICE)
    metric.follow(RULES["brats2024"], OTHER_REGIONS)  # whose names are known
    assert metric.names == OTHER and metric.rules is RULES["brats2024"]


def test_a_class_that_the_data_set_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="class 'RC' does not exist; choose from ED, NCR, ET, all"):
        SegmentationMetrics(("dice",), classes=("RC",), names=OTHER)
    SegmentationMetrics(("dice",), classes=("GTV",), regions={"GTV": (1,)}, names=("background", "GTV"))
    metric = SegmentationMetrics(("dice",), classes=("RC",))
    with pytest.raises(ConfigError, match="class 'RC' does not exist; choose from ED, NCR, ET, all"):
        metric.follow(RULES["brats2023"], OTHER_REGIONS, OTHER)
    assert metric.classes == ("RC",) and metric.rules is RULES["brats2020"] and metric.regions == REGIONS


def test_reset_forgets_and_no_case_gives_nothing() -> None:
    metric = updated(SegmentationMetrics(), 1)
    metric.reset()
    updated(metric, 2)
    assert list(metric.per_case()) == ["case 2"]
    metric.reset()
    assert metric.per_case() == {}


def test_any_id_and_a_module_in_half_precision_change_nothing() -> None:
    metric = torch.nn.ModuleList([SegmentationMetrics(("dice",))]).to(torch.bfloat16)[0]
    assert isinstance(metric, SegmentationMetrics)
    metric.update(volume(0), volume(1), case='Müller "7"\n/é')
    metric.to(torch.bfloat16)
    assert metric.per_case() == {'Müller "7"\n/é': score(volume(0), volume(1), metrics=("dice",), spacing=ISOTROPIC)}


def on_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    # three cases on two ranks, of which the sampler repeats the first; then all on one rank; then more on the other
    metric = SegmentationMetrics(("dice", "hd95"))
    results: list[tuple[Any, ...]] = []
    for shares in (((1, 3), (2, 1)), ((1, 2, 3), ()), ((), (1,))):
        updated(metric, *shares[rank])
        results.append((metric.compute(), metric.per_case(), len(metric.lines)))
        metric.reset()
    updated(metric, *((1,), ())[rank])
    first = metric.compute()
    updated(metric, *((2,), (3,))[rank])
    results.append((first, metric.compute()))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_two_ranks_see_what_one_would(tmp_path: Path) -> None:
    in_two_processes(on_rank, tmp_path)
    whole, single = (updated(SegmentationMetrics(("dice", "hd95")), *cases) for cases in ((1, 2, 3), (1,)))
    for rank, lengths in enumerate(((2, 3, 0), (2, 0, 1))):
        *rounds, continued = torch.load(tmp_path / f"{rank}.pt")
        for (means, rows, length), alone, expected in zip(rounds, (whole, whole, single), lengths, strict=True):
            assert means == pytest.approx(alone.compute())
            assert rows == alone.per_case()
            assert length == expected  # what a rank holds of its own is not mixed with what it was told
        assert continued == (pytest.approx(single.compute()), pytest.approx(whole.compute()))
