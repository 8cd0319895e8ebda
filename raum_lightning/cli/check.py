"""`raum check ROOT`: read every case and say what is wrong with which."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from raum_lightning.cli.dataset_option import add_dataset

if TYPE_CHECKING:
    from raum_lightning.cases.case import Case
    from raum_lightning.cases.rules import Finding


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raum check`."""
    parser.add_argument("root", type=Path, help="folder with the cases")
    parser.add_argument("--modalities", nargs="+", help="what every case must have (default: flair t1ce t2 or all)")
    add_dataset(parser)
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep what was measured here, so that files that did not change are not read again",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: a summary, the cases, and what concerns all")


def run(args: argparse.Namespace) -> int:
    """Print the cases with findings and a summary; return 1 when there is an error."""
    from raum_lightning.cases.check import check_cases
    from raum_lightning.cases.discovery import find_cases
    from raum_lightning.progress import progress_bar

    cases = find_cases(args.root, args.dataset)
    modalities = args.modalities or cases[0].edition.modalities
    with progress_bar("checking cases") as progress:
        findings = check_cases(cases, modalities, cache=args.cache, progress=progress)
    if args.json:
        print(json.dumps(_plain(cases, findings), indent=2))
    else:
        _print(cases, findings)
    return int(any(finding.severity == "error" for finding in findings))


def _plain(cases: Sequence["Case"], findings: Sequence["Finding"]) -> dict[str, object]:
    def of(case: str) -> list[dict[str, str]]:
        return [asdict(finding) for finding in findings if finding.case == case]

    rows = [
        {"id": case.id, "edition": case.edition.name, "modalities": sorted(case.images), "findings": of(case.id)}
        for case in cases
    ]
    return {"summary": _count(cases, findings), "cases": rows, "findings": of("")}


def _count(cases: Sequence["Case"], findings: Sequence["Finding"]) -> dict[str, int]:
    severities = [finding.severity for finding in findings]
    return {
        "cases": len(cases),
        "cases_with_findings": len({finding.case for finding in findings if finding.case}),
        "errors": severities.count("error"),
        "warnings": severities.count("warning"),
    }


def _print(cases: Sequence["Case"], findings: Sequence["Finding"]) -> None:
    from rich.console import Console
    from rich.text import Text

    from raum_lightning.cases.ids import printable

    console = Console(highlight=False, soft_wrap=True)
    titles = {case.id: f"{case.id} ({case.edition.name}, {case.folder})" for case in cases} | {"": "all cases"}
    last = None
    for finding in findings:
        if finding.case != last:
            console.print(Text(printable(titles[finding.case]), style="bold"))
        last = finding.case
        where = f"{Path(finding.file).name}: " if finding.file else ""
        said = printable(f"{where}{finding.message}; {finding.advice}")
        console.print(Text.assemble("  ", (f"{finding.severity:<8}", COLOURS[finding.severity]), said))
    count = _count(cases, findings)
    console.print(
        f"{count['cases']} cases, {count['cases'] - count['cases_with_findings']} without findings; "
        f"{count['errors']} errors, {count['warnings']} warnings"
    )


COLOURS = {"error": "bold red", "warning": "yellow"}
