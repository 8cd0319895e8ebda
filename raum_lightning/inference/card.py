"""What a trained network is and what it was trained on: one description for training, checkpoints and exports.

It stands under the key `model_card` of a checkpoint as plain values, and as the same values in JSON in the metadata of
.onnx, .pt2 and .safetensors.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, prod
from typing import Any, Self, get_type_hints

import numpy as np
from numpy.typing import NDArray

from raum_lightning.cases.header import VOXEL_MM
from raum_lightning.datasets import DataSet, load, parse
from raum_lightning.errors import CheckpointError, ConfigError
from raum_lightning.json_files import is_like, parse_json
from raum_lightning.postprocess import Postprocess
from raum_lightning.runs.checkpoints import MODEL_CARD

MODES = ("labels", "regions")
FLIPS = (1, 2, 4, 8)
# what is wrong with a value that the command line can give
RULES = {
    "overlap": "is not in [0, 1): give the fraction that neighbouring windows share",
    "flips": "is not a number of flipped copies that can be averaged: give 1, 2, 4 or 8",
    "license": "is no identifier of SPDX: give such as Apache-2.0 or CC-BY-4.0",
}
# voxels of a window, and of all windows of a forward pass: what is larger fits no memory
MOST_VOXELS, MOST_AT_ONCE = 2**26, 2**28
# of modalities, classes and data sets, in characters
LONGEST_NAME = 64
# names of one kind, values of a card, and characters of it as JSON
MOST_NAMES, MOST_VALUES, LONGEST_CARD = 256, 10_000, 2**20
# characters of a value in a message
LONGEST_SHOWN = 160


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What must be known to use a trained network, and what it was trained on.

    Args:
        modalities: What the input channels are, in their order.
        dataset: Name of the data set that it was trained on.
        label_values: What that data set writes into masks for each class, by class index.
        classes: Names of the classes, background first.
        regions: The scored regions, each with the names of its classes.
        orientation: Axis codes of the arrays that the network takes, such as "LPS".
        spacing: Their voxel size in mm, X Y Z.
        mode: What the output channels are: "labels", the classes under a softmax, or "regions" under sigmoids.
        roi_size: Window of the sliding window in voxels, X Y Z.
        overlap: Shared fraction of adjacent windows, in [0, 1).
        sw_batch_size: Windows per forward pass.
        flips: Mirrored copies of each window that test-time augmentation averages: 1, 2, 4 or 8.
        training_cases: Fingerprint of the cases it was trained on.
        scores: What it scored on the validation cases when it was saved, such as `val/dice_mean`.
        versions: Of the package, Python and the libraries that trained it.
        postprocess: What is done with its masks, and with which thresholds.
        temperature: Scales its probabilities: above 1 makes them less confident; see `temperature`.
        description: The whole description of the data set, with which cases like those of the training are found.
        may_lack: Modalities that it has learnt to do without, by `data.modality_dropout`.
        fill_absent: What a modality that a case lacks is a copy of, by name; 0 where not given.
        license: Under which it is shared, an identifier of SPDX such as Apache-2.0; empty where not stated.
        evaluation: Scores with intervals on cases with references, and where they come from; see `readme`.

    Raises:
        ConfigError: A value makes no sense; the message names it.
    """

    modalities: tuple[str, ...]
    dataset: str
    label_values: tuple[int, ...]
    classes: tuple[str, ...]
    regions: Mapping[str, tuple[str, ...]]
    orientation: str
    spacing: tuple[float, float, float]
    mode: str
    roi_size: tuple[int, int, int]
    overlap: float = 0.5
    sw_batch_size: int = 1
    flips: int = 1
    training_cases: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    postprocess: Mapping[str, Any] | None = None
    temperature: float = 1.0
    description: Mapping[str, Any] = field(default_factory=dict)
    may_lack: tuple[str, ...] = ()
    fill_absent: Mapping[str, str] = field(default_factory=dict)
    license: str = ""
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules = {
            "modalities": _are_names(self.modalities),
            "dataset": _are_names([self.dataset]),
            "classes": _are_names(self.classes) and len(self.classes) > 1,
            "label_values": len(self.label_values) == len(self.classes) and _are_labels(self.label_values),
            "regions": _are_names([*self.regions], 0) and all(map(self._are_classes, self.regions.values())),
            "orientation": len(self.orientation) == 3 and _axes(self.orientation) == {"LR", "AP", "IS"},
            "spacing": len(self.spacing) == 3 and all(VOXEL_MM[0] <= size <= VOXEL_MM[1] for size in self.spacing),
            "mode": self.mode in MODES,
            "roi_size": len(self.roi_size) == 3 and min(self.roi_size) > 0 and prod(self.roi_size) <= MOST_VOXELS,
            "overlap": 0 <= self.overlap < 1,
            "sw_batch_size": 0 < self.sw_batch_size <= MOST_AT_ONCE / prod(self.roi_size),
            "flips": self.flips in FLIPS,
            "temperature": isfinite(self.temperature) and self.temperature > 0,
            "may_lack": set(self.may_lack) <= set(self.modalities),
            "fill_absent": {*self.fill_absent, *self.fill_absent.values()} <= set(self.modalities)
            and all(name != other for name, other in self.fill_absent.items()),
            "license": not self.license or _is_license(self.license),
            "evaluation": _is_evaluation(self.evaluation),
        }
        if wrong := [name for name, holds in rules.items() if not holds]:
            raise ConfigError(
                f"{wrong[0]}={_short(repr(getattr(self, wrong[0])))} {RULES.get(wrong[0], 'is not valid')}"
            )

    def __repr__(self) -> str:
        regions = ", ".join(self.regions)
        return f"<ModelCard: {', '.join(self.modalities)} to {regions}, trained on {self.dataset}>"

    @classmethod
    def of_checkpoint(cls, content: Mapping[str, Any]) -> Self | None:
        """Return the card in a checkpoint, made from what older versions wrote where need be; None where it has none.

        Raises `CheckpointError` for a card that cannot be used.
        """
        if MODEL_CARD in content:
            return cls.from_plain(content[MODEL_CARD])
        if "case" not in content:
            return None
        try:  # versions before the card
            return cls.from_plain(_plain_of_old(content["case"], content.get("hyper_parameters", {})))
        except (AttributeError, LookupError, TypeError) as error:
            raise CheckpointError(f"the description of its cases cannot be used ({error})") from error

    @classmethod
    def from_plain(cls, values: Any) -> Self:
        """Return the card that `to_plain` gave `values`; raise `CheckpointError` for what it cannot have given."""
        try:
            hints = get_type_hints(cls)
            given = {name: _frozen(value) for name, value in values.items() if name in hints}
            if wrong := [name for name, value in given.items() if not is_like(value, hints[name])]:
                raise TypeError(f"{wrong[0]} is {_short(str(given[wrong[0]]))}, a value of the wrong type")
            if sum(map(_count, given.values())) > MOST_VALUES:
                raise ValueError(f"it has more than {MOST_VALUES:,} values")
            card = cls(**given)
            Postprocess.of(card.postprocess or {}).check(card.regions)
            card.labelling(None)
            return card
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"the model card cannot be used ({error})") from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the card that `to_json` wrote; raise `CheckpointError` for other text."""
        try:
            if len(text) > LONGEST_CARD:
                raise ValueError(f"it has more than {LONGEST_CARD:,} characters")
            plain = parse_json(text)
        except ValueError as error:
            raise CheckpointError(f"the model card is not valid JSON ({error})") from error
        return cls.from_plain(plain)

    def to_plain(self) -> dict[str, Any]:
        """Return the card as lists, dicts, numbers and words."""
        plain: dict[str, Any] = json.loads(self.to_json())
        return plain

    def to_json(self) -> str:
        """Return the card as JSON."""
        return json.dumps(asdict(self))

    def _are_classes(self, names: Sequence[str]) -> bool:
        return bool(names) and set(names) <= set(self.classes)

    def without(self, names: Sequence[str]) -> str:
        """Return absent modalities as words, each with what takes its place unless that is absent too."""
        fills = {name: other for name, other in self.fill_absent.items() if other not in names}
        return ", ".join(f"{name} ({fills[name]} in its place)" if name in fills else name for name in names)

    @property
    def channels(self) -> tuple[str, ...]:
        """What the network's output channels are: the names of the classes or of the regions."""
        return tuple(self.regions) if self.mode == "regions" else self.classes

    @property
    def trained_on(self) -> DataSet:
        """The data set of the training cases; only as far as masks go in cards of older versions."""
        if self.description:
            return parse(self.description, "the model card's description of its data set")
        labels = dict(zip(self.label_values[1:], self.classes[1:], strict=True))
        return DataSet(self.dataset, {}, (), labels, self.region_indices)

    @property
    def region_indices(self) -> dict[str, tuple[int, ...]]:
        """The regions, each with the indices of its classes."""
        return {name: tuple(map(self.classes.index, members)) for name, members in self.regions.items()}

    def labelling(self, own: DataSet | None, wanted: str | None = None) -> DataSet:
        """Return the data set whose label values a mask of this network gets.

        That is the one that is `wanted`, else the case's `own`. That of the training cases takes its place where there
        is none, and where it lacks a class that the network segments, as BraTS 2023, whose file names are those of
        BraTS 2024, lacks the resection cavity.

        Raises:
            ConfigError: The data set that is `wanted` is unknown, or lacks such a class.
        """
        data_set = own if wanted is None else load(wanted)
        lacking = [name for name in self.segmented if data_set is None or name not in data_set.classes]
        if data_set is not None and not lacking:
            return data_set
        if wanted is None:
            return self.trained_on
        raise ConfigError(f"{wanted} has no label for {', '.join(lacking)}, which this network segments")

    def translate(self, labels: NDArray[np.uint8], data_set: DataSet) -> NDArray[np.uint8]:
        """Return a mask X Y Z of the network's class indices in those of `data_set`, which `labelling` gave."""
        known = data_set.classes
        table = [known.index(name) if name in known else 0 for name in self.classes]
        return np.asarray(table, np.uint8).take(labels)

    @property
    def segmented(self) -> tuple[str, ...]:
        """Names of the classes that its masks can hold."""
        within = {name for names in self.regions.values() for name in names} | {self.classes[0]}
        return tuple(name for name in self.classes if self.mode == "labels" or name in within)


