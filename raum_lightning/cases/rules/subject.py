"""What a rule is given, a case with what was measured of it, and what it finds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

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

    @property
    def skull(self) -> bool:
        """Whether the scans are declared to be with skull: what is not 0 is the head then, not the brain."""
        return self.case.dataset.background == "none"

    def image(self, modality: str) -> Image | None:
        """Return what was measured of a modality."""
        return next((image for image in self.facts.images if image.modality == modality), None)


# file, message, advice
Found = Iterator[tuple[str, str, str]]
# the same after the id of the case
FoundInSet = Iterator[tuple[str, str, str, str]]
