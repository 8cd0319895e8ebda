"""Options of the verbs that take scans as they come from the scanner: where they lie, the brain, and the atlas."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from raum_lightning.errors import ConfigError

if TYPE_CHECKING:
    from raum_lightning.cases.dicom import Series
    from raum_lightning.cases.raw import Aligned, Scans

# the one that the others are registered to comes first
MODALITIES = ("t1ce", "flair", "t1", "t2")

# those of raum_lightning.cases.brainles, which the help names without importing it
STRIPPERS = ("hd-bet", "synthstrip")
ATLAS = "sri24"


def add_raw(parser: argparse.ArgumentParser) -> None:
    """Add `--dicom`, `--brain-mask`, `--skull-strip` and `--atlas`."""
    parser.add_argument(
        "--dicom",
        type=Path,
        metavar="DIR",
        help="folder of DICOM series, told apart by their descriptions; where these do not tell, --t1ce, --flair, --t1 "
        "and --t2 give their numbers",
    )
    brain = parser.add_mutually_exclusive_group()
    brain.add_argument("--brain-mask", type=Path, metavar="NIFTI", help="on the grid of the T1ce; not 0 in the brain")
    brain.add_argument("--skull-strip", choices=STRIPPERS, help="find the brain in the T1ce (extra [raw])")
    parser.add_argument(
        "--atlas",
        metavar=f"{ATLAS}|NIFTI",
        help="register the T1ce to this atlas without skull, whose grid the case takes: networks of BraTS have seen "
        f"{ATLAS} alone (extra [raw])",
    )


def prepare_tools(args: argparse.Namespace) -> Path | None:
    """Fetch what the options need, before any work, and return the file of the atlas."""
    from raum_lightning.cases import brainles

    for tool in (args.skull_strip, args.atlas if args.atlas == ATLAS else None):
        if tool:
            brainles.fetch(tool, print)
    if args.atlas == ATLAS:
        return brainles.atlas()
    if args.atlas and not Path(args.atlas).is_file():
        raise ConfigError(f"--atlas {args.atlas}: is neither {ATLAS} nor a file")
    return Path(args.atlas) if args.atlas else None


def find_scans(
    args: argparse.Namespace, folder: Path, needed: Collection[str] = MODALITIES
) -> tuple[dict[str, Path], "Series | None"]:
    """Return the NIfTI file of each of the `needed` modalities that is given, and the series of the T1ce.

    Series of DICOM are written into `folder` first; without DICOM the series is None.
    """
    from raum_lightning.cases.dicom import choose, find_series, write_nifti

    wanted = [modality for modality in MODALITIES if modality in {"t1ce", *needed}]
    given: dict[str, Path] = {modality: path for modality in wanted if (path := getattr(args, modality))}
    if args.dicom:
        series = choose(args.dicom, {modality: str(path) for modality, path in given.items()}, wanted)
    else:
        series = {}
        for modality, path in given.items():
            if path.is_dir():
                found = find_series(path)
                if len(found) > 1:
                    raise ConfigError(f"{path}: holds {len(found)} series; give the folder as --dicom")
                series[modality] = found[0]
    for modality, one in series.items():
        print(f"{modality}: series {one.number} {one.description!r}")
        given[modality] = write_nifti(one, folder / f"{modality}.nii")
    if "t1ce" not in given:
        raise ConfigError("give the T1ce, to which the others are registered, as --t1ce or in a folder --dicom")
    return given, series.get("t1ce")


def align_scans(args: argparse.Namespace, images: dict[str, Path], atlas: Path | None) -> "Aligned":
    """Find the brain, register all images and say how far each was moved."""
    from raum_lightning.cases.raw import align

    return align(_read(args, images), atlas, print)


def _read(args: argparse.Namespace, images: dict[str, Path]) -> "Scans":
    from tempfile import TemporaryDirectory

    from raum_lightning.cases.brainles import strip
    from raum_lightning.cases.raw import read_scans

    if not args.skull_strip:
        if not args.brain_mask:
            print("no --brain-mask and no --skull-strip: what is 0 in the T1ce is taken for outside the brain")
        return read_scans(images, args.brain_mask)
    with TemporaryDirectory() as folder:
        return read_scans(images, strip(images["t1ce"], args.skull_strip, Path(folder)))
