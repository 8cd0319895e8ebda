"""What is wrong with cases: errors that keep a case from being used, and warnings of what would harm a training.

`RULES` judge a case, `SET_RULES` all cases together, by what `measure` gave. Thresholds stand beside what real scans
have: 32 cases of BraTS 2013, BraTS 2018, TCGA and MSD Task01, of which none has a finding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raum_lightning.cases.rules import files, images, masks, sets
from raum_lightning.cases.rules.subject import Finding, Found, FoundInSet, Severity, Subject

__all__ = ["RULES", "SET_RULES", "Finding", "Rule", "SetRule", "Subject"]


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
    Rule("two files", "error", files.problems),
    Rule("missing", "error", files.missing),
    Rule("unreadable", "error", files.unreadable),
    Rule("constant", "error", images.constant),
    Rule("same modality", "error", images.same_modality),
    Rule("mask elsewhere", "error", masks.mask_elsewhere),
    Rule("empty mask", "warning", masks.empty_mask),
    Rule("mask of another", "warning", masks.mask_of_another),
    Rule("swapped", "warning", images.swapped),
    Rule("hot voxels", "warning", images.hot),
    Rule("few values", "warning", images.few_values),
    Rule("negative", "warning", images.negative),
    Rule("background", "warning", images.background),
    Rule("noise", "warning", images.noise),
    Rule("brains differ", "warning", images.overlap),
    Rule("two transforms", "warning", images.transforms),
)
SET_RULES = (
    SetRule("same content", "error", sets.same_content),
    SetRule("odd voxels", "error", sets.odd_spacing),
    SetRule("odd voxels everywhere", "warning", sets.odd_set),
    SetRule("rare class", "warning", sets.rare_class),
)
