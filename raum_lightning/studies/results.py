"""The scores of a cross-validation: raw and cleaned, by fold and together, as JSON, CSV and Markdown."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from raum_lightning.atomic import write_csv, write_json, write_text
from raum_lightning.errors import UserError
from raum_lightning.figures import Scan, draw, save
from raum_lightning.metrics import explain
from raum_lightning.metrics.evaluation import Evaluation, evaluate_pairs, plain, plain_rules
from raum_lightning.metrics.folders import Folders
from raum_lightning.metrics.statistics import summarise
from raum_lightning.postprocess.fit import Fitted, fit
from raum_lightning.postprocess.probabilities import probabilities_path
from raum_lightning.postprocess.variants import figures
from raum_lightning.progress import progress_bar
from raum_lightning.studies.calibration import calibrate
from raum_lightning.studies.prediction import folders, write_cleaned
from raum_lightning.studies.provenance import cost, provenance
from raum_lightning.studies.study import WRITER, Study
from raum_lightning.studies.tables import markdown

METRICS = ("dice", "hd95", "nsd_10", "lesion_dice", "lesion_hd95")
WORST = 3
SHOWN = ("flair", "t1ce")


def write_results(study: Study, *, rules: str = "auto") -> dict[str, Any]:
    """Score the predictions, fit and apply post-processing, write every table, and return the content of results.json.

    Raises:
        EvaluationError: A prediction is missing or cannot be scored.
    """
    raw = _scored(folders(study, study.folder.predictions), rules, "scoring cases")
    pairs, folder = [*raw.folders.pairs.values()], study.folder.probabilities
    files = [probabilities_path(folder, case) for case in raw.folders.pairs] if folder.is_dir() else []
    with progress_bar("fitting post-processing") as progress:
        fitted = fit(pairs, raw.rules, probabilities=files, progress=progress)
    write_text(study.folder.post, fitted.steps.to_yaml(_heading(fitted, raw)))
    write_cleaned(study, fitted.steps)
    cleaned = _scored(folders(study, study.folder.cleaned), raw.rules.name, "scoring cleaned cases")
    content = _content(study, raw, cleaned, fitted)
    write_json(study.folder.results, content)
    columns = ["case", "fold", "masks", "rules", *raw.summary]
    write_csv(study.folder.results.with_suffix(".csv"), columns, _rows(study, {"raw": raw, "cleaned": cleaned}))
    content["pictures"] = _draw_worst(study, content["worst"])
    write_text(study.folder.results.with_suffix(".md"), markdown(content))
    return content


def _scored(pairs: Folders, rules: str, said: str) -> Evaluation:
    with progress_bar(said) as progress:
        evaluation = evaluate_pairs(pairs, metrics=METRICS, rules=rules, progress=progress)
    for case, problem in evaluation.problems.items():
        raise UserError(f"case {case} cannot be scored: {problem}")
    return evaluation


def _heading(fitted: Fitted, raw: Evaluation) -> str:
    dice, distance, _ = figures(raw.rules)
    (before, before_mm, _), (after, after_mm, _) = fitted.before, fitted.after
    return (
        f"Written by `{WRITER}` on {fitted.cases} out-of-fold predictions by the rules {raw.rules.name}:\n"
        f"mean {dice} {before:.3f} to {after:.3f}, mean {distance} {before_mm:.1f} to {after_mm:.1f} mm."
    )


def _content(study: Study, raw: Evaluation, cleaned: Evaluation, fitted: Fitted) -> dict[str, Any]:
    return {
        "written_by": WRITER,
        "name": f"{study.folder.path.parent.name}/{study.folder.path.name}",
        "rules": plain_rules(raw.rules),
        "metrics": {metric: explain(metric, raw.rules) for metric in raw.metrics},
        "parts": raw.parts,
        "present": raw.present,
        "summary": _summary(raw, study.fold_of),
        "cases": {case: plain(row) for case, row in raw.scores.items()},
        "postprocess": fitted.steps.plain,
        "cleaned": {
            "summary": _summary(cleaned, study.fold_of),
            "cases": {case: plain(row) for case, row in cleaned.scores.items()},
        },
        "calibration": calibrate(study),
        "fold_of": study.fold_of,
        "folds": [
            {
                "cases": len(split.val),
                "raw": _summary(raw, split.val),
                "cleaned": _summary(cleaned, split.val),
                **cost(study, fold),
            }
            for fold, split in enumerate(study.splits)
        ],
        "worst": raw.worst(WORST),
        "provenance": provenance(study),
    }


def _summary(evaluation: Evaluation, cases: Iterable[str]) -> dict[str, Any]:
    rows = [evaluation.scores[case] for case in sorted(cases)]
    return {name: plain(asdict(summarise(row[name] for row in rows))) for name in evaluation.summary}


def _rows(study: Study, evaluations: Mapping[str, Evaluation]) -> Iterable[dict[str, Any]]:
    for masks, evaluation in evaluations.items():
        for case, row in evaluation.scores.items():
            rules = evaluation.rules.name
            yield {"case": case, "fold": study.fold_of[case], "masks": masks, "rules": rules, **plain(row)}


def _draw_worst(study: Study, worst: Iterable[str]) -> dict[str, str]:
    """Draw these cases; return each picture's path beside the tables."""
    drawn = {}
    for name in worst:
        case = study.cases[name]
        modalities = [modality for modality in SHOWN if modality in case.images] or None
        scan = Scan.read(case, study.folder.predictions / case.prediction_file, modalities)
        path = study.folder.pictures / f"{name}.png"
        save(draw(scan, isolate=False), path)
        drawn[name] = str(path.relative_to(study.folder.path))
    return drawn
