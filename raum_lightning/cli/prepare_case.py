"""`raum prepare-case`: the scans of one examination as a case whose images lie voxel on voxel."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from raum_lightning.cli.raw import MODALITIES, add_raw, align_scans, find_scans, prepare_tools
from raum_lightning.errors import ConfigError, OutputError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.epilog = (
        "A scan is a NIfTI file or the folder of a DICOM series. Without --brain-mask and --skull-strip the T1ce has "
        "to be skull-stripped: what is 0 in it is outside the brain."
    )
    add = parser.add_argument
    add("--t1ce", type=Path, metavar="SCAN", help="what the others are registered to")
    for modality in MODALITIES[1:]:
        add(f"--{modality}", type=Path, metavar="SCAN", help="is registered to the T1ce")
    add_raw(parser)
    add("--out", type=Path, required=True, metavar="CASE_DIR", help="folder to write, named as the case")


def run(args: argparse.Namespace) -> int:
    """Register, cut out the brain, write, say how far each image was moved, and return 0."""
    from raum_lightning.cases.ids import check_id
    from raum_lightning.runs.outputs import check_writable

    name = args.out.resolve().name
    check_id(name)
    if args.out.exists():
        raise OutputError(f"{args.out}: exists; give another folder, or remove it first")
    check_writable(args.out)
    atlas = prepare_tools(args)
    with TemporaryDirectory() as folder:
        images, _ = find_scans(args, Path(folder))
        if len(images) == 1:
            raise ConfigError("give at least one of --flair, --t1 and --t2 beside --t1ce")
        aligned = align_scans(args, images, atlas)
        aligned.write(args.out, name)
    print(f"{args.out}: {', '.join(images)} on the grid of the {'T1ce' if atlas is None else atlas.name}")
    return 0
