"""Two folders of masks, predictions and references, to scores per case.

Files are matched by the id of their case: `<id>.nii.gz`, `<id>_seg.nii.gz` or `<id>-seg.nii.gz`, whatever the folders.
Whose label values a mask holds must be known before it is read, since editions use the same numbers for different
things (see `labels`). In this order it follows from

1. what was declared,
2. what `raum` noted in the header of a file that it wrote,
3. the name: BraTS20_*, BraTS2021_* and *_seg have the values of 2020, BraTS-GLI-* and *-seg those of 2023, and MSD
   Task01 has its dataset.json,
4. for a prediction, its reference.

A value that the edition found in this way does not define is an error, never a guess. BraTS 2024 must be declared.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from raum_lightning.atomic import write_csv, write_json
from raum_lightning.cases.case import Case, read_remark
from raum_lightning.cases.discovery import files_below, find_cases, is_image, recognise
from raum_lightning.cases.nifti import Volume, read_nifti, stem
from raum_lightning.errors import CaseError, EvaluationError, LabelError
from raum_lightning.geometry import voxel_size
from raum_lightning.labels import EDITIONS, Edition
from raum_lightning.metrics import RULES, check_names, score

LOWER_IS_BETTER = ("hd95", "lesion_hd95")
WITHOUT_ORDER = ("volume",)
# cases that are scored sooner than processes have started
FEW = 8

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class MaskFile:
    """A file with a mask; whose label values it holds, where that is known, and how."""

    path: Path
    edition: Edition | None = None
    known_by: str = ""

    def __str__(self) -> str:
        return f"{self.edition.name if self.edition else 'unknown'}, by {self.known_by}"

    def beside(self, reference: "MaskFile") -> "MaskFile":
        """A prediction with the edition of its reference where its own is not known, or is the same by name."""
        known = reference.edition
        assert known is not None
        if self.edition is None:
            # 4 of BraTS 2024 was declared for the reference: here it may mean what it did in 2020
            known = EDITIONS["brats2023"] if known.name == "brats2024" else known
            return replace(self, edition=known, known_by="reference")
        # what dataset.json of MSD Task01 says of its values holds for predictions too
        return replace(self, edition=known) if self.edition.name == known.name else self


@dataclass(frozen=True)
class Evaluation:
    """Scores by case and by the names of `metrics.score`; what could not be scored, by case; and what has no partner.

    `editions` counts the masks of each side by the edition they were read as and how it was known.
    """

    metrics: tuple[str, ...]
    scores: Scores
    problems: dict[str, str]
    without_prediction: list[str]
    without_reference: list[str]
    editions: dict[str, dict[str, int]]

    @property
    def summary(self) -> Scores:
        """Mean and median over the scored cases, by name of the score."""
        names = next(iter(self.scores.values()), {})
        columns = {name: [row[name] for row in self.scores.values()] for name in names}
        return {name: {"mean": fmean(values), "median": median(values)} for name, values in columns.items()}

    @property
    def ranked_by(self) -> str | None:
        """The first metric by which one case is better than another."""
        return next((metric for metric in self.metrics if metric not in WITHOUT_ORDER), None)

    def worst(self, count: int) -> list[str]:
        """Ids of the cases that score worst in the mean of `ranked_by`, the worst first; none without one."""
        name = f"{self.ranked_by}_mean"
        order = sorted(self.scores, key=lambda case: self.scores[case][name]) if self.ranked_by else []
        return (order[::-1] if self.ranked_by in LOWER_IS_BETTER else order)[:count]

    def save(self, path: Path) -> None:
        """Writes everything to `path`, JSON, and the scores of the cases beside it as CSV."""
        content = {
            "written_by": "raum evaluate",
            "rules": {metric: RULES[metric] for metric in self.metrics},
            "summary": self.summary,
            "cases": self.scores,
            "problems": self.problems,
            "without_prediction": self.without_prediction,
            "without_reference": self.without_reference,
            "editions": self.editions,
        }
        write_json(path, content)
        rows = ({"case": case, **row} for case, row in self.scores.items())
        write_csv(path.with_suffix(".csv"), ["case", *self.summary], rows)


def evaluate(
    predictions: Path,
    references: Path,
    *,
    metrics: Sequence[str] = ("dice", "hd95"),
    classes: Sequence[str] = (),
    edition_predictions: str = "auto",
    edition_references: str = "auto",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores the cases that both folders hold, several at a time, each read only while it is scored.

    `metrics` and `classes` are those of `metrics.score`. `workers` is the number of processes: where not given, one for
    each core, or just this one for a few cases. `progress` is told (done, of). Raises `ValueError` for names that do
    not exist, `EvaluationError` where nothing can be compared.
    """
    check_names(metrics, classes)
    found, expected = find_masks(predictions, edition_predictions), find_references(references, edition_references)
    common = [case for case in expected if case in found]
    if not common:
        raise EvaluationError(
            f"no case is both in {predictions} ({', '.join([*found][:2])}, ...) and in {references} "
            f"({', '.join([*expected][:2])}, ...)"
        )
    pairs = [(found[case].beside(expected[case]), expected[case]) for case in common]
    outcomes: dict[str, dict[str, float] | str] = {}
    with _mapping(workers or (min(_cores(), len(pairs)) if len(pairs) > FEW else 1)) as mapped:
        scored = mapped(partial(score_pair, metrics=metrics, classes=classes), pairs)
        for case, outcome in zip(common, scored, strict=True):
            outcomes[case] = outcome
            if progress:
                progress(len(outcomes), len(pairs))
    return Evaluation(
        tuple(metrics),
        {case: outcome for case, outcome in outcomes.items() if isinstance(outcome, dict)},
        {case: outcome for case, outcome in outcomes.items() if isinstance(outcome, str)},
        [case for case in expected if case not in found],
        [case for case in found if case not in expected],
        {
            "predictions": Counter(str(prediction) for prediction, _ in pairs),
            "references": Counter(str(reference) for _, reference in pairs),
        },
    )


