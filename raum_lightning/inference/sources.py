"""Which case is to be segmented: by its folder, by one file of MSD Task01, or by a file for each modality."""

from collections.abc import Mapping
from pathlib import Path

from raum_lightning.atomic import expanded
from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_case, find_cases, recognise
from raum_lightning.cases.nifti import stem
from raum_lightning.datasets import DataSet
from raum_lightning.errors import CaseError

# of files that do not say what data set they are of: it has no label for any class
UNRECOGNISED = DataSet("unknown", {}, (), {})

# a folder, a file that dataset.json of MSD Task01 lists, or the file of each modality
Source = Case | Path | str | Mapping[str, Path | str]


def find(source: Source, dataset: str | None = None, trained: DataSet | None = None) -> Case:
    """Return the case that `source` names; raise `CaseError` where there is none.

    `dataset`, or else the data set that a network was `trained` on, says how its files are called where their names do
    not say it themselves.
    """
    prefer = trained if trained and trained.images else None
    if isinstance(source, Case):
        return source
    if isinstance(source, Mapping):
        images = {modality: Path(path) for modality, path in source.items()}
        name = stem(next(iter(images.values()))) or "case"
        return Case(name, (recognise(name) if dataset is None else None) or prefer or UNRECOGNISED, images)
    path = expanded(source)
    if not path.is_file():
        try:
            return find_case(path, prefer=prefer)
        except CaseError:
            if dataset is None:
                raise
            return find_case(path, dataset)
    root = next((folder for folder in path.parents if (folder / "dataset.json").is_file()), None)
    for case in find_cases(root) if root else ():
        if path.resolve() in {image.resolve() for image in case.images.values()}:
            return case
    raise CaseError(f"{path}: is not an image that a dataset.json above it lists; give its folder or its modalities")
