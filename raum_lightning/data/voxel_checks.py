"""Whether the voxels of prepared cases are such as a network learns from, or has learnt from."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from raum_lightning.data.store import ORIENTATION, Prepared
from raum_lightning.errors import GeometryError
from raum_lightning.geometry import OBLIQUE_DEGREES, tilt

# of the voxel size; what differs less is no more than heads of people do
ALIKE_TOLERANCE = 0.1


def check_alike(cases: Sequence[Prepared]) -> None:
    """Raise `GeometryError` where the voxels of some cases differ by more than 10 % from the median size."""
    usual = np.median([case.spacing for case in cases], axis=0)
    if others := [case for case in cases if _differs(case.spacing, usual)]:
        listed = "\n  ".join(f"{case.id}: {_size(case.spacing)}" for case in others)
        raise GeometryError(
            f"the voxels of {len(others)} of {len(cases)} cases do not have the size of most, {_size(usual)}; resample "
            f"them or list their ids under data.exclude:\n  {listed}"
        )


def check_trained(cases: Iterable[Prepared], orientation: str, spacing: Sequence[float]) -> None:
    """Raise `GeometryError` where a case differs from those that trained, of this `orientation` and `spacing` in mm.

    That is by more than 10 % in voxel size, by being oblique by more than 3 degrees, or in where the axes run.
    """
    if orientation != ORIENTATION:
        raise GeometryError(
            f"the checkpoint was trained on {orientation} arrays, cases are now reoriented to {ORIENTATION}; "
            "use `raum segment`, which reorients them, or train again"
        )
    for case in cases:
        problem = None
        if _differs(case.spacing, spacing):
            problem = f"has voxels of {_size(case.spacing)}, the checkpoint's cases of {_size(spacing)}"
        elif (degrees := tilt(case.reorientation.affine)) > OBLIQUE_DEGREES:
            problem = f"is oblique by {degrees:.1f} degrees"
        if problem:
            raise GeometryError(f"case {case.id} {problem}: segment it with `raum segment`, which resamples")


def _differs(spacing: Sequence[float], usual: Sequence[float] | np.typing.NDArray[Any]) -> bool:
    return bool((np.abs(np.asarray(spacing) / usual - 1) > ALIKE_TOLERANCE).any())


def _size(spacing: Iterable[float]) -> str:
    return f"{' x '.join(f'{size:.3g}' for size in spacing)} mm"
