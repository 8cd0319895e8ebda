"""`raum view`: a case as a picture, with its mask and a prediction."""

import argparse
from pathlib import Path

from raum_lightning.cli.dataset_option import add_dataset
from raum_lightning.errors import CaseError, ConfigError

NARROWEST = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("case", metavar="CASE_DIR", type=Path, help="folder of the case, with or without a mask")
    parser.add_argument(
        "--prediction", type=Path, metavar="SEG", help="mask in the label values of the case's data set"
    )
    parser.add_argument(
        "--slice",
        type=int,
        nargs=3,
        metavar=("I", "J", "K"),
        help="voxel through which the slices go, counted from 0 along the file's axes (default: where most tumour is)",
    )
    parser.add_argument("--id", help="which case, where the folder holds several")
    add_dataset(parser)
    parser.add_argument("--width", type=int, default=1600, help="pixels at most (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="picture to write: .png, .pdf or .svg")


def run(args: argparse.Namespace) -> int:
    """Draw and write the picture, print its path, and return 0."""
    from raum_lightning.cases.case import other_case
    from raum_lightning.cases.discovery import find_case, find_cases
    from raum_lightning.figures import Scan, check_ending, draw, save
    from raum_lightning.runs.outputs import check_output

    if args.width < NARROWEST:
        raise ConfigError(f"--width {args.width}: a picture has at least {NARROWEST} pixels")
    check_ending(args.out)
    check_output(args.out, "raum view")
    if args.id:
        cases = {case.id: case for case in find_cases(args.case, args.dataset)}
        if args.id not in cases:
            raise CaseError(f"{args.case}: holds no case {args.id}, but {', '.join(list(cases)[:5])}")
        case = cases[args.id]
    else:
        case = find_case(args.case, args.dataset)
    scan = Scan.read(case, args.prediction)
    save(draw(scan, point=args.slice), args.out, width=args.width)
    print(f"{args.out}: {case.id}")
    if args.prediction and (sentence := other_case(args.prediction, case.id)):
        print(sentence)
    return 0
