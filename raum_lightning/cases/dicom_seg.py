"""A mask as a DICOM segmentation of the series that it was made from (highdicom, extra `[dicom]`)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raum_lightning.atomic import atomic
from raum_lightning.cases.dicom import Series
from raum_lightning.datasets import DataSet
from raum_lightning.errors import ConfigError

ENDING = ".dcm"
MAKER = "raum"
SERIES_NUMBER = 9000
# SNOMED CT as pydicom has it, by the words of a class; all others are a neoplasm, and the label says which part
_TYPES = {"ED": "Edema", "SNFH": "Edema", "NCR": "Necrosis"}


def check_writer(path: Path) -> None:
    """Raise `ConfigError` where the extra is not installed."""
    if find_spec("highdicom") is None:
        raise ConfigError(f"{path}: takes highdicom, not installed: pip install 'raum-lightning[dicom]'")


def write_segmentation(path: Path, labels: NDArray[np.uint8], dataset: DataSet, series: Series, version: str) -> None:
    """Write class indices X Y Z, on the grid that `write_nifti` gives the series, as one segment for each class."""
    import highdicom
    import pydicom
    from highdicom.seg import Segmentation, SegmentDescription

    codes: Any = pydicom.sr.codedict.codes
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER, version=version, family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=getattr(codes.SCT, _TYPES.get(name, "Neoplasm")),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(dataset.classes[1:], 1)
    ]
    written = Segmentation(
        source_images=[pydicom.dcmread(file) for file in series.files],
        pixel_array=labels.transpose(2, 1, 0),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name="raum-lightning",
        software_versions=version,
        device_serial_number="0",
        content_description=f"{MAKER} {dataset.name}"[:64],
        content_label="SEGMENTATION",
        omit_empty_frames=bool(labels.any()),
    )
    with atomic(path) as partial:
        written.save_as(partial)


def is_ours(path: Path) -> bool:
    """Return whether this project wrote a DICOM segmentation."""
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError):
        return False
    return (header.get("Manufacturer"), header.get("Modality")) == (MAKER, "SEG")
