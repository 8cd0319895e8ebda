"""`raum postprocess`: find how masks are best cleaned, and clean them."""

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raum_lightning.metrics.rules import Rules
    from raum_lightning.postprocess import Postprocess
    from raum_lightning.postprocess.fit import Fitted

COMMAND = "raum postprocess"
# of apply, and of fit
PROBABILITIES = (
    "<case>.npz of the same network, for the thresholds of the steps",
    "<case>.npz of `raum segment --cases DIR --probabilities DIR`: search thresholds of the regions too",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the two actions."""
    actions = parser.add_subparsers(dest="action", required=True)
    fit = actions.add_parser("fit", help="search the steps that make these predictions better, and write them as YAML")
    apply = actions.add_parser("apply", help="clean a folder of masks as a YAML file says")
    for action in (fit, apply):
        add = action.add_argument
        add("--predictions", type=Path, required=True, metavar="DIR", help="<case>.nii.gz or <case>_seg.nii.gz")
        add("--probabilities", type=Path, metavar="DIR", help=PROBABILITIES[action is fit])
        add(
            "--dataset",
            default="auto",
            help="whose label values they hold: a name, such as brats2024, a YAML file or a dataset.json",
        )
    fit.add_argument("--references", type=Path, required=True, metavar="DIR", help="cases with masks, or masks alone")
    fit.add_argument(
        "--rules",
        default="auto",
        help="brats2020, brats2023, brats2023-men, brats2023-met, brats2024, brats2026; auto: the data set's",
    )
    fit.add_argument("--workers", type=int, help="processes (default: one for each core)")
    fit.add_argument("--out", type=Path, required=True, metavar="YAML", help="the steps to write")
    apply.add_argument("--postprocess", type=Path, required=True, metavar="YAML", help="the steps")
    apply.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the cleaned masks")


def run(args: argparse.Namespace) -> int:
    """Run the action; return 0, or 1 where a mask could not be read."""
    return _fit(args) if args.action == "fit" else _apply(args)


def _fit(args: argparse.Namespace) -> int:
    from raum_lightning.atomic import write_text
    from raum_lightning.errors import ConfigError
    from raum_lightning.metrics import find_rules
    from raum_lightning.metrics.evaluation import rules_of
    from raum_lightning.metrics.folders import match_folders
    from raum_lightning.postprocess.fit import fit
    from raum_lightning.postprocess.probabilities import probabilities_path
    from raum_lightning.progress import progress_bar
    from raum_lightning.runs.outputs import check_output

    if args.out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{args.out}: the name must end in .yaml")
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers {args.workers} must be at least 1")
    check_output(args.out, COMMAND)
    sides = {f"dataset_{side}": args.dataset for side in ("predictions", "references")}
    folders = match_folders(args.predictions, args.references, **sides)
    pairs = [*folders.pairs.values()]
    files = [probabilities_path(args.probabilities, case) for case in folders.pairs] if args.probabilities else []
    rules = find_rules(args.rules) if args.rules != "auto" else rules_of(mask for _, mask in pairs)
    with progress_bar("searching") as progress:
        fitted = fit(pairs, rules, probabilities=files, workers=args.workers, progress=progress)
    _print(fitted, rules)
    write_text(args.out, fitted.steps.to_yaml(_heading(fitted, rules)))
    print(f"{args.out}: {fitted.steps}")
    return 0


def _heading(fitted: "Fitted", rules: "Rules") -> str:
    from raum_lightning.postprocess.variants import figures

    dice, distance, _ = figures(rules)
    (before, before_mm, _), (after, after_mm, _) = fitted.before, fitted.after
    return (
        f"Written by `{COMMAND} fit` on {fitted.cases} cases by the rules {rules.name}:\n"
        f"mean {dice} {before:.3f} to {after:.3f}, mean {distance} {before_mm:.1f} to {after_mm:.1f} mm."
    )


def _print(fitted: "Fitted", rules: "Rules") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from raum_lightning.postprocess.variants import figures
    from raum_lightning.progress import print_table

    units = ("gain", "fall, mm", "gain")
    dice, distance, third = (
        f"{name}_{unit}".replace("_", "\n") for name, unit in zip(figures(rules), units, strict=True)
    )
    title = f"gain of each step, one of {fitted.cases} cases left out; 95 % interval of the first"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("step", no_wrap=True)
    for name in ("best", dice, "low", "high", distance, third, "taken"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in fitted.found:
        best = re.sub(r"[][{}']", "", step.value.partition(" ")[2])
        numbers = (f"{gain:+.3f}" for gain in (step.gain, step.low, step.high))
        others = f"{step.gain_mm:+.1f}", f"{step.gain_third:+.3f}"
        table.add_row(step.name, best, *numbers, *others, "yes" if step.taken else "no")
    console = print_table(table)
    for line in _heading(fitted, rules).splitlines()[1:]:
        console.print(line)
    console.print(f"rules {rules}")


def _apply(args: argparse.Namespace) -> int:
    from raum_lightning.cases.case import read_remark
    from raum_lightning.cases.nifti import stem, write_like
    from raum_lightning.errors import ConfigError, EvaluationError, UserError
    from raum_lightning.geometry import voxel_size
    from raum_lightning.metrics.folders import find_masks, read_mask
    from raum_lightning.postprocess import Postprocess, clean
    from raum_lightning.postprocess.probabilities import by_thresholds
    from raum_lightning.progress import progress_bar
    from raum_lightning.runs.outputs import check_writable

    steps = Postprocess.read(args.postprocess)
    if steps.threshold and not args.probabilities:
        raise ConfigError(
            f"{args.postprocess}: threshold is of probabilities, which masks do not have: give --probabilities DIR, or "
            "segment with --postprocess"
        )
    masks = find_masks(args.predictions, args.dataset)
    if unclear := [mask.path for mask in masks.values() if mask.found is None]:
        raise EvaluationError(
            f"{unclear[0]}: nothing says whose label values it holds; give a name, a YAML file or a "
            "dataset.json as --dataset"
        )
    targets = {case: args.out / f"{stem(mask.path)}.nii.gz" for case, mask in masks.items()}
    remarks = {case: f"{mask.dataset.name} {_key(steps, mask.path)}" for case, mask in masks.items()}
    # of an earlier call that was ended
    done_before = [
        case for case, path in targets.items() if path.exists() and read_remark(path) == tuple(remarks[case].split())
    ]
    if there := [path for case, path in targets.items() if path.exists() and case not in done_before]:
        raise ConfigError(f"{there[0]}: exists and is not replaced; give another folder as --out")
    for mask in masks.values():
        steps.check(mask.dataset.regions)
    for path in targets.values():
        check_writable(path)
    problems: dict[str, Any] = {}
    with progress_bar("cleaning") as progress:
        for done, (case, mask) in enumerate(masks.items(), 1):
            if case in done_before:
                continue
            try:
                labels, volume = read_mask(mask, "predictions")
                dataset = mask.dataset
                raw = by_thresholds(labels.numpy(), steps, dataset, args.probabilities, case)
                cleaned = clean(raw, steps, voxel_size(volume.affine), dataset.regions)
                write_like(targets[case], dataset.decode(cleaned), mask.path, f"raum {remarks[case]}")
            except UserError as error:
                problems[case] = error
            progress(done, len(masks))
    kept = f", {len(done_before)} were there already" if done_before else ""
    print(f"{args.out}: {len(masks) - len(problems) - len(done_before)} masks cleaned{kept}: {steps}")
    for case, problem in problems.items():
        print(f"{case} was not cleaned: {problem}")
    return int(bool(problems))


def _key(steps: "Postprocess", mask: Path) -> str:
    """Return what changes with the steps or the mask that they clean."""
    state = mask.stat()
    said = json.dumps([steps.plain, state.st_size, state.st_mtime_ns])
    return hashlib.sha256(said.encode()).hexdigest()[:16]
