"""Rules for masks."""

from raum_lightning.cases.rules.images import brighter_than_flair
from raum_lightning.cases.rules.subject import Found, Subject


def empty_mask(subject: Subject) -> Found:
    """Yield masks without a tumour."""
    if (mask := subject.facts.mask) and not mask.voxels:
        yield mask.file, "the mask is empty", "look whether the case has no tumour"


def mask_elsewhere(subject: Subject) -> Found:
    """Yield masks that cannot be of this brain."""
    if (mask := subject.facts.mask) and mask.voxels:
        if mask.outside > 0.5:
            yield mask.file, f"{mask.outside:.0%} of the tumour lies outside the brain", "give the case its own mask"
        elif mask.covered > 0.6:  # at most 26 % in real masks
            yield mask.file, f"the tumour covers {mask.covered:.0%} of the brain", "give the case its own mask"


def mask_of_another(subject: Subject) -> Found:
    """Yield masks that may be of another case."""
    # in a head with skull, skin and fat shift the mean;
    # on FLAIR real tumours lie at least .74 standard deviations above the mean, 78 % of masks of other cases below .5
    mask = subject.facts.mask
    if not mask or not mask.voxels or [*mask_elsewhere(subject)] or brighter_than_flair(subject):
        return
    flair = None if subject.skull else subject.image("flair")
    said = []
    if mask.outside > 0.05:
        said.append(f"{mask.outside:.0%} of the tumour lies outside the brain")
    if flair and flair.tumour is not None and flair.tumour < 0.5:
        said.append(f"the tumour lies {flair.tumour:+.2f} standard deviations from the mean of the brain on flair")
    if said:
        yield mask.file, f"the mask may be of another case: {', and '.join(said)}", "overlay it on flair and check"
