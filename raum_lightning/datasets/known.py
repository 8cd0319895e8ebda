"""The data sets that come with the package."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from raum_lightning.datasets.dataset import DataSet
from raum_lightning.datasets.description import parse
from raum_lightning.errors import ConfigError
from raum_lightning.yaml_files import read_yaml

FOLDER = Path(__file__).parent
# names of before
ALIASES = {"msd": "msd-task01"}


def names() -> list[str]:
    """Return the names of the data sets that come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


@cache
def presets() -> dict[str, DataSet]:
    """Return the data sets that come with the package, by name."""
    return {name: read_description(FOLDER / f"{name}.yaml") for name in names()}


def read_description(path: Path) -> DataSet:
    """Return the data set that a YAML file describes; raise `ConfigError` where it cannot be read or describes none."""
    try:
        content, _ = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; it should describe the data set") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: does not describe a data set; expected keys such as images, mask and labels")
    return parse({"name": path.stem} | dict(content), str(path))


def hint_of(dataset: DataSet, values: Sequence[float]) -> str:
    """Return what other data sets with files of the same names have these label values, as the end of a sentence."""

    def files(one: DataSet) -> set[str]:
        return {pattern for patterns in one.images.values() for pattern in patterns}

    found: dict[str, list[str]] = {}
    for name, other in presets().items():
        if set(values) <= set(other.labels) and files(other) & files(dataset) and set(other.ids) & set(dataset.ids):
            meaning = " and ".join(f"{value:g} is {other.labels[int(value)]}" for value in values)
            found.setdefault(meaning, []).append(name)
    others = [f"{meaning} in {' and '.join(named)}" for meaning, named in found.items()]
    return f"; {', '.join(others)}: declare whose masks they are with data.dataset or --dataset" if others else ""
