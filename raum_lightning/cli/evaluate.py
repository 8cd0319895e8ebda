"""`raum evaluate`: a folder of segmentations against references."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raum_lightning.cli.dataset_option import add_dataset
from raum_lightning.errors import EvaluationError

if TYPE_CHECKING:
    from raum_lightning.metrics.evaluation import Evaluation
    from raum_lightning.metrics.statistics import Summary

LISTED = 5
COMMAND = "raum evaluate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("--predictions", type=Path, required=True, metavar="DIR", help="<case>.nii.gz or <case>_seg.nii.gz")
    add("--references", type=Path, required=True, metavar="DIR", help="cases with masks, or masks alone")
    add("--metrics", nargs="+", default=["dice", "hd95"], help="such as dice hd95 nsd_10 lesion_f1, or all")
    add("--classes", nargs="+", default=[], help="score these as well as the regions: such as NCR ED RC, or all")
    add(
        "--rules",
        default="auto",
        help="brats2020 (to 2022), brats2023, brats2023-men, brats2023-met, brats2024, brats2026 (2025 on); "
        "auto: data set's",
    )
    add("--lesion-wise", action="store_true", help="add Dice and HD95 by lesion")
    add_dataset(
        parser, text="whose label values both hold: auto, a name, such as brats2024, a YAML file or a dataset.json"
    )
    for side in ("predictions", "references"):
        add_dataset(parser, side, default=None, text=f"the same for the {side} alone")
    add("--out", type=Path, metavar="JSON", help="write everything here, and the cases beside it as CSV")
    add("--html", type=Path, metavar="HTML", help="write a page that sorts, with pictures of the worst ten cases")


def run(args: argparse.Namespace) -> int:
    """Print a table, write the files, and say what could not be scored; 1 when a reference has no scores."""
    from raum_lightning.metrics.evaluation import evaluate
    from raum_lightning.progress import progress_bar

    _check_outputs(args)
    metrics = [*args.metrics, *(["lesion_dice", "lesion_hd95"] if args.lesion_wise else [])]
    sides = {
        f"dataset_{side}": getattr(args, f"dataset_{side}") or args.dataset for side in ("predictions", "references")
    }
    with progress_bar("scoring cases") as progress:
        chosen = {"metrics": metrics, "classes": args.classes, "rules": args.rules}
        evaluation = evaluate(args.predictions, args.references, **chosen, **sides, progress=progress)
    _print(evaluation)
    if args.out:
        evaluation.save(args.out)
        print(f"{args.out}, {args.out.with_suffix('.csv')}: {len(evaluation.scores)} cases")
    if args.html:
        _write_page(evaluation, args)
    return int(bool(evaluation.problems or evaluation.missing))


def _check_outputs(args: argparse.Namespace) -> None:
    """Check before the work that what it writes replaces only what it has itself written."""
    from raum_lightning.runs.outputs import check_output

    if args.out:
        if args.out.suffix != ".json":
            raise EvaluationError(f"{args.out}: the name must end in .json; the cases stand beside it in a .csv")
        check_output(args.out, COMMAND)
        # a table has no place for its writer's name: it is ours where the JSON beside it is
        check_output(args.out.with_suffix(".csv"), COMMAND, ours=lambda table: args.out.exists())
    if args.html:
        if args.html.suffix not in (".html", ".htm"):
            raise EvaluationError(f"{args.html}: the name must end in .html; it is a page")
        check_output(args.html, COMMAND)


def _write_page(evaluation: "Evaluation", args: argparse.Namespace) -> None:
    from raum_lightning.atomic import write_text
    from raum_lightning.progress import progress_bar
    from raum_lightning.report.scores import page

    with progress_bar("drawing cases") as progress:
        content = page(evaluation, args.references, progress=progress)
    write_text(args.html, content)
    print(f"{args.html}: {len(content) / 1e6:.2g} MB")


def _print(evaluation: "Evaluation") -> None:
    from rich.console import Console
    from rich.text import Text

    from raum_lightning.metrics import explain
    from raum_lightning.progress import print_table

    console = Console(highlight=False, markup=False)
    if evaluation.scores:
        for table in (_summary(evaluation), *([_worst(evaluation)] if evaluation.ranked_by else [])):
            print_table(table).print()
        console.print(f"rules {evaluation.rules}")
        for metric in evaluation.metrics:
            console.print(f"{metric}: {explain(metric, evaluation.rules)}")
        present = ", ".join(f"{part.upper()} {count}" for part, count in evaluation.present.items())
        console.print(f"of {len(evaluation.scores)} references these have the region at all: {present}")
    for side, datasets in evaluation.folders.datasets.items():
        counted = "; ".join(f"{count} {name}" for name, count in datasets.items())
        console.print(f"label values of {side}: {counted}")
    for cases, lack in (
        (evaluation.missing, "references without prediction"),
        (evaluation.folders.without_reference, "predictions without reference"),
    ):
        if cases:
            console.print(f"{lack} ({len(cases)}): {', '.join(cases[:LISTED])}{', ...' if cases[LISTED:] else ''}")
    for sentence in evaluation.folders.of_other_cases:
        console.print(Text(sentence, "red"), soft_wrap=True)
    for case, problem in evaluation.problems.items():
        console.print(Text.assemble((f"{case} was not scored", "red"), f": {problem}"), soft_wrap=True)


def _summary(evaluation: "Evaluation") -> Any:
    """Return metrics as rows, their statistics, and what they were taken of as columns."""
    summary, parts = evaluation.summary, evaluation.parts
    scored = len(evaluation.scores)
    of = len(evaluation.folders.pairs) + len(evaluation.missing)
    table = _table("metric", "", title=f"{scored} of {of} references")
    for part in parts:
        table.add_column(_title(part), justify="right")
    lines = {"mean": _mean, "median": lambda one: _number(one.median), "95 %": _interval}
    for metric in evaluation.metrics:
        for kind, shown in lines.items():
            cells = [shown(summary[f"{metric}_{part}"]) for part in parts]
            table.add_row(metric if kind == "mean" else "", kind, *cells, end_section=kind == "95 %")
    return table


def _table(*columns: Any, title: str) -> Any:
    """Return an empty table that is narrow enough for four parts on a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def _mean(summary: "Summary") -> str:
    return _number(summary.mean) + ("" if math.isnan(summary.std) else f" ± {_number(summary.std)}")


def _interval(summary: "Summary") -> str:
    return "" if math.isnan(summary.low) else f"{_number(summary.low)} to {_number(summary.high)}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "none"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"  # only distances in mm are that large


def _title(part: str) -> str:
    return part if part == "mean" else part.upper()


def _worst(evaluation: "Evaluation") -> Any:
    """Return the worst cases as rows; the metric they are ranked by in full and the means of others as columns."""
    from rich.table import Column

    from raum_lightning.metrics.measures import part_name

    first = evaluation.ranked_by
    others = [metric for metric in evaluation.metrics if metric != first][:LISTED]
    names = [f"{first}_{part}" for part in evaluation.present] + [f"{metric}_mean" for metric in others]
    table = _table(Column("case", no_wrap=True, vertical="bottom"), title=f"worst by mean {first}")
    for name in names:
        metric, part = part_name(name)
        table.add_column("\n".join([*metric.split("_"), _title(part)]), justify="right")
    for case in evaluation.worst(LISTED):
        table.add_row(case, *(_number(evaluation.scores[case][name]) for name in names))
    return table
