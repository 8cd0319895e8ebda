"""Series of DICOM files (SimpleITK over GDCM): find them, tell which modality each is, and write one as NIfTI."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from raum_lightning.atomic import atomic
from raum_lightning.cases.ids import printable
from raum_lightning.cases.registration import RAS_TO_LPS
from raum_lightning.errors import CaseError, ConfigError

# of the distance between slices, by which each may differ from the mean; more means that slices are missing
UNEVEN = 0.05
_TAGS = {
    "modality": "0008|0060",
    "description": "0008|103e",
    "protocol": "0018|1030",
    "contrast": "0018|0010",
    "number": "0020|0011",
    "position": "0020|0032",
    "orientation": "0020|0037",
}
# words of a series that is neither of the four, or was computed from one
_OTHERS = (
    "adc|dwi|dti|trace|tracew|diff|diffusion|fa|perf|perfusion|dsc|dce|asl|cbv|cbf|swi|swan|swip|bold|fmri|mag|phase|pha|"
    "scout|localizer|localiser|loc|survey|mra|mrv|tof|sub|subtraction|star|hemo|map|report"
)
_CONTRAST = "gd|gad|gado|gadolinium|post|postcontrast|ce|km|contrast|c|t1c|t1ce|t1gd|t1post"
_NATIVE = "pre|precontrast|without|non|noncontrast|nativ|native"


@dataclass(frozen=True)
class Series:
    """The files of one series of MR images, in the order of their slices.

    `modality` is t1ce, flair, t1 or t2, or None where its description does not tell.
    """

    uid: str
    number: str
    description: str
    modality: str | None
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.number} {self.description!r} ({len(self.files)} files, {self.modality or 'not recognised'})"


def find_series(folder: Path) -> list[Series]:
    """Return the series of MR images in a folder and those below it, by number.

    Raises:
        CaseError: There is none, or files of one lie in two folders.
    """
    if not folder.is_dir():
        raise CaseError(f"{folder}: is no folder of DICOM series")
    found: dict[str, Series] = {}
    for place in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())]):
        for series in _series_in(place):
            if other := found.get(series.uid):
                raise CaseError(f"{place}: holds series {series}, as {other.files[0].parent} does; name one of them")
            found[series.uid] = series
    if not found:
        raise CaseError(f"{folder}: holds no series of MR images in DICOM")
    return sorted(found.values(), key=lambda series: (len(series.number), series.number))


def choose(folder: Path, named: Mapping[str, str], needed: Sequence[str]) -> dict[str, Series]:
    """Return the series of each modality: the one whose number is given in `named`, else the only one recognised.

    Modalities that are not in `needed` are left out.

    Raises:
        ConfigError: There is no T1ce, no such number, or several series are of one modality; all are listed.
    """
    series = find_series(folder)
    listed = "; ".join(map(str, series))
    chosen: dict[str, Series] = {}
    for modality in needed:
        number = named.get(modality)
        fits = [one for one in series if (one.number == number if number else one.modality == modality)]
        if number and len(fits) != 1:
            raise ConfigError(f"{folder}: holds {len(fits)} series of number {number} for {modality}; found {listed}")
        if len(fits) > 1:
            numbers = ", ".join(one.number for one in fits)
            raise ConfigError(f"{folder}: series {numbers} are {modality}; say which by --{modality} NUMBER: {listed}")
        if fits:
            chosen[modality] = fits[0]
    if "t1ce" not in chosen:
        raise ConfigError(f"{folder}: no series is known for the T1ce; say which it is by --t1ce NUMBER: {listed}")
    if len({one.uid for one in chosen.values()}) < len(chosen):
        raise ConfigError(f"{folder}: one series is taken for two modalities; say which are by number: {listed}")
    return chosen


def modality_of(description: str, agent: str = "") -> str | None:
    """Return which modality a series is by its description and its contrast agent; None where they do not tell."""
    text = re.sub(r"\bc(-|[_ ]?minus)(?![a-z0-9])", " native ", description.lower().replace("_", " "))
    words = set(re.split(r"[^a-z0-9]+", text))

    def says(names: str) -> bool:
        return any(re.fullmatch(names, word) for word in words)

    if says(_OTHERS) or "t2*" in text:
        return None
    inverted = "flair" in text or {"dark", "fluid"} <= words
    if inverted and ("t2" in text or not says("t1w?|t1flair")):  # a T1 FLAIR shows what a T1 shows
        return "flair"
    if re.search(r"t1|mprage|bravo|spgr|tfl|vibe", text):
        given = says(_CONTRAST) or "+c" in text or bool(agent.strip())
        return "t1ce" if given and not says(_NATIVE) and "w/o" not in text else "t1"
    return "t2" if "t2" in text else None


def write_nifti(series: Series, path: Path) -> Path:
    """Write a series as NIfTI, X along the rows of a slice, Y along its columns, Z from slice to slice; return `path`.

    Raises:
        CaseError: It cannot be read, or its slices are not evenly spaced.
    """
    import SimpleITK as Sitk

    _check_spacing(series)
    names = [str(file) for file in series.files]
    try:
        image = Sitk.ReadImage(names[0] if len(names) == 1 else names, Sitk.sitkFloat32)
    except RuntimeError as error:
        raise CaseError(f"{series.files[0].parent}: series {series} cannot be read ({_last_line(error)})") from error
    if image.GetDimension() != 3:
        raise CaseError(f"{series.files[0]}: series {series} has {image.GetDimension()} dimensions; expected 3")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    written = nib.Nifti1Image(Sitk.GetArrayFromImage(image).transpose(2, 1, 0), RAS_TO_LPS @ affine)
    written.header.set_xyzt_units("mm")
    with atomic(path) as partial:
        nib.save(written, partial)
    return path


def _series_in(folder: Path) -> list[Series]:
    """Return those whose files lie in this folder itself."""
    import SimpleITK as Sitk

    if not any(path.is_file() for path in folder.iterdir()):
        return []
    reader, found = Sitk.ImageSeriesReader, []
    warnings = Sitk.ProcessObject.GetGlobalWarningDisplay()
    Sitk.ProcessObject.SetGlobalWarningDisplay(False)  # that other files lie there, too
    try:
        for uid in reader.GetGDCMSeriesIDs(str(folder)):
            files = tuple(map(Path, reader.GetGDCMSeriesFileNames(str(folder), uid)))
            tags = _tags(files[0])
            if tags["modality"] == "MR":
                said = printable(tags["description"] or tags["protocol"])
                modality = modality_of(said, tags["contrast"])
                found.append(Series(uid, printable(tags["number"]), said, modality, files))
    finally:
        Sitk.ProcessObject.SetGlobalWarningDisplay(warnings)
    return found


def _check_spacing(series: Series) -> None:
    if len(series.files) < 3:
        return
    places = []
    for file in series.files:
        tags = _tags(file)
        if not (tags["orientation"] and tags["position"]):
            raise CaseError(
                f"{file}: does not say where its slice lies (ImagePositionPatient, ImageOrientationPatient), as an "
                "export of pictures does; export series "
                f"{series} again, or convert it with dcm2niix"
            )
        rows, columns = np.reshape([float(number) for number in tags["orientation"].split("\\")], (2, 3))
        place = np.array([float(number) for number in tags["position"].split("\\")])
        places.append(place @ np.cross(rows, columns))
    gaps = np.abs(np.diff(places))
    if np.abs(gaps - gaps.mean()).max() > UNEVEN * gaps.mean():
        raise CaseError(
            f"{series.files[0].parent}: the slices of series {series} are {gaps.min():.3g} to {gaps.max():.3g} mm "
            "apart; fetch those that are missing, or leave out what is doubled"
        )


def _tags(file: Path) -> dict[str, str]:
    import SimpleITK as Sitk

    reader: Any = Sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise CaseError(f"{file}: cannot be read as DICOM ({_last_line(error)})") from error
    return {name: reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else "" for name, tag in _TAGS.items()}


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1].strip()
