"""What `raum subsets` and `raum ablate` share: the cases of a root, a network's mean scores on them, and a table."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raum_lightning.cli.model_options import add_trust
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.json_files import read_json

if TYPE_CHECKING:
    from raum_lightning.cases.case import Case
    from raum_lightning.inference.card import ModelCard
    from raum_lightning.inference.segmenter import Segmenter
    from raum_lightning.metrics import Rules

PARTS = ("test", "val", "all")


@dataclass(frozen=True)
class Row:
    """A line of the table: what was changed, and the mean scores."""

    name: str
    scores: Mapping[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a verb that scores a network several times."""
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="CKPT", help="one of `raum fit`, or .safetensors")
    add("--data.root", dest="root", type=Path, required=True, metavar="DIR", help="folder with cases and masks")
    add("--part", choices=PARTS, default="test", help="which cases (default: %(default)s)")
    add("--splits", type=Path, metavar="JSON", help="where the parts stand (default: splits.json of the run)")
    add(
        "--dataset",
        default="auto",
        help="auto (what the names of the files say), a name, a YAML file or a dataset.json",
    )
    add("--metrics", nargs="+", default=["dice"], help="such as dice hd95 lesion_dice (default: dice)")
    add("--rules", default="auto", help="as for `raum evaluate` (default: auto, the data set's)")
    add("--overlap", type=float, help="shared fraction of adjacent windows (default: the checkpoint's)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one")
    add("--out", type=Path, metavar="FILE", help="write the table too: .json or .csv")
    add_trust(parser)


def open_segmenter(args: argparse.Namespace, command: str) -> "Segmenter":
    """Check what can be checked before the work and return the network of `--checkpoint`."""
    from raum_lightning.inference.segmenter import load
    from raum_lightning.metrics import find_rules
    from raum_lightning.metrics.measures import select
    from raum_lightning.runs.outputs import check_output

    if args.rules != "auto":
        select(args.metrics, find_rules(args.rules))
    if args.out:
        if args.out.suffix not in (".json", ".csv"):
            raise ConfigError(f"{args.out}: the name must end in .json or .csv")
        csv = args.out.suffix == ".csv"
        # a table has no place for its writer's name, but for the name of its first column
        check_output(args.out, command, ours=_is_table if csv else None)
    settings = {name: getattr(args, name) for name in ("device", "overlap")}
    return load(args.checkpoint, trust=args.trust, postprocess="none", **settings)


def find_scored(args: argparse.Namespace, segmenter: "Segmenter") -> list["Case"]:
    """Return the cases to be scored: with a mask and all modalities, of the part that is asked for.

    Raises:
        ConfigError: It is not known which cases trained the network, or the part is empty.
        RunError: Some of the cases trained it.
        CaseError: A case lacks a modality.
    """
    from raum_lightning.cases.discovery import find_cases
    from raum_lightning.cases.splits import read_split
    from raum_lightning.runs.folder import RunFolder

    trained = segmenter.card.trained_on
    cases = find_cases(args.root, args.dataset, prefer=trained if trained.images else None)
    cases = [case for case in cases if case.label]
    if args.part != "all":
        run = RunFolder.of_file(args.checkpoint)
        splits = args.splits or (run.splits if run else None)
        if splits is None or not (args.splits or splits.is_file()):
            raise ConfigError(
                f"{args.checkpoint}: no splits.json beside it says which cases are for testing; give --splits JSON, or "
                "--part all where none of the cases was used to train it"
            )
        if isinstance(folds := read_json(splits, ConfigError), list) and len(folds) > 1:
            raise ConfigError(f"{splits}: holds {len(folds)} folds; give a file with the one split of this network")
        wanted = {*getattr(read_split(splits, cases), args.part)}
        cases = [case for case in cases if case.id in wanted]
    if not cases:
        raise ConfigError(f"--part {args.part} has no case with a mask in {args.root}; choose from {', '.join(PARTS)}")
    _check_unseen(args.checkpoint, cases)
    for case in cases:
        case.files(segmenter.card.modalities)
        case.check_label()
    return cases


