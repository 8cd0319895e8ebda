"""Rigid registration of the images of one examination onto each other, by mutual information (SimpleITK).

A scanner writes where a head lay, but patients move between sequences, by some millimetres and degrees. Mutual
information asks only that one sequence predicts the other, not that they look alike (Mattes et al., IEEE TMI 2003).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raum_lightning.cases.nifti import Volume
from raum_lightning.errors import CaseError

# NIfTI's world axes grow to the right and to the front, those of ITK to the left and to the back
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
BINS, SHARE, SEED = 48, 0.25, 1
# resolutions: shrinking factor, and smoothing in voxels
SHRINK, SMOOTH = (4, 2, 1), (2, 1, 0)


def register(fixed: Volume, moving: Volume, *, centred: bool = False) -> NDArray[np.float64]:
    """Return the rigid motion, 4 x 4 in mm, that maps points of `fixed` to the same anatomy in `moving`.

    World coordinates are NIfTI's (right, anterior, superior). Begins where the headers say that both lie, or with
    `centred`, as for an atlas, where the centres of what is not 0 coincide.

    Raises:
        CaseError: The two do not overlap, or one has an affine with shear.
    """
    import SimpleITK as Sitk

    target, image = _image(fixed), _image(moving)
    centre = target.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in target.GetSize()])
    start = Sitk.Euler3DTransform()
    start.SetCenter(centre)
    if centred:
        start.SetTranslation((RAS_TO_LPS @ (centre_of(moving) - centre_of(fixed)))[:3].tolist())
    method = Sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SHARE, SEED)
    method.SetInterpolator(Sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-4, 200, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel(SMOOTH)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start, inPlace=True)
    method.SetNumberOfThreads(1)  # sums of several threads differ by rounding from run to run
    try:
        method.Execute(target, image)
    except RuntimeError as error:
        raise CaseError(f"{moving.path}: could not be registered to {fixed.path.name}; do the two overlap?") from error
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(start.GetMatrix(), (3, 3))
    matrix[:3, 3] = np.array(start.GetTranslation()) + centre - matrix[:3, :3] @ np.array(centre)
    found: NDArray[np.float64] = RAS_TO_LPS @ matrix @ RAS_TO_LPS
    return found


def resample(moving: Volume, fixed: Volume, motion: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return `moving` on the grid of `fixed`, trilinear and 0 outside, where `register` found `motion`."""
    from scipy.ndimage import affine_transform

    voxels = np.linalg.inv(moving.affine) @ motion @ fixed.affine
    moved: NDArray[np.float32] = affine_transform(
        moving.data, voxels[:3, :3], voxels[:3, 3], fixed.data.shape, np.float32, order=1
    )
    return moved


def centre_of(volume: Volume) -> NDArray[np.float64]:
    """Return where the centre of what is not 0 lies: x, y, z in mm, and 1; of the whole volume where all is 0."""
    found = np.argwhere(volume.data)
    middle = found.mean(axis=0) if len(found) else (np.array(volume.data.shape) - 1) / 2
    centre: NDArray[np.float64] = volume.affine @ np.append(middle, 1)
    return centre


def _image(volume: Volume) -> Any:
    """Return a volume as SimpleITK's image."""
    import SimpleITK as Sitk

    affine = RAS_TO_LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = Sitk.GetImageFromArray(volume.data.transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    try:
        image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    except RuntimeError as error:
        raise CaseError(f"{volume.path}: its affine has shear or no orientation; resample it first") from error
    return image
