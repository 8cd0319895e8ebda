"""`raum evaluate`: a folder of segmentations against references."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raum_lightning.errors import EvaluationError

if TYPE_CHECKING:
    from raum_lightning.metrics.folders import Evaluation

LISTED = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raum evaluate`."""
    add = parser.add_argument
    add("--predictions", type=Path, required=True, metavar="DIR", help="<case>.nii.gz or <case>_seg.nii.gz")
    add("--references", type=Path, required=True, metavar="DIR", help="cases with masks, or masks alone")
    add("--metrics", nargs="+", default=["dice", "hd95"], help="such as dice hd95 precision recall volume")
    add("--classes", nargs="+", default=[], help="score these as well as WT, TC and ET: NCR ED ET RC")
    add("--lesion-wise", action="store_true", help="add Dice and HD95 by lesion, as BraTS 2023 does")
    for side in ("predictions", "references"):
        add(f"--edition-{side}", default="auto", help="whose label values: auto, brats2020 to brats2024, msd")
    add("--out", type=Path, metavar="JSON", help="write everything here, and the cases beside it as CSV")


def run(args: argparse.Namespace) -> int:
    """Prints a table, writes the files, and says what could not be scored; 1 when a reference has no scores."""
    from raum_lightning.metrics.folders import evaluate
    from raum_lightning.progress import progress_bar
    from raum_lightning.runs.outputs import check_output

    if args.out and args.out.suffix != ".json":
        raise EvaluationError(f"{args.out}: let the name end in .json; the cases stand beside it in a .csv")
    if args.out:
        check_output(args.out, "raum evaluate")
        # a table has no place for its writer's name: it is ours where the JSON beside it is
        check_output(args.out.with_suffix(".csv"), "raum evaluate", ours=lambda table: args.out.exists())
    metrics = [*args.metrics, *(["lesion_dice", "lesion_hd95"] if args.lesion_wise else [])]
    with progress_bar("scoring cases") as progress:
        evaluation = evaluate(
            args.predictions,
            args.references,
            metrics=list(dict.fromkeys(metrics)),
            classes=args.classes,
            edition_predictions=args.edition_predictions,
            edition_references=args.edition_references,
            progress=progress,
        )
    _print(evaluation)
    if args.out:
        evaluation.save(args.out)
        print(f"{args.out}, {args.out.with_suffix('.csv')}: {len(evaluation.scores)} cases")
    return int(bool(evaluation.problems or evaluation.without_prediction))


def _print(evaluation: "Evaluation") -> None:
    from rich.console import Console
    from rich.text import Text

    from raum_lightning.metrics import RULES

    console = Console(highlight=False, markup=False)
    if evaluation.scores:
        tables = [_summary(evaluation), *([_worst(evaluation)] if evaluation.ranked_by else [])]
        console.print(*tables, sep="\n")
        for metric in evaluation.metrics:
            console.print(f"{metric}: {RULES[metric]}")
    for side, editions in evaluation.editions.items():
        counted = "; ".join(f"{count} {edition}" for edition, count in editions.items())
        console.print(f"label values of {side}: {counted}")
    for cases, lack in (
        (evaluation.without_prediction, "references without prediction"),
        (evaluation.without_reference, "predictions without reference"),
    ):
        if cases:
            console.print(f"{lack} ({len(cases)}): {', '.join(cases[:LISTED])}{', ...' if cases[LISTED:] else ''}")
    for case, problem in evaluation.problems.items():
        console.print(Text.assemble((f"{case} was not scored", "red"), f": {problem}"), soft_wrap=True)


def _summary(evaluation: "Evaluation") -> Any:
    """Metrics as rows, their mean and median, and what they were taken of as columns."""
    from rich.table import Table

    summary, first = evaluation.summary, evaluation.metrics[0]
    parts = [name.removeprefix(f"{first}_") for name in summary if name.startswith(f"{first}_")]
    scored = len(evaluation.scores)
    of = scored + len(evaluation.problems) + len(evaluation.without_prediction)
    table = Table("metric", "", title=f"{scored} of {of} references", title_justify="left")
    for part in parts:
        table.add_column(part if part == "mean" else part.upper(), justify="right")
    for metric in evaluation.metrics:
        for kind in ("mean", "median"):
            numbers = [f"{summary[f'{metric}_{part}'][kind]:.3f}" for part in parts]
            table.add_row(metric if kind == "mean" else "", kind, *numbers, end_section=kind == "median")
    return table


def _worst(evaluation: "Evaluation") -> Any:
    """The worst cases as rows; the metric they are ranked by in full and the means of the others as columns."""
    from rich.table import Column, Table

    first = evaluation.ranked_by
    others = [metric for metric in evaluation.metrics if metric != first]
    names = [f"{first}_wt", f"{first}_tc", f"{first}_et", *(f"{metric}_mean" for metric in others)]
    table = Table(Column("case", no_wrap=True), title=f"worst by mean {first}", title_justify="left")
    for name in names:
        metric, _, part = name.rpartition("_")
        heading = [*metric.split("_"), part if part == "mean" else part.upper()]
        table.add_column("\n".join(heading), justify="right")
    for case in evaluation.worst(LISTED):
        table.add_row(case, *(f"{evaluation.scores[case][name]:.3f}" for name in names))
    return table
