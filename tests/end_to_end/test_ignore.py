"""Voxels that a data set ignores change neither the loss and its gradient nor any score, by closed forms."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from raum_lightning.cli import main
from raum_lightning.datasets import IGNORED
from raum_lightning.losses import DiceCELoss
from raum_lightning.phantom import write_phantoms
from tests.helpers import EXPERIMENTS

MINE = """
images: {flair: "{case}/*_flair", t1ce: "{case}/*_t1ce", t2: "{case}/*_t2"}
mask: "{case}/*_seg"
labels: {1: NCR, 2: ED, 4: ET}
ignore: 255
"""
VALUES = {"ncr": 1, "ed": 2, "et": 4}
Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Step]]:
    """Logits, whose gradient is kept, class indices and loss of each training step."""
    seen: list[Step] = []
    forward = DiceCELoss.forward

    def watched(self: DiceCELoss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = forward(self, logits, labels)
        if logits.requires_grad:
            logits.retain_grad()
            seen.append((logits, labels, value.detach()))
        return value

    monkeypatch.setattr(DiceCELoss, "forward", watched)
    yield seen


def write_ignoring(root: Path) -> None:
    """Four cases; in a slab through each, tumour and not, the mask says 255."""
    write_phantoms(root, cases=4, shape=(40, 40, 36), progress=False)
    for path in root.glob("*/*_seg.nii.gz"):
        image = nib.load(path)
        mask = np.asarray(image.dataobj).copy()
        tumour = np.flatnonzero(mask.any(axis=(1, 2)))
        mask[tumour[len(tumour) // 2] : tumour[len(tumour) // 2] + 6] = 255
        nib.save(nib.Nifti1Image(mask, image.affine), path)


def loss_by_hand(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """1 - soft Dice + cross-entropy, over the voxels that count alone."""
    y = logits.double().softmax(dim=1).movedim(1, -1)
    kept = labels != IGNORED
    dice = []
    for one, label, count in zip(y, labels.long(), kept, strict=True):
        g = torch.nn.functional.one_hot(label[count], y.shape[-1]).double()
        p = one[count]
        dice.append((2 * (g * p).sum(0) + 1e-5) / ((g**2).sum(0) + (p**2).sum(0) + 1e-5))
    likelihood = y[kept].gather(1, labels[kept].long()[:, None]).log().mean()
    return float(1 - torch.stack(dice).mean() - likelihood)


def scores_by_hand(predicted: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    kept = reference != 255
    scores = {}
    for name, value in VALUES.items():
        a, b = predicted[kept] == value, reference[kept] == value
        both = a.sum() + b.sum()
        scores[f"dice_{name}"] = 2 * (a & b).sum() / both if both else 1.0
        scores[f"specificity_{name}"] = (~a & ~b).sum() / (~b).sum()
    return scores


@pytest.mark.slow
def test_loss_gradient_and_scores_are_those_of_the_other_voxels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[Step]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ignoring(tmp_path / "cases")
    Path("mine.yaml").write_text(MINE)
    config: dict[str, Any] = {
        "base": str(EXPERIMENTS / "debug.yaml"),
        "module": {"metrics": ["dice", "specificity"], "lr": 1e-2},
        "data": {"root": "cases", "dataset": "mine.yaml", "test_fraction": 0.5, "folds": 2},
        "trainer": {"max_steps": 2, "logger": False, "enable_progress_bar": False},
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    run = ["-c", "run.yaml", "--run.id", "a"]
    assert main(["fit", *run]) == 0
    assert len(steps) == 2 and any((labels == IGNORED).any() for _, labels, _ in steps)
    for logits, labels, value in steps:
        assert value.item() == pytest.approx(loss_by_hand(logits.detach(), labels), rel=1e-5)
        assert logits.grad is not None
        at_voxels = logits.grad.abs().sum(dim=1)
        assert not at_voxels[labels == IGNORED].any() and at_voxels[labels != IGNORED].any()

    assert main(["test", *run]) == 0 and main(["predict", *run, "--data.predict_root", "cases"]) == 0
    with Path("runs/run/a/test/cases.csv").open() as file:
        tested = {row.pop("case"): {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)}
    assert len(tested) == 2
    sides = ["--predictions", "runs/run/a/predictions", "--references", "cases", "--dataset", "mine.yaml"]
    words = ["evaluate", *sides, "--metrics", "dice", "specificity", "--out"]
    assert main([*words, "before.json"]) == 0
    before = json.loads(Path("before.json").read_text())["cases"]
    assert len(before) == 4 and before.keys() > tested.keys()
    for case in before:
        path = Path(f"runs/run/a/predictions/{case}.nii.gz")
        image = nib.load(path)
        predicted = np.asarray(image.dataobj)
        reference = np.asarray(nib.load(next(Path("cases").glob(f"{case}/*_seg.nii.gz"))).dataobj)
        for name, score in scores_by_hand(predicted, reference).items():
            assert case not in tested or tested[case][name] == pytest.approx(score, abs=1e-9)
            assert before[case][name] == pytest.approx(score, abs=1e-9)
        other = np.where(reference == 255, np.where(predicted == 4, 1, 4), predicted).astype(predicted.dtype)
        nib.save(nib.Nifti1Image(other, image.affine, image.header), path)
    assert main([*words, "after.json"]) == 0
    assert json.loads(Path("after.json").read_text())["cases"] == before