def find_scoring(
    args: argparse.Namespace, cases: Sequence["Case"], card: "ModelCard"
) -> tuple[tuple[str, ...], "Rules"]:
    """Return what is scored, and by which rules: those that are asked for, else those of the cases' data set.

    Raises `ConfigError` where cases have different ones, or the rules have not all metrics that are asked for.
    """
    from raum_lightning.metrics import find_rules
    from raum_lightning.metrics.measures import select

    names = {find_rules(case.dataset.scoring).name for case in cases} if args.rules == "auto" else {args.rules}
    if len(names) > 1:
        raise ConfigError(f"the cases are scored by {' and '.join(sorted(names))}; say which with --rules")
    rules = find_rules(names.pop()).of(card.classes)
    return select(args.metrics, rules), rules


def _check_unseen(checkpoint: Path, cases: Sequence["Case"]) -> None:
    """Raise `RunError` for cases that trained the network; say so where its file does not name them."""
    from raum_lightning.inference.weights import UNKNOWN
    from raum_lightning.runs.checkpoints import structure

    trained = structure(checkpoint).get("trained") if checkpoint.suffix == ".ckpt" else None
    if trained is None:
        print(f"{checkpoint}: {UNKNOWN}")
    elif seen := sorted({*trained} & {case.id for case in cases}):
        raise RunError(
            f"{checkpoint}: was trained on {len(seen)} of these cases ({', '.join(seen[:5])}); leave them out"
        )


def mean_scores(
    segmenter: "Segmenter", cases: Iterable["Case"], metrics: Sequence[str], rules: "Rules"
) -> dict[str, float]:
    """Return the means of `metrics` over cases."""
    import torch

    from raum_lightning.geometry import voxel_size
    from raum_lightning.metrics import SegmentationMetrics

    card = segmenter.card
    scored = SegmentationMetrics(metrics, rules=rules, regions=card.region_indices)
    for case in cases:
        labels = torch.from_numpy(segmenter.segment(case).labels)
        target, affine = case.read_label()
        table = torch.from_numpy(_indices(case, card))
        target_of_card = table[torch.from_numpy(target).long()]
        scored.update(labels, target_of_card, case=case.id, spacing=voxel_size(affine))
    return scored.compute()


def _indices(case: "Case", card: "ModelCard") -> Any:
    """Return the network's class index for each of a mask's; what it does not know is background to it."""
    import numpy as np

    from raum_lightning.datasets import IGNORED

    table = np.zeros(256, np.uint8)
    table[IGNORED] = IGNORED
    for index, name in enumerate(case.dataset.classes):
        table[index] = card.classes.index(name) if name in card.classes else 0
    return table


def show(rows: Sequence[Row], first: str, title: str, metrics: Sequence[str], rules: "Rules") -> None:
    """Print the table, and beneath it the rules of its metrics."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    from raum_lightning.metrics import explain
    from raum_lightning.progress import print_table

    names = list(rows[0].scores)
    columns = [Column("\n".join(_heading(name)), justify="right") for name in names]
    table = Table(
        Column(first, no_wrap=True), *columns, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for row in rows:
        table.add_row(row.name, *(_number(row.scores[name]) for name in names))
    console = print_table(table)
    console.print(f"rules {rules}")
    for metric in metrics:
        console.print(f"{metric}: {explain(metric, rules)}")


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _heading(name: str) -> tuple[str, str]:
    from raum_lightning.metrics.measures import part_name

    metric, part = part_name(name)
    return metric, part if part == "mean" else part.upper()


def save(path: Path, rows: Sequence[Row], first: str, **more: Any) -> None:
    """Write the table as JSON, with what else is to be known of it, or as CSV."""
    from raum_lightning.atomic import write_csv, write_json
    from raum_lightning.metrics.evaluation import plain

    table = [{first: row.name, **plain(row.scores)} for row in rows]
    if path.suffix == ".csv":
        write_csv(path, list(table[0]), table)
    else:
        write_json(path, more | {"rows": table})
    print(f"{path}: {len(rows)} rows")


def _is_table(path: Path) -> bool:
    return path.read_text(encoding="utf-8", errors="replace").startswith(("modalities,", "replaced,"))
