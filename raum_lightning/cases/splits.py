"""Which cases train, validate and test: deterministic folds by patient, or a given file."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from raum_lightning.cases.case import Case
from raum_lightning.errors import SplitError


@dataclass(frozen=True)
class Split:
    """Case ids by their use."""

    train: list[str]
    val: list[str]
    test: list[str]

    def save(self, path: Path) -> None:
        """Writes JSON that `read_split` reads again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def make_split(
    cases: Sequence[Case], *, folds: int = 5, fold: int = 0, test_fraction: float = 0.1, seed: int = 0
) -> Split:
    """Splits by patient: a test set, the same for all folds, and `folds` parts of the rest, one of which validates.

    The order is that of a hash of seed and patient, so that it depends neither on the machine nor on the order of
    files, and a case that joins later moves few others. With fewer patients than folds there are fewer folds.
    Raises `SplitError` for fewer than three patients or a fold that does not exist.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        groups[case.patient].append(case.id)
    if len(groups) < 3:
        raise SplitError(
            f"{len(groups)} patients cannot be split into train, val and test; at least 3 are needed, "
            "or a file given as data.splits"
        )
    if not 0 <= test_fraction < 1:
        raise SplitError(f"test_fraction={test_fraction} is not in [0, 1)")
    order = sorted(groups, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    held_out = min(max(1, round(test_fraction * len(order))), len(order) - 2) if test_fraction else 0
    rest = order[held_out:]
    folds = min(folds, len(rest))
    if folds < 2 or not 0 <= fold < folds:
        raise SplitError(f"fold {fold} does not exist: {len(rest)} patients give {folds} folds, 0 to {folds - 1}")
    val = rest[fold::folds]
    train = [patient for patient in rest if patient not in set(val)]
    return Split(*(sorted(i for patient in part for i in groups[patient]) for part in (train, val, order[:held_out])))


def read_split(path: Path, cases: Sequence[Case], *, fold: int = 0) -> Split:
    """A split from JSON: {"train": [ids], "val": [ids], "test": [ids]}, or a list of such, one a fold, as nnU-Net's.

    Raises `SplitError` naming the file, and the ids that the data has not or the patients that are in two parts, unless
    one part is all in the other.
    """
    if fold < 0:
        raise SplitError(f"fold {fold} does not exist: folds count from 0")
    try:
        content = json.loads(path.read_text())
        if isinstance(content, list):
            content = content[fold]
        split = Split(*(sorted(map(str, content.get(key, []))) for key in ("train", "val", "test")))
    except FileNotFoundError:
        raise SplitError(f"{path}: no such file; data.splits is a JSON file with train, val and test") from None
    except IndexError:
        raise SplitError(f"{path}: has no fold {fold}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise SplitError(f"{path}: is not a split ({error}); expected train, val and test with lists of ids") from None
    patients = {case.id: case.patient for case in cases}
    if unknown := sorted({*split.train, *split.val, *split.test} - set(patients)):
        raise SplitError(f"{path}: {len(unknown)} ids are not among the cases with a mask: {', '.join(unknown[:5])}")
    parts = {part: {patients[name] for name in ids} for part, ids in asdict(split).items()}
    for (one, ours), (other, theirs) in combinations(parts.items(), 2):
        # all of them in both is meant, as when a network is to learn them by heart
        if (both := sorted(ours & theirs)) and len(both) < min(len(ours), len(theirs)):
            raise SplitError(f"{path}: {', '.join(both[:5])} in both {one} and {other}; leave them out of one")
    return split
