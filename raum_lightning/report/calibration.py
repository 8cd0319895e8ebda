"""The calibration of a cross-validation, or of one of its folds, as a reliability diagram and a sentence."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from raum_lightning.figures.reliability import reliability_chart
from raum_lightning.json_files import parse_json
from raum_lightning.runs.study_folder import StudyFolder

BINS = ("before_bins", "after_bins")


def fold_calibration(study: StudyFolder, fold: int) -> Mapping[str, Any] | None:
    """Return what the results of a cross-validation say of a fold; None where they say nothing."""
    try:
        found: Mapping[str, Any] = parse_json(study.results.read_bytes())["calibration"]["folds"][fold]
        return found if all(found[key] for key in BINS) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def calibration_section(folds: Sequence[Mapping[str, Any]], cases: str) -> str:
    """Return the diagram of all `folds` together, and how far confidence and truth are apart."""
    total = sum(fold["voxels"] for fold in folds)
    before, after = (sum(fold[key] * fold["voxels"] for fold in folds) / total for key in ("before", "after"))
    curves = {
        f"as the network says, error {before:.4f}": _together([fold["before_bins"] for fold in folds]),
        f"with a temperature, error {after:.4f}": _together([fold["after_bins"] for fold in folds]),
    }
    said = (
        f"{total:,} voxels of brains, from {cases}. The error is the expected calibration error, the mean gap between "
        "confidence and share of right voxels; each fold has the temperature that was fitted to the others."
    )
    chart = reliability_chart("Reliability", curves)
    return f'<div class="square">{chart}</div><p><small>{escape(said)}</small></p>'


def _together(several: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Return bins of several folds as one: those whose confidence lies within the same fifteenth."""
    sums: dict[int, list[float]] = {}
    for bins in several:
        for voxels, confidence, right in bins:
            held = sums.setdefault(min(int(confidence * 15 + 1e-9), 14), [0.0, 0.0, 0.0])
            for place, value in enumerate((voxels, voxels * confidence, voxels * right)):
                held[place] += value
    return [[voxels, confidence / voxels, right / voxels] for _, (voxels, confidence, right) in sorted(sums.items())]
