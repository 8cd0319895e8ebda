"""Rules for images: intensities, background, and how the modalities of a case compare."""

from raum_lightning.cases.measure import Image
from raum_lightning.cases.rules.subject import Found, Subject


def constant(subject: Subject) -> Found:
    """Yield images without contrast in the brain."""
    for image in subject.facts.images:
        if image.std <= 1e-3 * abs(image.mean):
            yield image.file, f"{image.modality} is {image.mean:g} in all of the brain", "replace it by the scan"
        elif image.std < 1e-5:
            said = f"{image.modality} has a standard deviation of {image.std:.1g} in the brain"
            yield image.file, said, "scale it up: as it is, it becomes constant when it is z-scored"


def few_values(subject: Subject) -> Found:
    """Yield images of few different values."""
    for image in subject.facts.images:
        if 1 < image.distinct <= 10 and image.std > 0:
            said = f"{image.modality} has only {image.distinct} different values in the brain"
            yield image.file, said, "replace it by the scan, if it is a mask or was quantised"


def hot(subject: Subject) -> Found:
    """Yield images of which a few voxels outshine the rest."""
    # at most 1.05 in real scans
    for image in subject.facts.images:
        if image.std > 2 * image.typical_std > 0:
            yield (
                image.file,
                f"a few voxels of {image.modality}, up to {image.maximum:g}, raise the standard deviation of the brain "
                f"from {image.typical_std:.3g} to {image.std:.3g}; raum clips them where they lie far outside the rest",
                "repair them",
            )


def negative(subject: Subject) -> Found:
    """Yield images that are negative in part of the brain."""
    # .9 % where splines have overshot
    for image in subject.facts.images:
        if image.negative > 0.02:
            yield (
                image.file,
                f"{image.negative:.0%} of {image.modality} in the brain is negative",
                "give raw intensities: raum z-scores them itself",
            )


def background(subject: Subject) -> Found:
    """Yield images whose background or skull would be taken for brain."""
    if subject.skull:  # which `none` declares, and what surrounds the head was set to 0
        return
    for image in subject.facts.images:
        if _is_noisy(image):
            said = f"{image.edge:.0%} of the voxels along the edges of {image.modality} are not 0"
        elif image.litres > 2.2:
            said = f"what is not 0 in {image.modality} fills {image.litres:.1f} litres, more than a brain"
        else:
            continue
        yield (
            image.file,
            f"{said}: its background is noisy, or the skull was not removed",
            "strip the skull and set what is outside the brain to 0, as raum takes all that is not 0 for brain",
        )


def noise(subject: Subject) -> Found:
    """Yield images with noise around 0."""
    for image in subject.facts.images:
        if image.noise:
            said = f"{image.noise:.0%} of {image.modality} is noise around 0, left by interpolation and read as 0"
            yield image.file, said, "set what is outside the brain to 0, as other programs may take it for brain"


def transforms(subject: Subject) -> Found:
    """Yield images whose header has two transforms that disagree."""
    for image in subject.facts.images:
        if image.disagreement:
            yield (
                image.file,
                f"sform and qform of its header disagree by up to {image.disagreement:.3g} mm; raum takes the sform",
                "make them equal, as other programs take the qform",
            )


def overlap(subject: Subject) -> Found:
    """Yield images whose brain is not that of the case's first."""
    # at least .97 in real scans
    for image in subject.facts.images:
        if image.overlap < 0.8 and (subject.skull or not _is_noisy(image)):
            yield (
                image.file,
                f"the brain of {image.modality} overlaps that of {subject.facts.images[0].modality} by "
                f"{image.overlap:.0%} only",
                "see whether both are of one patient, registered, and stripped of the skull",
            )


def _is_noisy(image: Image) -> bool:
    return image.edge > 0.05


def same_modality(subject: Subject) -> Found:
    """Yield images that are a copy of another modality."""
    # at most .73 in real scans
    for one, other, correlation in subject.facts.alike:
        if correlation > 0.99 and (image := subject.image(other)):
            said = f"{other} has the content of {one} (correlation {correlation:.4f} in the brain)"
            yield image.file, said, f"replace it by the {other} of the case"


def swapped(subject: Subject) -> Found:
    """Yield FLAIR where another modality looks more like it."""
    if (flair := subject.image("flair")) and (other := brighter_than_flair(subject)):
        yield (
            flair.file,
            f"flair and {other.modality} may be swapped: the tumour lies {flair.tumour:+.1f} standard deviations from "
            f"the mean of the brain on flair and {other.tumour:+.1f} on {other.modality}, where edema is bright on "
            "FLAIR only",
            "look at both, and swap the files if so",
        )


def brighter_than_flair(subject: Subject) -> Image | None:
    """Return T1ce or T1 where the tumour is brighter on it; real ones are brighter on FLAIR by .4 to 3.2."""
    flair = subject.image("flair")
    for other in filter(None, (subject.image("t1ce"), subject.image("t1"))):
        if flair and flair.tumour is not None and other.tumour is not None and flair.tumour < other.tumour - 0.2:
            return other
    return None
