"""Rules for all cases together."""

from collections.abc import Iterable, Sequence

import numpy as np

from raum_lightning.cases.rules.subject import FoundInSet, Subject

# share of the masks: what is in fewer is rare; and masks from which on it is said
RARE, ENOUGH = 0.05, 20


def same_content(subjects: Iterable[Subject]) -> FoundInSet:
    """Yield files whose voxels another case has as well: images, and masks that are not empty."""
    seen: dict[str, tuple[str, str]] = {}
    for subject in subjects:
        files = {image.digest: image.file for image in subject.facts.images}
        if (mask := subject.facts.mask) and mask.voxels:
            files[mask.digest] = mask.file
        for digest, file in files.items():
            case, other = seen.setdefault(digest, (subject.case.id, file))
            if case != subject.case.id:
                yield (
                    subject.case.id,
                    file,
                    f"has the same content as {other} of case {case}",
                    "keep one of them: a copy in both training and validation makes scores worthless",
                )


def odd_spacing(subjects: Sequence[Subject]) -> FoundInSet:
    """Yield cases whose voxels have another size than most."""
    sizes = {subject.case.id: subject.facts.images[0] for subject in subjects if subject.facts.images}
    if not sizes:
        return
    usual = np.median([image.spacing for image in sizes.values()], axis=0)
    for case, image in sizes.items():
        if np.abs(np.divide(image.spacing, usual) - 1).max() > 0.1:
            said = f"has voxels of {_size(image.spacing)}, most cases of {_size(usual)}"
            yield case, image.file, said, "resample it or list the case under data.exclude"


def odd_set(subjects: Sequence[Subject]) -> FoundInSet:
    """Yield a size of the voxels of all cases that is unusual."""
    sizes = [subject.facts.images[0].spacing for subject in subjects if subject.facts.images]
    usual = np.median(sizes, axis=0) if sizes else np.ones(3)
    if usual.min() < 0.5 or usual.max() > 2:
        yield (
            "",
            "",
            f"most cases have voxels of {_size(usual)}; patches and windows are counted in voxels",
            "resample all cases to about 1 x 1 x 1 mm, or choose data.roi_size for such voxels",
        )


def rare_class(subjects: Sequence[Subject]) -> FoundInSet:
    """Yield classes that few masks hold, where there are enough masks to say so."""
    masks = [subject.facts.mask for subject in subjects if subject.facts.mask]
    if len(masks) < ENOUGH:
        return
    for name in dict.fromkeys(name for mask in masks for name in mask.classes):
        having = sum(bool(mask.classes.get(name)) for mask in masks)
        if having < RARE * len(masks):
            said = f"{having} of {len(masks)} masks have {name}"
            yield "", "", said, "sample it more often (data.class_weights), and give its scores with their number"


def _size(spacing: Iterable[float]) -> str:
    return f"{' x '.join(f'{size:.3g}' for size in spacing)} mm"
