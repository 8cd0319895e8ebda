"""`raum check ROOT`: read every case and say what is wrong with which."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from raum_lightning.cli.dataset_option import add_dataset


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raum check`."""
    parser.add_argument("root", type=Path, help="folder with the cases")
    parser.add_argument("--modalities", nargs="+", help="what every case must have (default: flair t1ce t2 or all)")
    add_dataset(parser)
    parser.add_argument("--json", action="store_true", help="print JSON: a list of id, edition and problems")


def run(args: argparse.Namespace) -> int:
    """Prints a table of the cases; 1 when any has a problem."""
    from concurrent.futures import ThreadPoolExecutor

    from raum_lightning.cases.discovery import find_cases
    from raum_lightning.progress import progress_bar

    cases = find_cases(args.root, args.dataset)
    modalities = args.modalities or cases[0].edition.modalities
    # a folder to validate on has no masks at all, and of MSD Task01 only the training entries have
    masked = any(case.label for case in cases)
    found: list[list[str]] = []
    with progress_bar("reading cases") as progress, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        checked = pool.map(lambda case: case.verify(modalities, masked=masked and not case.channels), cases)
        for done, problems in enumerate(checked, 1):
            found.append(problems)
            progress(done, len(cases))
    rows: list[dict[str, Any]] = [
        {"id": case.id, "edition": case.edition.name, "modalities": sorted(case.images), "problems": problems}
        for case, problems in zip(cases, found, strict=True)
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        _print(rows)
    return int(any(found))


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("case", "edition", "modalities", "problems")
    wrong = 0
    for row in rows:
        problems = row["problems"]
        wrong += bool(problems)
        shown = Text("\n".join(problems) or "none", style="red" if problems else "green")
        table.add_row(row["id"], row["edition"], " ".join(row["modalities"]), shown)
    console = Console()
    console.print(table)
    console.print(f"{len(rows)} cases, {wrong} with problems")