def _plain_of_old(case: Mapping[str, Any], module: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says, from the key `case` of older checkpoints and the arguments of their module."""
    network, loss = ((module.get(name) or {}).get("init_args", {}) for name in ("network", "loss"))
    size = module.get("roi_size") or network.get("img_size", 128)
    return {
        **describe(load(case["edition"])),
        **{key: case[key] for key in ("modalities", "orientation", "spacing")},
        "mode": module.get("mode") or loss.get("mode") or "labels",
        "roi_size": [size] * 3 if isinstance(size, int) else size,
        **{key: module[key] for key in ("overlap", "sw_batch_size", "flips") if key in module},
    }


def describe(data_set: DataSet) -> dict[str, Any]:
    """Return what a card says of the data set of the training cases."""
    values = {index: value for value, index in reversed(data_set.indices.items())}
    return {
        "dataset": data_set.name,
        "label_values": tuple(values[index] for index in range(data_set.num_classes)),
        "classes": data_set.classes,
        "description": data_set.describe(),
        "regions": {name: tuple(data_set.classes[i] for i in members) for name, members in data_set.regions.items()},
    }


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return {key: _frozen(item) for key, item in value.items()} if isinstance(value, dict) else value


def _count(value: Any) -> int:
    """Return how many values are nested in one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return 1 + sum(map(_count, inner))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def _are_names(values: Sequence[str], fewest: int = 1) -> bool:
    printable = all(value.isprintable() and 0 < len(value) <= LONGEST_NAME for value in values)
    return printable and fewest <= len(set(values)) == len(values) <= MOST_NAMES


def _is_license(value: str) -> bool:
    return len(value) <= LONGEST_NAME and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", value) is not None


def _is_evaluation(found: Any) -> bool:
    tables = [found.get(key, {}) for key in ("scores", "cleaned")]
    if not all(is_like(rows, Mapping[str, Mapping[str, Any]]) for rows in tables):
        return False
    try:
        Postprocess.of(found.get("postprocess", {}))
    except ConfigError:
        return False
    facts = [found.get(key, "") for key in ("rules", "folds", "data", "splits")]
    numbers = [row.get(key) for rows in tables for row in rows.values() for key in ("mean", "low", "high", "cases")]
    return all(isinstance(value, (str, int)) for value in facts) and all(
        value is None or isinstance(value, (str, int, float)) for value in numbers
    )


def _are_labels(values: Sequence[int]) -> bool:
    """Return whether these are values of masks, a different one for each class, 0 for the background."""
    return len(set(values)) == len(values) and values[0] == 0 and all(0 <= value < 2**16 for value in values)


def _axes(codes: str) -> set[str]:
    return {axis for axis in ("LR", "AP", "IS") for code in codes if code in axis}
