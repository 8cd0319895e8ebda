"""Every case of a cross-validation segmented by the fold that has not seen it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from raum_lightning.cases.case import read_remark
from raum_lightning.cases.nifti import write_like
from raum_lightning.errors import CheckpointError, EvaluationError, RunError
from raum_lightning.geometry import voxel_size
from raum_lightning.inference.folder import hash_files, segment_cases
from raum_lightning.inference.segmenter import load
from raum_lightning.inference.weights import source_of, weights_of
from raum_lightning.metrics.folders import Folders, MaskFile, read_mask
from raum_lightning.postprocess import Postprocess, clean
from raum_lightning.postprocess.probabilities import by_thresholds
from raum_lightning.runs.checkpoints import structure
from raum_lightning.studies.calibration import Sample
from raum_lightning.studies.study import Study

Progress = Callable[[int, int], None]


def check_unseen(study: Study, fold: int) -> None:
    """Raise `RunError` where the checkpoint of a fold was trained on a case that it is to predict."""
    checkpoint = study.folder.checkpoint(fold)
    trained = structure(checkpoint).get("trained")
    if trained is None:
        raise CheckpointError(f"{checkpoint}: does not say which cases trained it; train the fold again")
    if seen := sorted({*trained} & {*study.splits[fold].val}):
        raise RunError(
            f"{checkpoint}: was trained on {', '.join(seen[:5])}, which fold {fold} has to predict; move the run away, "
            "so that it is trained again"
        )


def check_start(study: Study) -> None:
    """Raise `RunError` where the weights that every fold starts from were trained on a case that one has to predict."""
    given = study.config["module"].get("init_from")
    if given is None:
        return
    source = source_of(given)
    trained = weights_of(source).seen(next(iter(study.cases.values())).dataset.name)
    for fold, split in enumerate(study.splits):
        if seen := sorted(trained & {*split.val, *split.test}):
            raise RunError(
                f"module.init_from={source}: was trained on {', '.join(seen[:5])}, which fold {fold} has to predict; "
                "start from weights that have seen none of these cases, or leave it out"
            )


def predict_folds(
    study: Study, *, device: str = "auto", probabilities: bool = False, progress: Progress | None = None
) -> None:
    """Write the prediction of every case as its network made it; those that are there already are kept.

    `probabilities` are written too where asked for, now or when it began. `progress` is told (done, of) cases.

    Raises:
        RunError: The network of a fold has seen a case that it is to predict; found before the first.
        EvaluationError: Cases could not be segmented; all others were.
    """
    for fold in range(len(study.splits)):
        check_unseen(study, fold)
    done, failed = 0, dict[str, str]()
    kept = study.folder.probabilities if probabilities or study.folder.probabilities.is_dir() else None
    for fold, split in enumerate(study.splits):
        checkpoint = study.folder.checkpoint(fold)
        segmenter = load(checkpoint, trust=trusted(study), device=device, postprocess="none")

        def tell(cases: int, _: int, before: int = done) -> None:
            if progress:
                progress(before + cases, len(study.fold_of))

        outcome = segment_cases(
            segmenter,
            [study.cases[name] for name in split.val],
            study.folder.predictions,
            weights=hash_files([checkpoint]),
            progress=tell,
            probabilities=kept,
            look=lambda result: Sample.of(result).save(study.folder.sample(result.case.id)),
        )
        failed |= outcome.failed
        done += len(split.val)
    if failed:
        case, problem = next(iter(failed.items()))
        raise EvaluationError(f"{len(failed)} of {done} cases could not be segmented, such as {case}: {problem}")


def trusted(study: Study) -> tuple[str, ...]:
    """Return the package of the network that the configuration names: whoever trained it trusts it."""
    network: Any = study.config["module"]["network"]
    return (str(network["class_path"]).partition(".")[0],)


def folders(study: Study, predictions: Path) -> Folders:
    """Return the predictions of all cases beside their references; raise `EvaluationError` for one that is missing."""
    return Folders(dict(_pairs(study, predictions)), {}, [])


def _pairs(study: Study, predictions: Path) -> Iterator[tuple[str, tuple[MaskFile, MaskFile]]]:
    known = {case.dataset.name: case.dataset for case in study.cases.values()}
    for name in sorted(study.fold_of):
        case = study.cases[name]
        path = predictions / case.prediction_file
        remark = read_remark(path) if path.exists() else None
        if remark is None:
            raise EvaluationError(f"{path}: there is no such prediction; the command without --rescore makes it")
        assert case.label is not None
        found = MaskFile(path, known.get(remark[0], case.dataset), "header")
        yield name, (found, MaskFile(case.label, case.dataset, "the data set"))


def write_cleaned(study: Study, steps: Postprocess) -> None:
    """Write the predictions after the steps into the folder of the cleaned ones; thresholds need probabilities."""
    for name, (prediction, _) in folders(study, study.folder.predictions).pairs.items():
        labels, volume = read_mask(prediction, "predictions")
        dataset = prediction.dataset
        raw = by_thresholds(labels.numpy().astype(np.uint8), steps, dataset, study.folder.probabilities, name)
        cleaned = clean(raw, steps, voxel_size(volume.affine), dataset.regions)
        target = study.folder.cleaned / prediction.path.name
        write_like(target, dataset.decode(cleaned), prediction.path, f"raum {dataset.name}")
