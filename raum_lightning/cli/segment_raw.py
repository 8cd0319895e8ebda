"""`raum segment --raw`: scans as they come from the scanner, and their mask on the grid of the T1ce."""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from raum_lightning import __version__
from raum_lightning.cli.raw import align_scans, find_scans, prepare_tools
from raum_lightning.errors import ConfigError

if TYPE_CHECKING:
    from raum_lightning.cases.dicom import Series
    from raum_lightning.inference.segmenter import Segmenter

# of `raum segment`, on other grids than that of the T1ce or of cases that are prepared
OTHERS = ("case", "cases", "image", "probabilities", "uncertainty", "figure")


def check_options(args: argparse.Namespace) -> None:
    """Refuse what does not go with `--raw`, and the options of `--raw` without it."""
    if not args.raw:
        if given := [name for name in ("dicom", "brain_mask", "skull_strip", "atlas") if getattr(args, name)]:
            raise ConfigError(f"--{given[0].replace('_', '-')} is for --raw scans")
        return
    if given := [name for name in OTHERS if getattr(args, name)]:
        raise ConfigError(f"--{given[0]} does not go with --raw; give --t1ce, --flair, --t1 and --t2, or --dicom")


def segment_raw(args: argparse.Namespace, segmenter: "Segmenter") -> int:
    """Prepare the scans as a case, segment it, bring the mask back onto the T1ce, say how much tumour, return 0."""
    from raum_lightning.cases.case import Case, write_mask
    from raum_lightning.inference.sources import UNRECOGNISED
    from raum_lightning.progress import progress_bar

    card = segmenter.card
    with TemporaryDirectory() as place:
        folder = Path(place)
        images, series = find_scans(args, folder, card.modalities)
        name = args.out.name.partition(".")[0]
        # the background of what is prepared is 0, whatever that of the training cases was
        case = Case(name, replace(card.trained_on or UNRECOGNISED, background=0.0), images)
        segmenter.modalities_of(case)
        _check_output(args.out, images, series)
        aligned = align_scans(args, images, prepare_tools(args))
        case = replace(case, images=aligned.write(folder / "case", name))
        with progress_bar("segmenting") as progress:
            result = segmenter.segment(case, progress=progress)
        labels = card.translate(aligned.back(result.labels), result.data_set)
        if series and args.out.suffix == ".dcm":
            from raum_lightning.cases.dicom_seg import write_segmentation

            write_segmentation(args.out, labels, result.data_set, series, __version__)
        else:
            write_mask(args.out, labels, replace(case, images=images, dataset=result.data_set), "t1ce")
    volumes = ", ".join(f"{region} {volume:.1f} ml" for region, volume in result.volumes.items())
    print(f"{args.out}: {volumes}; on the grid of the T1ce, labels of {result.data_set.name}")
    return 0


def _check_output(out: Path, images: dict[str, Path], series: "Series | None") -> None:
    from raum_lightning.cases.case import is_ours
    from raum_lightning.cases.nifti import ENDINGS, stem
    from raum_lightning.runs.outputs import check_output

    if out.suffix == ".dcm":
        from raum_lightning.cases import dicom_seg

        if series is None:
            raise ConfigError(f"{out}: a DICOM segmentation is of a series; give the T1ce as one, or a name in .nii.gz")
        dicom_seg.check_writer(out)
        check_output(out, "raum segment", ours=dicom_seg.is_ours)
        return
    if not stem(out):
        raise ConfigError(f"{out}: let the name end in {', '.join(ENDINGS)} or, of a DICOM series, .dcm")
    if out.resolve() in {path.resolve() for path in images.values()}:
        raise ConfigError(f"{out}: is one of the scans, which it would overwrite; give another name")
    check_output(out, "raum segment", ours=is_ours)
