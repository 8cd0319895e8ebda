"""`raum compare`: several methods by their scores on the same cases."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from raum_lightning.errors import ConfigError

if TYPE_CHECKING:
    from raum_lightning.studies.comparison import Comparison

COMMAND = "raum compare"
LISTED = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="JSON of `raum evaluate` or `raum cross-validate`, a folder of the latter, or the folder of a run that "
        "`lightning test` has scored; the first is the reference",
    )
    add("--names", nargs="+", default=[], metavar="NAME", help="what to call them, in the same order")
    add(
        "--metrics", nargs="+", default=[], help="such as dice hd95 nsd_10 (default: those that the challenge ranks by)"
    )
    add("--cleaned", action="store_true", help="take the masks after post-processing, where there are such")
    add("--out", type=Path, metavar="JSON", help="write everything here, and the tables beside it as Markdown")
    add("--figure", type=Path, help="draw the differences: .png, .pdf or .svg")


def run(args: argparse.Namespace) -> int:
    """Print the tables, write the files, and return 0."""
    from dataclasses import replace

    from rich.console import Console

    from raum_lightning.atomic import write_json, write_text
    from raum_lightning.studies.comparison import Results, compare

    _check_outputs(args)
    if args.names and len(args.names) != len(args.results):
        raise ConfigError(f"--names gives {len(args.names)} names for {len(args.results)} results")
    results = [Results.read(path, cleaned=args.cleaned) for path in args.results]
    results = (
        [replace(one, name=name) for one, name in zip(results, args.names, strict=True)] if args.names else results
    )
    comparison = compare(results, metrics=args.metrics)
    text = markdown(comparison)
    Console(highlight=False, markup=False, soft_wrap=True).print(text)
    if args.out:
        write_json(args.out, comparison.plain)
        write_text(args.out.with_suffix(".md"), f"<!-- {COMMAND} -->\n{text}\n")
    if args.figure:
        _draw(comparison, args.figure)
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    from raum_lightning.runs.outputs import check_output

    if args.out:
        if args.out.suffix != ".json":
            raise ConfigError(f"{args.out}: the name must end in .json; the tables stand beside it in a .md")
        for path in (args.out, args.out.with_suffix(".md")):
            check_output(path, COMMAND)
    if args.figure:
        from raum_lightning.figures import check_ending

        check_ending(args.figure)
        check_output(args.figure, "raum view")


def markdown(comparison: "Comparison") -> str:
    """Return the tables of a comparison."""
    from raum_lightning.studies.tables import number, table

    lines = [f"{len(comparison.cases)} cases that all have, rules {comparison.rules}."]
    for name, cases in comparison.left_out.items():
        if cases:
            more = ", ..." if cases[LISTED:] else ""
            lines.append(f"{name}: {len(cases)} cases left out that not all have ({', '.join(cases[:LISTED])}{more}).")
    rows = []
    for one in comparison.differences:
        digits = 1 if one.metric.endswith("hd95") else 3
        interval = f"{one.low:+.{digits}f} to {one.high:+.{digits}f}"
        part = one.part if one.part == "mean" else one.part.upper()
        counts = f"{one.wins} / {one.ties} / {one.losses}"
        tests = [number(None if value != value else value, 4) for value in (one.p, one.p_holm)]
        pair = f"{one.second} - {one.first}"
        rows.append([pair, one.metric, part, f"{one.mean:+.{digits}f}", interval, counts, *tests, str(one.cases)])
    heads = ["difference", "score", "region", "mean", "95 % interval", "wins / ties / losses", "p", "p (Holm)", "cases"]
    lines.append(table(heads, rows))
    if comparison.ranks:
        ranked = sorted(comparison.ranks.items(), key=lambda item: item[1])
        lines.append(table(["method", "mean rank"], [[name, f"{rank:.3f}"] for name, rank in ranked]))
    lines.append(
        "p: Wilcoxon's signed-rank test over cases, corrected by Holm over all rows that have one; wins: cases in "
        "which the first named is better. Intervals are bootstraps over cases."
    )
    return "\n\n".join(lines)


def _draw(comparison: "Comparison", path: Path) -> None:
    from raum_lightning.figures import save
    from raum_lightning.figures.differences import draw_differences

    first = comparison.names[0]
    intervals = {
        (one.metric, one.part, one.second): (one.mean, one.low, one.high)
        for one in comparison.differences
        if one.first == first
    }
    save(draw_differences(comparison.names, comparison.table, intervals), path)
    print(path)
