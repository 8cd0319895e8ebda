"""Which cases train, validate and test: deterministic folds by patient, or a given file."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from raum_lightning.atomic import write_json
from raum_lightning.cases.case import Case
from raum_lightning.errors import SplitError
from raum_lightning.json_files import parse_json


@dataclass(frozen=True)
class Split:
    """Case ids by their use."""

    train: list[str]
    val: list[str]
    test: list[str]

    def save(self, path: Path) -> None:
        """Write JSON that `read_split` reads again."""
        write_json(path, asdict(self))


def make_split(
    cases: Sequence[Case], *, folds: int = 5, fold: int = 0, test_fraction: float = 0.1, seed: int = 0
) -> Split:
    """Split by patient: a test set, the same for all folds, and `folds` parts of the rest, one of which validates.

    Patients are sorted by a hash of seed and id, so that neither the machine nor the order of files matters, and the
    sorted row is cut into test set and folds, whose numbers of patients differ by at most one. A patient more shifts
    each cut by at most one place: no more patients change their part than there are folds, which is what it takes to
    keep the folds balanced. With fewer patients than folds there are fewer folds. Runs keep the split that they began
    with in splits.json: which patients are in which fold may change between versions of this package.

    Where the data set itself holds cases out, as nnU-Net does in imagesTs, they are the test set, whatever
    `test_fraction` is; other visits of these patients are in no part.

    Raises:
        SplitError: Where there are fewer than three patients, or a fold that does not exist.
    """
    check_folds(folds, fold, test_fraction)
    if kept := held_out(cases):
        patients = {case.patient for case in cases if case.held_out}
        others = [case for case in cases if case.patient not in patients]
        return replace(make_split(others, folds=folds, fold=fold, test_fraction=0, seed=seed), test=kept)
    groups: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        groups[case.patient].append(case.id)
    if len(groups) < 3:
        known = f" ({len(cases)} cases, such as {cases[0].id})" if len(cases) > len(groups) else ""
        raise SplitError(
            f"{len(groups)} patients{known} cannot be split into train, val and test; at least 3 are needed, "
            "or a file given as data.splits"
        )
    order = sorted(groups, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    tested = min(max(1, round(test_fraction * len(order))), len(order) - 2) if test_fraction else 0
    test, rest = order[:tested], order[tested:]
    folds = min(folds, len(rest))
    if fold >= folds:
        raise SplitError(f"fold {fold} does not exist: {len(rest)} patients give {folds} folds, 0 to {folds - 1}")
    first, end = (index * len(rest) // folds for index in (fold, fold + 1))
    train, val = rest[:first] + rest[end:], rest[first:end]
    return Split(*(sorted(i for patient in part for i in groups[patient]) for part in (train, val, test)))


def held_out(cases: Sequence[Case]) -> list[str]:
    """Return the ids of the cases that the data set itself keeps for testing, sorted."""
    return sorted(case.id for case in cases if case.held_out)


def check_folds(folds: int, fold: int, test_fraction: float) -> None:
    """Raise `SplitError` for numbers that no set of cases can be split by, naming their keys."""
    if folds < 2:
        raise SplitError(f"data.folds={folds} must be 2 or more: one part validates and the others train")
    if not 0 <= fold < folds:
        raise SplitError(f"data.fold={fold} does not exist: data.folds={folds} are numbered 0 to {folds - 1}")
    if not 0 <= test_fraction < 1:
        raise SplitError(f"data.test_fraction={test_fraction} must be at least 0 and below 1")


def read_split(path: Path, cases: Sequence[Case], *, fold: int = 0) -> Split:
    """Return the split in a JSON file: {"train": [ids], "val": [ids], "test": [ids]}, or a list with one for each fold.

    A file without `test`, such as nnU-Net's, tests the cases that the data set itself holds out, but of patients that
    another part has.

    Raises:
        SplitError: Naming the file, and the ids that are not in the data or the patients that are in two parts, unless
            the cases of one part are all in the other.
    """
    if fold < 0:
        raise SplitError(f"fold {fold} does not exist: folds count from 0")
    patients = {case.id: case.patient for case in cases}
    try:
        content = parse_json(path.read_bytes())
        if isinstance(content, list):
            content = content[fold]
        train, val = (_ids(key, content.get(key, [])) for key in ("train", "val"))
        used = {patients.get(case) for case in (*train, *val)}
        kept = [case for case in held_out(cases) if patients[case] not in used]
        split = Split(train, val, _ids("test", content.get("test", kept)))
    except FileNotFoundError:
        raise SplitError(
            f"{path}: no such file; data.splits, or `splits` of a data set, is a JSON file with train, val and test"
        ) from None
    except IndexError:
        raise SplitError(f"{path}: has no fold {fold}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise SplitError(
            f"{path}: is not a split ({error}); expected JSON: train, val and test, with lists of ids"
        ) from None
    if unknown := sorted({*split.train, *split.val, *split.test} - set(patients)):
        raise SplitError(f"{path}: {len(unknown)} ids are not among the cases with a mask: {', '.join(unknown[:5])}")
    parts = [(part, set(ids)) for part, ids in asdict(split).items()]
    for (one, ours), (other, theirs) in combinations(parts, 2):
        # all cases of one part in the other are meant, as when a network is to overfit them
        if len(ours & theirs) == min(len(ours), len(theirs)):
            continue
        if both := sorted({patients[case] for case in ours} & {patients[case] for case in theirs}):
            raise SplitError(f"{path}: {', '.join(both[:5])} in both {one} and {other}; leave them out of one")
    return split


def _ids(part: str, given: Any) -> list[str]:
    """Return the ids of a part, sorted; raise `TypeError` where they are no list of words or numbers."""
    if not isinstance(given, list) or not all(isinstance(one, (str, int)) for one in given):
        raise TypeError(f"{part} is no list of ids")
    return sorted(map(str, given))
