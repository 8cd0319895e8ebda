"""Which files are which: the patterns of data sets against the files below a folder."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raum_lightning.cases.case import Case
from raum_lightning.cases.nifti import stem
from raum_lightning.datasets import DataSet
from raum_lightning.datasets.description import compiled, ending
from raum_lightning.errors import CaseError

RENAME = ", or rename one where they are different patients"
# files by case and pattern
Matches = Mapping[str, Mapping[str, Sequence[Path]]]


def files_below(root: Path) -> Iterator[Path]:
    """Return all files below `root`; folders are often links to where a cluster keeps the data, at times in a circle.

    Hidden folders are left out: programs that were killed leave what they had half written in such.

    Raises:
        CaseError: A folder cannot be read.
    """
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (Path(folder) / name for name in names)


def _refuse(error: OSError) -> None:
    raise CaseError(f"{error.filename}: cannot be searched for cases ({error.strerror})")


@dataclass(frozen=True)
class Listing:
    """The NIfTI files below `root`, and which of them fit a pattern."""

    root: Path
    files: tuple[tuple[str, str, Path], ...]
    """Path below the root without ending, the ending, and where the file is."""
    _found: dict[str, dict[str, list[Path]]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, base: Path | None = None) -> "Listing":
        """Return the listing of a folder; paths are those below `base`, a folder above it, where given.

        A folder that is called like a file, as Kaggle unpacks BraTS 2021 (`case_flair.nii/00000057_brain_flair.nii`),
        stands for the file in it, whatever that is called.
        """
        files = []
        for path in sorted(files_below(root)):
            if stem(path) is None:
                continue
            named = path.parent if path.parent != root and stem(path.parent) else path
            name = stem(named)
            assert name is not None
            files.append((named.with_name(name).relative_to(base or root).as_posix(), named.name[len(name) :], path))
        return cls(root, tuple(files))

    def matches(self, pattern: str) -> Mapping[str, Sequence[Path]]:
        """Return the files that fit `pattern`, by case."""
        if pattern not in self._found:
            expression, wanted = compiled(pattern), ending(pattern)
            found: dict[str, list[Path]] = defaultdict(list)
            for name, its_ending, path in self.files:
                if wanted in (None, its_ending.lower()) and (match := expression.fullmatch(name)):
                    found[match["case"]].append(path)
            self._found[pattern] = found
        return self._found[pattern]

    def first(self, patterns: Iterable[str], case: str) -> Sequence[Path]:
        """Return the files of a case by the first pattern that any fits; none where none does."""
        return next((paths for pattern in patterns if (paths := self.matches(pattern).get(case))), ())

    def cases(self, dataset: DataSet, patterns: int | None = None) -> set[str]:
        """Return the ids of the cases with an image by the first so many patterns of each modality, or by all."""
        return {
            case for given in dataset.images.values() for pattern in given[:patterns] for case in self.matches(pattern)
        }


def case_of(listing: Listing, dataset: DataSet, case: str) -> Case:
    """Return a case of `dataset` as the listing has it; what is there twice becomes one of its `problems`.

    Raises:
        CaseError: A modality lies in two folders.
    """
    roles = {modality: listing.first(patterns, case) for modality, patterns in dataset.images.items()}
    roles["mask"] = listing.first(dataset.mask, case)
    problems = []
    for role, paths in roles.items():
        folders = {path.parent for path in paths}
        if len(folders) > 1:
            one, other = sorted(folders)[:2]
            raise CaseError(f"case {case} is in both {one} and {other}; remove one{RENAME}")
        if paths[1:]:
            problems.append(f"two files for {role}: {', '.join(map(str, paths))}")
    label = roles.pop("mask")
    pattern = dataset.background
    brain = listing.first([pattern], case) if isinstance(pattern, str) and pattern != "none" else ()
    images = {modality: paths[0] for modality, paths in roles.items() if paths}
    return Case(
        case,
        dataset,
        images,
        label[0] if label else None,
        dataset.channels,
        tuple(dict.fromkeys(problems)),
        brain[0] if brain else None,
    )
