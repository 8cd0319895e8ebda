"""`raum prepare-case`: the scans of one examination as a case whose images lie voxel on voxel."""

import argparse
from pathlib import Path

from raum_lightning.errors import ConfigError, OutputError

COMMAND = "raum prepare-case"
MODALITIES = ("t1ce", "flair", "t1", "t2")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.epilog = (
        "Brain masks are not made here: HD-BET and SynthStrip make them. Without --brain-mask the T1ce has to be "
        "skull-stripped: what is 0 in it is outside the brain."
    )
    add = parser.add_argument
    add("--t1ce", type=Path, required=True, metavar="NIFTI", help="on whose grid the case will lie")
    for modality in MODALITIES[1:]:
        add(f"--{modality}", type=Path, metavar="NIFTI", help="is registered to the T1ce")
    add("--brain-mask", type=Path, metavar="NIFTI", help="on the grid of the T1ce; not 0 in the brain")
    add("--out", type=Path, required=True, metavar="CASE_DIR", help="folder to write, named as the case")


def run(args: argparse.Namespace) -> int:
    """Register, cut out the brain, write, say how far each image was moved, and return 0."""
    import numpy as np

    from raum_lightning.cases.case import cleaned
    from raum_lightning.cases.ids import check_id
    from raum_lightning.cases.nifti import read_nifti, write_like
    from raum_lightning.cases.registration import register, resample

    given = {modality: path for modality in MODALITIES if (path := getattr(args, modality))}
    if len(given) == 1:
        raise ConfigError("give at least one of --flair, --t1 and --t2 beside --t1ce")
    name = args.out.resolve().name
    check_id(name)
    if args.out.exists():
        raise OutputError(f"{args.out}: exists; give another folder, or remove it first")
    volumes = {modality: read_nifti(path) for modality, path in given.items()}
    fixed = volumes["t1ce"]
    brain = fixed.data != 0
    if args.brain_mask:
        mask = read_nifti(args.brain_mask)
        mask.check_grid(fixed)
        brain = mask.data != 0
    else:
        fixed = cleaned(fixed)
        brain = fixed.data != 0
        print("no --brain-mask: what is 0 in the T1ce is taken for outside the brain")
    centre = fixed.affine @ np.append(np.argwhere(brain).mean(axis=0), 1) if brain.any() else None
    if centre is None:
        raise ConfigError(f"{args.brain_mask}: is 0 everywhere; give the mask of the brain")
    images = {"t1ce": fixed.data}
    for modality in [other for other in volumes if other != "t1ce"]:
        motion = register(fixed, volumes[modality])
        images[modality] = resample(volumes[modality], fixed, motion)
        angle = np.degrees(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1)))
        shift = np.linalg.norm((motion @ centre - centre)[:3])
        print(f"{modality}: moved by {shift:.1f} mm at the centre of the brain and turned by {angle:.1f} degrees")
    for modality, data in images.items():
        write_like(args.out / f"{name}_{modality}.nii.gz", np.where(brain, data, 0), given["t1ce"], f"raum {modality}")
    print(f"{args.out}: {', '.join(volumes)} on the grid of {given['t1ce'].name}")
    return 0
