"""Rules for files: whether what a case needs is there and can be read."""

from raum_lightning.cases.rules.subject import OMIT, Found, Subject


def problems(subject: Subject) -> Found:
    """Yield what was seen to be wrong while looking for files."""
    for problem in subject.case.problems:
        yield str(subject.case.folder), problem, "keep one of them"


def missing(subject: Subject) -> Found:
    """Yield modalities and masks that are not there."""
    case = subject.case
    missing = [modality for modality in subject.modalities if modality not in case.images]
    if subject.masked and case.label is None:
        missing.append("mask")
    if missing:
        have = ", ".join(case.images) or "none"
        advice = "add it, do without it (--modalities, data.modalities), or list the case under data.exclude"
        yield str(case.folder), f"missing: {', '.join(missing)} (found {have})", advice


def unreadable(subject: Subject) -> Found:
    """Yield files that cannot be read."""
    for file, sentence in subject.facts.unreadable:
        message, _, advice = sentence.removeprefix(f"{file}: ").partition("; ")
        yield file, message, advice or OMIT
