"""Finding cases: by the names of their files, or by a dataset.json."""

import re
from collections.abc import Sequence
from pathlib import Path

from raum_lightning.atomic import expanded, no_folder
from raum_lightning.cases.case import Case
from raum_lightning.cases.index import indexed_cases
from raum_lightning.cases.matching import RENAME, Listing, case_of, files_below
from raum_lightning.datasets import DataSet, load, presets
from raum_lightning.datasets.description import compiled
from raum_lightning.errors import CaseError

__all__ = ["files_below", "find_case", "find_cases", "is_image", "recognise"]

Named = str | Path | DataSet
# folders above a case's own that patterns may name, such as a hospital's
DEPTH = 4


def find_cases(
    root: Path | str, dataset: Named = "auto", *, prefer: DataSet | None = None, above: bool = False
) -> list[Case]:
    """Return all cases below `root`, sorted by id.

    `dataset` is auto, the name of a data set, its YAML file or dataset.json, or the data set itself. auto takes a
    dataset.json in `root`, and otherwise what ids and names of files say; where they fit several data sets, `prefer`
    before others. Where nothing is found and `above`, folders above `root` may be part of the patterns of the data set
    that is declared or preferred.

    Raises:
        CaseError: There is nothing to find, two folders hold the same case, or the names are those of several data sets
            that read the same label value differently.
    """
    root = expanded(root)
    declared = dataset if isinstance(dataset, DataSet) else None if dataset == "auto" else load(dataset)
    if not root.is_dir():
        raise CaseError(f"{no_folder(root)}; give one that holds cases")
    said = ""
    try:
        indexed = indexed_cases(root, declared) if declared is None or declared.index else None
    except CaseError as error:
        if declared:
            raise
        # the names of the files may still say what they are
        indexed, said = None, f"; {error}"
    cases = indexed if indexed is not None else _by_names(root, declared, prefer)
    if not cases and above and (known := declared or prefer):
        cases = _with_folders_above(root, known)
    if not cases:
        raise CaseError(f"{root}: no cases found; {_expected(declared, prefer)}{said}")
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            raise CaseError(f"case {case.id} is in both {seen[case.id].folder} and {case.folder}; remove one{RENAME}")
        seen[case.id] = case
    return [seen[name] for name in sorted(seen)]


def find_case(folder: Path | str, dataset: Named = "auto", *, prefer: DataSet | None = None) -> Case:
    """Return the one case in `folder`, whose folders above may be part of its data set's patterns.

    Raises:
        CaseError: There is none or there are several.
    """
    cases = find_cases(folder, dataset, prefer=prefer, above=True)
    if len(cases) > 1:
        raise CaseError(f"{folder}: holds {len(cases)} cases ({cases[0].id}, {cases[1].id}, ...); name one of them")
    return cases[0]


def _with_folders_above(folder: Path, known: DataSet) -> list[Case]:
    for base in list(folder.resolve().parents)[:DEPTH]:
        listing = Listing.of(folder.resolve(), base)
        if ids := listing.cases(known):
            return [case_of(listing, known, case) for case in sorted(ids)]
    return []


def is_image(name: str, declared: DataSet | None = None) -> bool:
    """Return whether a file of this name, without ending, is an image: of `declared`, or of any data set that is known.

    A name that is the case's alone tells no image from a mask.
    """
    known = presets().values() if declared is None else [declared]
    patterns = {p for dataset in known for given in dataset.images.values() for p in given}
    if declared:  # of its patterns what is behind the folders
        patterns = {re.split(r"/(?![^{]*\})", pattern)[-1] for pattern in patterns} - {"{case}"}
    return any(compiled(pattern).fullmatch(name) for pattern in patterns)


def recognise(case: str) -> DataSet | None:
    """Return the data set that an id belongs to; None where no id of a data set looks like it.

    Raises:
        CaseError: Several data sets have such ids and read the same label value differently.
    """
    claims = [preset for preset in presets().values() if preset.claims(case) == 0]
    return _agreed(case, claims) if claims else None


def _by_names(root: Path, declared: DataSet | None, prefer: DataSet | None) -> list[Case]:
    listing = Listing.of(root)
    if declared:
        ids = sorted(listing.cases(declared))
        for case in ids:
            _check_declared(case, declared)
        return [case_of(listing, declared, case) for case in ids]
    found: dict[str, list[tuple[tuple[int, int], DataSet]]] = {}
    known = presets() | ({prefer.name: prefer} if prefer else {})
    for dataset in known.values():
        own = listing.cases(dataset, 1)
        for case in listing.cases(dataset):
            claim = dataset.claims(case) if dataset.ids or dataset is not prefer else -1
            if claim is not None:
                found.setdefault(case, []).append(((claim, case not in own), dataset))
    cases = []
    for case, claims in found.items():
        strongest = min(claim for claim, _ in claims)
        fitting = [dataset for claim, dataset in claims if claim == strongest]
        cases.append(case_of(listing, prefer if prefer in fitting else _agreed(case, fitting), case))
    return cases


def _agreed(case: str, datasets: Sequence[DataSet]) -> DataSet:
    """Of data sets that read every value alike the one with the fewest."""
    ordered = sorted(datasets, key=lambda dataset: len(dataset.labels))
    for dataset in ordered[1:]:
        for value, name in ordered[0].labels.items():
            if (other := dataset.labels.get(value, name)) != name:
                raise CaseError(
                    f"case {case}: is called as those of {ordered[0].name} and {dataset.name}, in which label {value} "
                    f"is {name} and {other}; declare which it is with data.dataset or --dataset"
                )
    return ordered[0]


def _check_declared(case: str, declared: DataSet) -> None:
    """Raise `CaseError` for an id of another challenge whose masks never hold a class of the one that was declared.

    Other label values are a conversion, as BraTS 2023 with 4 for ET; other classes are a mistake, as those of BraTS
    2024 for children's tumours. A data set of one's own is taken as it is.
    """
    claims = [preset for preset in presets().values() if preset.claims(case) == 0]
    if declared.name in presets() and claims and not any(set(declared.classes) <= set(one.classes) for one in claims):
        raise CaseError(
            f"case {case}: is called as those of {' and '.join(one.name for one in claims)}, whose classes are not "
            f"those of {declared.name} ({', '.join(declared.classes[1:])}); declare one of these, or a YAML file"
        )


def _expected(declared: DataSet | None, prefer: DataSet | None) -> str:
    known, others = declared or prefer, "files such as <case>/<case>_flair.nii.gz, a dataset.json, or a data set "
    if not known or not known.images:
        return f"expected {others}declared in YAML"
    modality, patterns = next(iter(known.images.items()))
    said = f"no file fits {' or '.join(patterns)}, the {modality} of data set {known.name}"
    return said if declared else f"{said}; expected these, {others}declared as --dataset"
