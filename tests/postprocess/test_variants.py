"""A case that is scored after many variants: what is remembered changes no score."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raum_lightning.datasets import presets
from raum_lightning.errors import EvaluationError
from raum_lightning.labels import Thresholds
from raum_lightning.metrics import RULES, score
from raum_lightning.metrics.folders import MaskFile
from raum_lightning.metrics.surface import Memo, border_distances, element_distances
from raum_lightning.postprocess import Labels, Postprocess, clean
from raum_lightning.postprocess.files import Files, kept
from raum_lightning.postprocess.variants import Variants, figures
from tests.postprocess.test_fit import write

SPACING = (1.0, 2.0, 1.5)
SHAPE = (30, 24, 20)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"min_mm3": {"WT": 10}},
    {"min_mm3": {"WT": 10}},
    {"min_mm3": {"WT": 60, "TC": 20}},
    {"holes": ["WT", "TC"], "min_mm3": {"ET": 20}},
    {"min_share": {"TC": 0.2}, "largest": {"WT": 2}},
    {"min_enhancing_mm3": 400, "enhancing_to": "edema"},
    {"core_needs_edema": True, "min_mm3": {"WT": 10}},
]


def masks(seed: int) -> tuple[Labels, Labels]:
    """A nested tumour with a cavity, and a prediction of it with specks, each displaced by a voxel."""
    rng = np.random.default_rng(seed)
    target = np.zeros(SHAPE, np.uint8)
    for label, inset in ((2, 0), (1, 2), (3, 3), (4, 5)):
        target[4 + inset : 17 - inset, 5 + inset : 18 - inset, 4 + inset : 16 - inset] = label
    prediction = np.roll(target, 1, axis=seed % 3)
    for label in (1, 2, 3, 3, 2, 4):
        corner = rng.integers(0, np.array(SHAPE) - 4)
        sides = rng.integers(1, 4, 3)
        prediction[tuple(slice(first, first + side) for first, side in zip(corner, sides, strict=True))] = label
    return prediction, target


def plainly(prediction: Labels, target: Labels, steps: Postprocess, rules: str, dataset: str) -> tuple[float, ...]:
    """The means of `score` for a mask cleaned by `clean`."""
    known, chosen = presets()[dataset], RULES[rules]
    mask = torch.from_numpy(clean(prediction, steps, SPACING, known.regions))
    names: Mapping[str, Any] = {"regions": known.regions, "names": known.classes, "rules": chosen}
    found = score(mask, torch.from_numpy(target), metrics=figures(chosen), spacing=SPACING, **names)
    return tuple(found[f"{metric}_mean"] for metric in figures(chosen))


@pytest.mark.parametrize("rules", [*RULES])
@pytest.mark.parametrize("seed", range(2))
def test_scores_are_those_of_each_variant_by_itself(rules: str, seed: int) -> None:
    dataset = "brats2024" if rules == "brats2024" else "brats2023"
    prediction, target = masks(seed)
    variants = Variants(prediction, target, RULES[rules], spacing=SPACING, dataset=presets()[dataset])
    tried = [Postprocess.of(values) for values in VARIANTS]
    expected = [plainly(prediction, target, steps, rules, dataset) for steps in tried]
    assert len(set(expected)) > 3
    assert variants.scores(tried[:3]) == expected[:3]
    assert variants.scores(tried[::-1]) == expected[::-1]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("brats2020", ("dice", "hd95", "lesion_dice")),
        ("brats2023", ("lesion_dice", "lesion_hd95", "dice")),
        ("brats2023-men", ("lesion_dice", "lesion_hd95", "dice")),
        ("brats2023-met", ("lesion_dice", "lesion_hd95", "dice")),
        ("brats2024", ("lesion_dice", "lesion_hd95", "dice")),
        ("brats2026", ("dice", "hd95", "lesion_f1")),
    ],
)
def test_scores_that_decide_are_by_lesion_where_the_challenge_was(rules: str, expected: tuple[str, ...]) -> None:
    assert figures(RULES[rules]) == expected


def test_the_mask_of_thresholds_is_asked_for_once_and_scored_by_itself() -> None:
    prediction, target = masks(0)
    larger, asked = np.where(target > 0, target, prediction), []

    def decide(thresholds: Thresholds) -> Labels:
        asked.append(dict(thresholds))
        return larger

    rules = RULES["brats2023"]
    variants = Variants(prediction, target, rules, spacing=SPACING, dataset=presets()["brats2023"], decide=decide)
    tried = [Postprocess(), Postprocess(threshold={"WT": 0.3}), Postprocess(threshold={"WT": 0.3}, largest={"WT": 1})]
    plain = [Postprocess(), Postprocess(), Postprocess(largest={"WT": 1})]
    sources = [prediction, larger, larger]
    expected = [
        plainly(one, target, steps, "brats2023", "brats2023") for one, steps in zip(sources, plain, strict=True)
    ]
    assert variants.scores(tried) == expected and variants.scores(tried[::-1]) == expected[::-1]
    assert asked == [{"WT": 0.3}]


@pytest.mark.parametrize("distances", [element_distances, border_distances])
def test_remembered_distances_are_those_that_are_searched(distances: Any) -> None:
    prediction, target = (labels > 0 for labels in masks(1))
    memo = Memo()
    fewer = prediction & (np.arange(SHAPE[0]) < 14)[:, None, None]
    for guess, box in ((fewer, slice(0, 30)), (prediction, slice(0, 30)), (fewer, slice(2, 25))):
        found = distances(guess[box], target[box], SPACING, memo)
        expected = distances(guess[box], target[box], SPACING)
        assert all((one == other).all() for one, other in zip(found, expected, strict=True))


@pytest.mark.slow
def test_processes_give_the_rows_of_one_and_say_what_cannot_be_read(tmp_path: Path) -> None:
    rules, dataset = RULES["brats2023"], presets()["brats2023"]
    files = []
    for number in range(3):
        paths = tmp_path / f"p{number}.nii.gz", tmp_path / f"r{number}.nii.gz"
        for path, labels in zip(paths, masks(number), strict=True):
            write(path, np.where(labels == 4, 0, labels))
        prediction, reference = (MaskFile(path, dataset, "option") for path in paths)
        files.append(Files(prediction, reference, None, rules))
    tried = [Postprocess(), Postprocess(min_mm3={"WT": 10})]
    with kept(files, 1) as table:
        rows = table(tried)
        assert len(rows) == 3 and rows[0] != rows[1]
        for file in tmp_path.glob("*0.nii.gz"):
            file.unlink()
        assert table(tried) == rows  # a file is read once
    with kept(files[1:], 2) as table:
        assert table(tried) == rows[1:] and table(tried[:1]) == [row[:1] for row in rows[1:]]
    with kept(files, 1) as table, pytest.raises(EvaluationError, match=r"p0\.nii\.gz"):
        table(tried)
