"""A data set as an option names it."""

from pathlib import Path

from raum_lightning.atomic import expanded
from raum_lightning.datasets.dataset import DataSet
from raum_lightning.datasets.dataset_json import read_dataset_json
from raum_lightning.datasets.known import ALIASES, names, presets, read_description
from raum_lightning.errors import ConfigError


def load(given: str | Path) -> DataSet:
    """Return a data set by the name of one that comes with the package, from a YAML file, or from a dataset.json.

    Raises:
        ConfigError: There is no such name or file, or the file does not describe a data set.
    """
    name = ALIASES.get(str(given), str(given))
    if name in names():
        return presets()[name]
    path = expanded(given)
    if path.suffix == ".json":
        return read_dataset_json(path)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"data set {name!r} is unknown; give a YAML file, a dataset.json or one of auto, {', '.join(names())}"
        )
    return read_description(path)
