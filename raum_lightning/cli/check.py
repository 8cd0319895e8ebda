"""`raum check ROOT`: read every case and say what is wrong with which."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from raum_lightning.cli.dataset_option import add_dataset

if TYPE_CHECKING:
    from raum_lightning.cases.case import Case
    from raum_lightning.cases.measure import Facts
    from raum_lightning.cases.rules import Finding

# share of the masks below which a class is called rare
RARE = 0.05
# sizes of voxels that are named
SIZES = 3


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
    from raum_lightning.cases.check import judge, measure_cases
    from raum_lightning.cases.discovery import find_cases
    from raum_lightning.progress import progress_bar

    cases = find_cases(args.root, args.dataset)
    modalities = args.modalities or cases[0].dataset.modalities
    with progress_bar("checking cases") as progress:
        facts = measure_cases(cases, cache=args.cache, progress=progress)
    findings = judge(cases, facts, modalities)
    classes = _classes(cases, facts)
    if args.json:
        print(json.dumps(_plain(cases, findings, classes), indent=2))
    else:
        print(*_about(cases, facts, classes, args), sep="\n")
        _print(cases, findings)
    return int(any(finding.severity == "error" for finding in findings))


def _classes(cases: Sequence["Case"], facts: Sequence["Facts"]) -> dict[str, tuple[int, int]]:
    """Return, for each class of the data sets, its voxels and the cases that have it."""
    masks = [fact.mask for fact in facts if fact.mask]
    names = dict.fromkeys(name for case in cases for name in case.dataset.classes[1:])
    counts = {name: [mask.classes.get(name, 0) for mask in masks] for name in names}
    return {name: (sum(voxels), sum(count > 0 for count in voxels)) for name, voxels in counts.items()}


def _about(
    cases: Sequence["Case"],
    facts: Sequence["Facts"],
    classes: Mapping[str, tuple[int, int]],
    args: argparse.Namespace,
) -> Iterator[str]:
    """Yield lines on what was found: data set and why, cases and patients, voxel sizes, classes."""
    from raum_lightning.cases.ids import printable

    for name, count in Counter(case.dataset.name for case in cases).items():
        first = next(case for case in cases if case.dataset.name == name)
        file = next(iter(first.images.values()), first.folder)
        by = f"recognised by the names of files such as {file.name}"
        if args.dataset != "auto":
            by = f"as --dataset {args.dataset} says"
        elif first.channels or first.dataset.splits:
            by = f"described by {args.root / 'dataset.json'}"
        yield printable(f"data set {name}: {count} cases, {by}")
    masked = sum(case.label is not None for case in cases)
    yield f"{len({case.patient for case in cases})} patients, {masked} masks"
    for dataset in {case.dataset.name: case.dataset for case in cases}.values():
        own = [case for case in cases if case.dataset.name == dataset.name]
        absent = {name: patterns for name, patterns in dataset.images.items() if not any(name in c.images for c in own)}
        absent |= {} if any(case.label for case in own) else {"mask": dataset.mask}
        for role, patterns in absent.items():
            if patterns:
                yield f"no file fits {' or '.join(patterns)}, the {role} of data set {dataset.name}"
    sizes = Counter(" x ".join(f"{mm:.3g}" for mm in fact.images[0].spacing) for fact in facts if fact.images)
    if sizes:
        shown = [f"{size} mm in {count} cases" for size, count in sizes.most_common(SIZES)]
        others = [f"{len(sizes) - SIZES} other sizes"] if len(sizes) > SIZES else []
        yield f"voxels of {', '.join([*shown, *others])}"
    read = sum(fact.mask is not None for fact in facts)
    for name, (voxels, having) in classes.items():
        rare = ": rare, in under 5 % of the masks" if having < RARE * read else ""
        yield f"class {name}: {voxels:,} voxels in {having} of {read} masks{rare}"


def _plain(
    cases: Sequence["Case"], findings: Sequence["Finding"], classes: Mapping[str, tuple[int, int]]
) -> dict[str, object]:
    def of(case: str) -> list[dict[str, str]]:
        return [asdict(finding) for finding in findings if finding.case == case]

    rows = [
        {"id": case.id, "dataset": case.dataset.name, "modalities": sorted(case.images), "findings": of(case.id)}
        for case in cases
    ]
    counts = {name: {"voxels": voxels, "cases": having} for name, (voxels, having) in classes.items()}
    summary = _count(cases, findings) | {"patients": len({case.patient for case in cases}), "classes": counts}
    return {"summary": summary, "cases": rows, "findings": of("")}


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
    titles = {case.id: f"{case.id} ({case.dataset.name}, {case.folder})" for case in cases} | {"": "all cases"}
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
