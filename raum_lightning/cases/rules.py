"""What is wrong with cases: errors that keep a case from being used, and warnings of what would harm a training.

`RULES` judge a case, `SET_RULES` all cases together, by what `measure` gave. Thresholds stand beside what real scans
have: 32 cases of BraTS 2013, BraTS 2018, TCGA and MSD Task01, of which none has a finding.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raum_lightning.cases.case import Case
from raum_lightning.cases.measure import Facts, Image

Severity = Literal["error", "warning"]
OMIT = "repair it or list the case under data.exclude"


@dataclass(frozen=True)
class Finding:
    """What is wrong, with which file (or folder) of which case, and what to do.

    Args:
        severity: error, or warning where a training is possible but would suffer.
        rule: The name of the rule in `RULES` or `SET_RULES`.
        case: Id of the case; empty where it concerns them all.
        file: Path of the file; empty where it concerns no single one.
        message: What is wrong, with the value.
        advice: What to do.
    """

    severity: Severity
    rule: str
    case: str
    file: str
    message: str
    advice: str


@dataclass(frozen=True)
class Subject:
    """A case with what was measured of it and what is asked of it: its modalities and whether it needs a mask."""

    case: Case
    facts: Facts
    modalities: Sequence[str]
    masked: bool

    def image(self, modality: str) -> Image | None:
        """Return what was measured of a modality."""
        return next((image for image in self.facts.images if image.modality == modality), None)


# file, message, advice
Found = Iterator[tuple[str, str, str]]
# the same after the id of the case
FoundInSet = Iterator[tuple[str, str, str, str]]


def _problems(subject: Subject) -> Found:
    for problem in subject.case.problems:
        yield str(subject.case.folder), problem, "keep one of them"


def _missing(subject: Subject) -> Found:
    case = subject.case
    missing = [modality for modality in subject.modalities if modality not in case.images]
    if subject.masked and case.label is None:
        missing.append("mask")
    if missing:
        have = ", ".join(case.images) or "none"
        advice = "add it, do without it (--modalities, data.modalities), or list the case under data.exclude"
        yield str(case.folder), f"missing: {', '.join(missing)} (found {have})", advice


def _unreadable(subject: Subject) -> Found:
    for file, sentence in subject.facts.unreadable:
        message, _, advice = sentence.removeprefix(f"{file}: ").partition("; ")
        yield file, message, advice or OMIT


def _constant(subject: Subject) -> Found:
    for image in subject.facts.images:
        if image.std <= 1e-3 * abs(image.mean):
            yield image.file, f"{image.modality} is {image.mean:g} in all of the brain", "replace it by the scan"
        elif image.std < 1e-5:
            said = f"{image.modality} has a standard deviation of {image.std:.1g} in the brain"
            yield image.file, said, "scale it up: as it is, it becomes constant when it is z-scored"


def _few_values(subject: Subject) -> Found:
    for image in subject.facts.images:
        if 1 < image.distinct <= 10 and image.std > 0:
            said = f"{image.modality} has only {image.distinct} different values in the brain"
            yield image.file, said, "replace it by the scan, if it is a mask or was quantised"


def _hot(subject: Subject) -> Found:
    # at most 1.05 in real scans
    for image in subject.facts.images:
        if image.std > 2 * image.typical_std > 0:
            yield (
                image.file,
                f"a few voxels of {image.modality}, up to {image.maximum:g}, raise the standard deviation of the brain "
                f"from {image.typical_std:.3g} to {image.std:.3g}; raum clips them where they lie far outside the rest",
                "repair them",
            )


def _negative(subject: Subject) -> Found:
    # .9 % where splines have overshot
    for image in subject.facts.images:
        if image.negative > 0.02:
            yield (
                image.file,
                f"{image.negative:.0%} of {image.modality} in the brain is negative",
                "give raw intensities: raum z-scores them itself",
            )


def _background(subject: Subject) -> Found:
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


def _noise(subject: Subject) -> Found:
    for image in subject.facts.images:
        if image.noise:
            said = f"{image.noise:.0%} of {image.modality} is noise around 0, left by interpolation and read as 0"
            yield image.file, said, "set what is outside the brain to 0, as other programs may take it for brain"


def _transforms(subject: Subject) -> Found:
    for image in subject.facts.images:
        if image.disagreement:
            yield (
                image.file,
                f"sform and qform of its header disagree by up to {image.disagreement:.3g} mm; raum takes the sform",
                "make them equal, as other programs take the qform",
            )


def _overlap(subject: Subject) -> Found:
    # at least .97 in real scans
    for image in subject.facts.images:
        if image.overlap < 0.8 and not _is_noisy(image):
            yield (
                image.file,
                f"the brain of {image.modality} overlaps that of {subject.facts.images[0].modality} by "
                f"{image.overlap:.0%} only",
                "see whether both are of one patient, registered, and stripped of the skull",
            )


def _is_noisy(image: Image) -> bool:
    return image.edge > 0.05


def _same_modality(subject: Subject) -> Found:
    # at most .73 in real scans
    for one, other, correlation in subject.facts.alike:
        if correlation > 0.99 and (image := subject.image(other)):
            said = f"{other} has the content of {one} (correlation {correlation:.4f} in the brain)"
            yield image.file, said, f"replace it by the {other} of the case"


def _swapped(subject: Subject) -> Found:
    if (flair := subject.image("flair")) and (other := _brighter_than_flair(subject)):
        yield (
            flair.file,
            f"flair and {other.modality} may be swapped: the tumour lies {flair.tumour:+.1f} standard deviations from "
            f"the mean of the brain on flair and {other.tumour:+.1f} on {other.modality}, where edema is bright on "
            "FLAIR only",
            "look at both, and swap the files if so",
        )


def _brighter_than_flair(subject: Subject) -> Image | None:
    """Return T1ce or T1 where the tumour is brighter on it; real ones are brighter on FLAIR by .4 to 3.2."""
    flair = subject.image("flair")
    for other in filter(None, (subject.image("t1ce"), subject.image("t1"))):
        if flair and flair.tumour is not None and other.tumour is not None and flair.tumour < other.tumour - 0.2:
            return other
    return None


def _empty_mask(subject: Subject) -> Found:
    if (mask := subject.facts.mask) and not mask.voxels:
        yield mask.file, "the mask is empty", "look whether the case has no tumour"


def _mask_elsewhere(subject: Subject) -> Found:
    if (mask := subject.facts.mask) and mask.voxels:
        if mask.outside > 0.5:
            yield mask.file, f"{mask.outside:.0%} of the tumour lies outside the brain", "give the case its own mask"
        elif mask.covered > 0.6:  # at most 26 % in real masks
            yield mask.file, f"the tumour covers {mask.covered:.0%} of the brain", "give the case its own mask"


def _mask_of_another(subject: Subject) -> Found:
    # on FLAIR real tumours lie at least .74 standard deviations above the mean, 78 % of masks of other cases below .5
    mask = subject.facts.mask
    if not mask or not mask.voxels or [*_mask_elsewhere(subject)] or _brighter_than_flair(subject):
        return
    flair = subject.image("flair")
    said = []
    if mask.outside > 0.05:
        said.append(f"{mask.outside:.0%} of the tumour lies outside the brain")
    if flair and flair.tumour is not None and flair.tumour < 0.5:
        said.append(f"the tumour lies {flair.tumour:+.2f} standard deviations from the mean of the brain on flair")
    if said:
        yield mask.file, f"the mask may be of another case: {', and '.join(said)}", "lay it over flair and look"


def _same_content(subjects: Iterable[Subject]) -> FoundInSet:
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


def _odd_spacing(subjects: Sequence[Subject]) -> FoundInSet:
    sizes = {subject.case.id: subject.facts.images[0] for subject in subjects if subject.facts.images}
    if not sizes:
        return
    usual = np.median([image.spacing for image in sizes.values()], axis=0)
    for case, image in sizes.items():
        if np.abs(np.divide(image.spacing, usual) - 1).max() > 0.1:
            said = f"has voxels of {_size(image.spacing)}, most cases of {_size(usual)}"
            yield case, image.file, said, "resample it or list the case under data.exclude"


def _odd_set(subjects: Sequence[Subject]) -> FoundInSet:
    sizes = [subject.facts.images[0].spacing for subject in subjects if subject.facts.images]
    usual = np.median(sizes, axis=0) if sizes else np.ones(3)
    if usual.min() < 0.5 or usual.max() > 2:
        yield (
            "",
            "",
            f"most cases have voxels of {_size(usual)}; patches and windows are counted in voxels",
            "resample all cases to about 1 x 1 x 1 mm, or choose data.roi_size for such voxels",
        )


def _size(spacing: Iterable[float]) -> str:
    return f"{' x '.join(f'{size:.3g}' for size in spacing)} mm"


@dataclass(frozen=True)
class Rule:
    """A name, how grave it is, and the function that judges one case."""

    name: str
    severity: Severity
    judge: Callable[[Subject], Found]


@dataclass(frozen=True)
class SetRule:
    """The same with a function that judges all cases."""

    name: str
    severity: Severity
    judge: Callable[[Sequence[Subject]], FoundInSet]


RULES = (
    Rule("two files", "error", _problems),
    Rule("missing", "error", _missing),
    Rule("unreadable", "error", _unreadable),
    Rule("constant", "error", _constant),
    Rule("same modality", "error", _same_modality),
    Rule("mask elsewhere", "error", _mask_elsewhere),
    Rule("empty mask", "warning", _empty_mask),
    Rule("mask of another", "warning", _mask_of_another),
    Rule("swapped", "warning", _swapped),
    Rule("hot voxels", "warning", _hot),
    Rule("few values", "warning", _few_values),
    Rule("negative", "warning", _negative),
    Rule("background", "warning", _background),
    Rule("noise", "warning", _noise),
    Rule("brains differ", "warning", _overlap),
    Rule("two transforms", "warning", _transforms),
)
SET_RULES = (
    SetRule("same content", "error", _same_content),
    SetRule("odd voxels", "error", _odd_spacing),
    SetRule("odd voxels everywhere", "warning", _odd_set),
)
