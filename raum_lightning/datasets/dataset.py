"""What is known of a data set: which files are a case, and what the numbers in its masks mean.

Inside the project a mask holds class indices: 0 is background, and the classes follow in the order in which the
description lists them. On disk every data set has values of its own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raum_lightning.errors import LabelError

BACKGROUND = 0
# class index of voxels that are left out of loss and scores
IGNORED = 255
# how far a value in a mask may be from a whole number, as after a division in float32
WHOLE = 1e-3


@dataclass(frozen=True)
class DataSet:
    """The description of a data set; `raum_lightning.datasets.load` reads one from YAML.

    Args:
        name: What it is called in options, tables and headers.
        images: For each modality the patterns of its file below the root. `{case}` is the id of the case,
            `{case:REGEX}` one that must look so, `*`, `?` and `[...]` match within a folder's name, `**/` any folders.
            A pattern without .nii or .nii.gz fits both.
        mask: Patterns of the mask.
        labels: For each value in a mask, other than 0 for background, the name of its class. Of several values of one
            class the first is written.
        regions: For each region, which is what is scored, the indices of its classes; each class where not given.
        channels: Where each modality lies along the fourth axis, where one file holds all.
        index: Name of a dataset.json in the root, which says modalities, labels and cases instead.
        ids: Regular expressions for whole ids, by which cases are recognised when no data set is declared; where ids
            fit several data sets, the one in which such an expression comes earlier has them.
        example: How its ids look, with `{n}` or `{n:03d}` for a number; ids of synthetic cases.
        patient: A regular expression with one group, the patient, for whole ids; the id itself where not given.
        colours: `#rrggbb` by class, where the default colours are not wanted.
        background: The value outside the brain, `none` for scans with skull, or the pattern of a brain mask.
        ignore: The value of voxels that are left out of loss and scores.
        scoring: The rule by which it is scored.
        splits: Name of a file in the root with the splits, such as nnU-Net's.
        prediction: Name of the file of a predicted mask, without ending; `{case}` is the id.
        source: Where the data and what is said here come from.
    """

    name: str
    images: Mapping[str, tuple[str, ...]]
    mask: tuple[str, ...]
    labels: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    index: str | None = None
    ids: tuple[str, ...] = ()
    example: str | None = None
    patient: str | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    background: float | str = 0.0
    ignore: int | None = None
    scoring: str = "default"
    splits: str | None = None
    prediction: str = "{case}"
    source: str = ""

    def __repr__(self) -> str:
        labels = ", ".join(f"{value} {name}" for value, name in self.labels.items())
        return f"<DataSet {self.name}: {', '.join(self.images)}; {labels}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by class index, background first."""
        return ("background", *dict.fromkeys(self.labels.values()))

    @property
    def num_classes(self) -> int:
        """Classes with background: the channels that a softmax network needs."""
        return len(self.classes)

    @property
    def indices(self) -> dict[int, int]:
        """Class index by the value on disk."""
        ignored = {} if self.ignore is None else {self.ignore: IGNORED}
        return {BACKGROUND: BACKGROUND} | {v: self.classes.index(n) for v, n in self.labels.items()} | ignored

    @property
    def modalities(self) -> tuple[str, ...]:
        """What a network sees where nothing else is said: FLAIR, T1ce and T2 where they are there, otherwise all."""
        usual = ("flair", "t1ce", "t2")
        return usual if set(usual) <= set(self.images) else tuple(self.images)

    @property
    def tumour(self) -> tuple[int, ...]:
        """Classes of the region that holds the most: the first of the largest."""
        return max(self.regions.values(), key=len)

    def or_wider(self, other: "DataSet") -> "DataSet":
        """Return `other` where it has these classes and more, else this data set."""
        wider = other.num_classes > self.num_classes and other.classes[: self.num_classes] == self.classes
        return other if wider else self

    def claims(self, case: str) -> int | None:
        """Return how strongly an id is this data set's: the place in `ids`, from 0, of the first that fits it."""
        return next((n for n, ids in enumerate(self.ids) if re.fullmatch(ids, case, re.IGNORECASE)), None)

    def file_name(self, case: str, role: str) -> str:
        """Return the path below a root of a case's modality, or of its "mask", by the first pattern; `*` becomes x.

        A modality of a 4-D file has the file's name.
        """
        pattern = (self.mask if role == "mask" else self.images[role])[0]
        name = re.sub(r"\{case(:[^{}]*)?\}", lambda _: case, pattern)
        name = re.sub(r"\[([^\]])[^\]]*\]", r"\1", name.replace("**/", f"{case}/").replace("*", "x").replace("?", "x"))
        return name if name.endswith((".nii", ".nii.gz")) else f"{name}.nii.gz"

    def prediction_file(self, case: str) -> str:
        """Return the name of the file of a case's predicted mask."""
        return f"{self.prediction.replace('{case}', case)}.nii.gz"

    def predicted(self, name: str) -> str | None:
        """Return the id of the case whose predicted mask has this name, without ending; None where it cannot be one."""
        before, after = self.prediction.split("{case}")
        found = re.fullmatch(f"{re.escape(before)}(.+){re.escape(after)}", name, re.IGNORECASE)
        return found[1] if found else None

    def encode(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the class indices of a mask of label values.

        Raises:
            LabelError: A value is not declared; the message names it and counts its voxels.
        """
        from raum_lightning.datasets.known import hint_of  # which reads the data sets that it names

        # in the order of the memory, so that this is a view; what is not background is a few voxels in a hundred
        order: Literal["F", "C"] = "F" if mask.flags.f_contiguous else "C"
        flat = mask.reshape(-1, order=order)
        inside = np.flatnonzero(flat != BACKGROUND)
        values, counts = np.unique(flat[inside], return_counts=True)
        known = self.indices
        unknown = [
            (float(value), int(count))
            for value, count in zip(values, counts, strict=True)
            if not np.isfinite(value) or abs(value - np.rint(value)) > WHOLE or int(np.rint(value)) not in known
        ]
        if unknown:
            listed = ", ".join(_shown(value) for value, _ in unknown[:5]) + (", ..." if unknown[5:] else "")
            voxels = sum(count for _, count in unknown)
            hint = hint_of(self, [value for value, _ in unknown])
            raise LabelError(f"label {listed} is not one of {self.name}'s {sorted(known)} ({voxels} voxels){hint}")
        table = np.zeros(max(known) + 1, np.uint8)
        for value, index in known.items():
            table[value] = index
        encoded = np.zeros(flat.shape, np.uint8)
        encoded[inside] = table[np.rint(flat[inside]).astype(np.min_scalar_type(max(known)))]
        return np.ascontiguousarray(encoded.reshape(mask.shape, order=order))

    def decode(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return the label values of class indices, in the smallest unsigned integers that hold the data set's values.

        Raises:
            LabelError: The data set has no such class.
        """
        values = {index: value for value, index in reversed(self.indices.items())}
        if unknown := sorted(set(np.unique(labels).tolist()) - set(values)):
            raise LabelError(f"{self.name} has no label for class {unknown[0]}, only for {', '.join(self.classes)}")
        table = np.zeros(max(values) + 1, np.min_scalar_type(max(self.indices)))
        for index, value in values.items():
            table[index] = value
        return table.take(labels)

    def describe(self) -> dict[str, Any]:
        """Return the description in plain values, from which `parse` makes the same data set."""
        images: Mapping[str, Any] = {modality: list(patterns) for modality, patterns in self.images.items()}
        if self.channels:
            images = {"file": next(iter(images.values())), "channels": list(images)}
        named = {
            "name": self.name,
            "images": images,
            "mask": list(self.mask),
            "labels": dict(self.labels),
            "regions": {name: [self.classes[i] for i in members] for name, members in self.regions.items()},
            "index": self.index,
            "ids": list(self.ids),
            "example": self.example,
            "patient": self.patient,
            "colours": dict(self.colours),
            **{
                key: getattr(self, key) for key in ("background", "ignore", "scoring", "splits", "prediction", "source")
            },
        }
        return {key: value for key, value in named.items() if value not in (None, "", {}, [])}


def _shown(value: float) -> str:
    """As short as it goes without becoming another number: 4, but 0.9999999403953552."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
