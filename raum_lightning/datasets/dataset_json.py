"""dataset.json: channels, labels and regions as the Medical Segmentation Decathlon and nnU-Net write them.

MSD lists its cases, one file each with all channels, under `training` and `test`. nnU-Net has a file for each channel,
imagesTr/CASE_0000.nii.gz, and may have kept a list of MSD's; its version 1 says `modality`, version 2 `channel_names`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raum_lightning.datasets.dataset import DataSet
from raum_lightning.datasets.description import parse
from raum_lightning.datasets.known import presets
from raum_lightning.errors import ConfigError
from raum_lightning.json_files import read_json

FILE = "dataset.json"
OTHERWISE = (
    "; where the names of the files say what they are, declare the data set with data.dataset or --dataset (once "
    "called edition)"
)
# how the modalities of gliomas are spelt, and what the names of their classes contain, without spaces and hyphens; of
# two that fit the earlier decides
MODALITIES = {"flair": "flair", "t1w": "t1", "t1": "t1", "t1gd": "t1ce", "t1ce": "t1ce", "t2w": "t2", "t2": "t2"}
CLASSES = {"nonenhanc": "NCR", "unenhanc": "NCR", "necro": "NCR", "enhanc": "ET", "edema": "ED"}


def read_dataset_json(path: Path, declared: DataSet | None = None) -> DataSet:
    """Return the data set that a dataset.json describes.

    Args:
        path: The file, in the folder of the data set or beside masks.
        declared: That of MSD, Task01, where the file has to describe it.

    Raises:
        ConfigError: There is no such file, or it describes a data set neither as MSD nor as nnU-Net does.
    """
    content = read_json(path, ConfigError)
    try:
        return _msd(path, content, declared) if declared or lists_cases(path, content) else _nnunet(path, content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        said = str(error) if isinstance(error, ConfigError) else f"unexpected or missing {error}"
        raise ConfigError(f"{path}: describes cases neither as MSD nor as nnU-Net does ({said}){OTHERWISE}") from None


def lists_cases(path: Path, content: Mapping[str, Any]) -> bool:
    """Return whether a dataset.json is MSD's, by what it says and by the files beside it."""
    if "training" not in content or "file_ending" in content:
        return False
    return not any(path.parent.glob("imagesT[rs]/*_0000.nii*"))


def _msd(path: Path, content: Any, declared: DataSet | None) -> DataSet:
    modalities = _channels(content)
    labels = {value: name for value, name in _by_value(content["labels"]).items() if value}
    dataset = _glioma(modalities, labels)
    if dataset is None:
        dataset = _described(path, content, labels)
        if declared and declared.name != dataset.name:
            raise ConfigError(f"{[*modalities.values()]} with {[*labels.values()]} is not {declared.name}")
        channels = _unlike(modalities)
    else:
        channels = {MODALITIES[name.lower()]: i for i, name in modalities.items()}
    return replace(dataset, images=dict.fromkeys(channels, ("**/{case}",)), channels=channels, index=FILE)


def _nnunet(path: Path, content: Any) -> DataSet:
    if not content.get("file_ending", ".nii").startswith(".nii"):
        raise ConfigError(f"file_ending {content['file_ending']} is not NIfTI's")
    given = content["labels"]
    by_name = {str(name): value for name, value in given.items()}
    if all(name.isdigit() for name in by_name):
        by_name = {name: value for value, name in _by_value(given).items()}
    ignore = by_name.pop("ignore", None)
    about: dict[str, Any] = {"ignore": ignore}
    if any(isinstance(value, list) for value in by_name.values()):
        # a region of one value may stand without brackets
        members = {name: value if isinstance(value, list) else [value] for name, value in by_name.items()}
        members = {name: values for name, values in members.items() if values != [0]}
        names = {values[0]: _plain(name) for name, values in members.items() if len(values) == 1}
        labels = {value: names.get(value, f"label{value}") for values in members.values() for value in sorted(values)}
        regions = _once({name: [labels[value] for value in values] for name, values in members.items()}, "regions")
        about["regions"] = regions
        labels = dict(sorted(labels.items()))
    else:
        labels = {value: name for name, value in _once(by_name, "labels").items() if value}
        if len(labels) < sum(value != 0 for value in by_name.values()):
            raise ConfigError(f"of the labels {by_name} two have one value")
    dataset = _described(path, content, labels, **about)
    # the second as nnU-Net predicts: a folder of images alone
    channels = _unlike(_channels(content))
    patterns = {name: (f"imagesT[rs]/{{case}}_{i:04d}", f"{{case}}_{i:04d}") for name, i in channels.items()}
    preset = presets()["nnunet"]
    return replace(dataset, images=patterns, mask=preset.mask, splits=preset.splits)


def _channels(content: Any) -> dict[int, str]:
    """Name by channel."""
    return {int(i): str(name) for i, name in (content.get("channel_names") or content["modality"]).items()}


def _by_value(table: Mapping[str, Any]) -> dict[int, str]:
    """Name by label value, from {"1": "edema", ...} or turned round, {"edema": 1, ...}."""
    return dict((int(k), str(v)) if k.isdigit() else (int(v), k) for k, v in table.items())


def _glioma(modalities: Mapping[int, str], labels: Mapping[int, str]) -> DataSet | None:
    """MSD Task01 with these label values; None where modalities or labels are not those of a glioma."""
    found = {value: word for value, name in labels.items() if (word := _class(name))}
    if not all(name.lower() in MODALITIES for name in modalities.values()) or len(found) < len(labels):
        return None
    if len(set(found.values())) < len(found):
        raise ConfigError(f"of the labels {dict(labels)} two are the same class")
    preset, values = presets()["msd-task01"], {word: value for value, word in found.items()}
    if set(values) != set(preset.labels.values()):
        return None
    return replace(preset, labels={values[name]: name for name in preset.labels.values()})


def _class(name: str) -> str | None:
    plain = re.sub(r"[\s_-]", "", name.lower())
    return next((word for part, word in CLASSES.items() if part in plain), None)


def _described(path: Path, content: Any, labels: Mapping[int, str], **more: Any) -> DataSet:
    """A data set with the names that the file gives to its classes."""
    named = {value: name for name, value in _once({name: value for value, name in labels.items()}, "labels").items()}
    if len(named) < len(labels):
        raise ConfigError(f"of the labels {dict(labels)} two have one name")
    about: dict[str, Any] = {"name": _plain(str(content.get("name") or path.parent.resolve().name)), "labels": named}
    about |= {"images": {"image": "{case}"}, "source": str(content.get("reference") or "")}
    return parse(about | more, str(path))


def _once(table: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a table with plain names; raise `ConfigError` where two become one."""
    plain = {_plain(name): value for name, value in table.items()}
    if len(plain) < len(table):
        raise ConfigError(f"{what} {', '.join(table)} have names that differ in spaces and signs only")
    return plain


def _unlike(channels: Mapping[int, str]) -> dict[str, int]:
    """Return channels by plain name, with their number where several have one name."""
    plain = {i: _plain(name) for i, name in channels.items()}
    shared = Counter(plain.values())
    return {f"{name}_{i}" if shared[name] > 1 else name: i for i, name in plain.items()}


def _plain(name: str) -> str:
    """A name without spaces and other signs."""
    return re.sub(r"[^\w.+-]+", "_", str(name)).strip("_")
