"""`raum prepare`: prepare cases before a training, and remove prepared ones that are not needed any more."""

import argparse
from pathlib import Path

from raum_lightning.cli.dataset_option import add_dataset


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("roots", metavar="ROOT", type=Path, nargs="+", help="folders with cases")
    parser.add_argument("--modalities", nargs="+", help="as data.modalities")
    add_dataset(parser)
    parser.add_argument(
        "--prepared_dir", type=Path, default=Path("runs/prepared"), help="as data.prepared_dir (default: %(default)s)"
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="then remove prepared folders that no case below ROOT needs, such as those of files that have changed; "
        "name every ROOT whose prepared cases are to stay",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")


def run(args: argparse.Namespace) -> int:
    """Prepare, clean, and say how many folders and MB there were before and after; return 0."""
    import shutil

    from raum_lightning.cases.discovery import find_cases
    from raum_lightning.data.cleaning import megabytes, unneeded
    from raum_lightning.data.option_checks import check_names
    from raum_lightning.data.store import is_prepared, prepare
    from raum_lightning.progress import progress_bar

    found = [case for root in args.roots for case in find_cases(root, args.dataset)]
    cases = list({(case.id, case.folder.resolve()): case for case in found}.values())  # a root may hold another one
    known = cases[0].dataset
    args.modalities = args.modalities or list(known.modalities)
    check_names("modalities", args.modalities, list(known.images))
    missing = [case for case in cases if not is_prepared(case, args.prepared_dir, args.modalities)]
    size_before = _size(args.prepared_dir)
    would = "would be " if args.dry_run else ""
    if not args.dry_run:
        with progress_bar("preparing cases") as progress:
            for sentence in prepare(cases, args.prepared_dir, args.modalities, progress=progress):
                print(sentence)
    print(f"{len(missing)} of {len(cases)} cases {would}prepared")
    if args.clean:
        old = unneeded(args.prepared_dir, cases)
        freed = megabytes(old)
        for folder in old:
            print(f"{folder}: not needed")
            if not args.dry_run:
                shutil.rmtree(folder)
        print(f"{len(old)} folders, {freed:.1f} MB, {would}removed")
    print(f"{args.prepared_dir}: {size_before} before, {_size(args.prepared_dir)} now")
    return 0


def _size(folder: Path) -> str:
    from raum_lightning.data.cleaning import megabytes

    folders = list(folder.glob("*/"))
    return f"{len(folders)} folders, {megabytes(folders):.1f} MB"