def find_references(root: Path, edition: str = "auto") -> dict[str, MaskFile]:
    """The masks of the cases in `root` by id, or those of `find_masks` where the folder holds no images.

    Raises `EvaluationError` where nothing says whose label values they hold.
    """
    _check_edition(edition)
    if (root / "dataset.json").is_file() or any(_is_image(path) for path in _files(root)):
        masks = {case.id: _of_case(case, edition) for case in find_cases(root) if case.label}
        if not masks:
            raise EvaluationError(f"{root}: its cases have no masks; references are cases with one")
    else:
        masks = find_masks(root, edition)
    if unclear := [mask.path for mask in masks.values() if mask.edition is None]:
        raise EvaluationError(
            f"{unclear[0]}: nothing says whose label values the references hold; declare their edition, one of "
            f"{', '.join(EDITIONS)}"
        )
    return masks


def find_masks(root: Path, edition: str = "auto") -> dict[str, MaskFile]:
    """The masks below `root` by the id of their case; raises `EvaluationError` for none and for two of one case."""
    _check_edition(edition)
    masks: dict[str, MaskFile] = {}
    for path in _files(root):
        if _is_image(path):
            continue
        name = stem(path) or ""
        case = re.sub(r"[_-]seg$", "", name, flags=re.IGNORECASE)
        if case in masks:
            raise EvaluationError(f"case {case} is both {masks[case].path} and {path}; remove one")
        masks[case] = MaskFile(path, *((EDITIONS[edition], "option") if edition != "auto" else _recognised(path, name)))
    if not masks:
        raise EvaluationError(f"{root}: no masks found; expected files such as <case>.nii.gz or <case>_seg.nii.gz")
    return masks


def score_pair(
    pair: tuple[MaskFile, MaskFile], *, metrics: Sequence[str], classes: Sequence[str] = ()
) -> dict[str, float] | str:
    """Scores of a prediction against its reference, or a sentence on why there are none."""
    try:
        (prediction, guess), (reference, truth) = (
            _read(mask, side) for mask, side in zip(pair, ("predictions", "references"), strict=True)
        )
        guess.check_grid(truth)
    except (CaseError, LabelError) as error:
        return str(error)
    return score(prediction, reference, metrics=metrics, classes=classes, spacing=voxel_size(truth.affine))


def _read(mask: MaskFile, side: str) -> tuple[torch.Tensor, Volume]:
    """Class indices X Y Z, and the file as it is."""
    assert mask.edition is not None
    volume = read_nifti(mask.path)
    try:
        return torch.from_numpy(mask.edition.encode(volume.data)), volume
    except LabelError as error:
        raise LabelError(f"{mask.path}: {error} (it is {mask}; --edition-{side} declares another)") from None


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        raise EvaluationError(f"{root}: no such folder")
    return [path for path in sorted(files_below(root)) if stem(path)]


def _is_image(path: Path) -> bool:
    return is_image(stem(path) or "")


def _of_case(case: Case, edition: str) -> MaskFile:
    assert case.label is not None
    if edition not in ("auto", case.edition.name):
        return MaskFile(case.label, EDITIONS[edition], "option")
    return MaskFile(case.label, case.edition, "dataset.json" if case.channels else "file name")


def _recognised(path: Path, name: str) -> tuple[Edition | None, str]:
    """Whose label values a mask holds, and how that is known."""
    if remark := read_remark(path):
        return EDITIONS[remark[0]], "header"
    by_ending = {"_seg": EDITIONS["brats2020"], "-seg": EDITIONS["brats2023"]}
    edition = recognise(name) or by_ending.get(name[-4:].lower())
    return edition, "file name" if edition else ""


def _check_edition(edition: str) -> None:
    if edition != "auto" and edition not in EDITIONS:
        raise EvaluationError(f"edition {edition!r} is unknown; it is one of auto, {', '.join(EDITIONS)}")


def _cores() -> int:
    """Those this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Any]]:
    """`map`, over so many processes; a server that has imported this module already forks them."""
    if workers == 1:
        yield map
        return
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        yield pool.map
