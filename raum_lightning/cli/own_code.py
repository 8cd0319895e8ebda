"""What a configuration may name besides the packages that are installed: a user's own files, and lists for tensors."""

import sys
from collections.abc import Iterable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from jsonargparse.typing import register_type

from raum_lightning.cli.command_line import CommandLine
from raum_lightning.cli.key_errors import SEARCHED
from raum_lightning.cli.known_keys import MODULE_CLASS
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.json_files import read_json
from raum_lightning.module import SegmentationModule
from raum_lightning.runs.folder import RunFolder


def find_beside(folders: Iterable[Path]) -> None:
    """Let modules be imported from the folders of YAML files, and from the current one, after all installed ones."""
    for folder in (*folders, Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def folders_before(files: Iterable[Path]) -> list[Path]:
    """Return the folders of the YAML files from which runs were started whose config.yaml is among `files`.

    A class of the user's own, which lay beside such a file, is found again when the run is resumed or scored.
    """
    found: list[Path] = []
    for run in filter(None, map(RunFolder.of_file, files)):
        starts: list[dict[str, Any]] = read_json(run.provenance, RunError) if run.provenance.exists() else []
        found += [Path(folder) for start in starts for folder in start.get("code", ())]
    return list(dict.fromkeys(found))


def lists_for_tensors() -> None:
    """Let YAML give a list of numbers where a class, such as a loss with class weights, takes a tensor."""
    register_type(
        torch.Tensor,
        serializer=torch.Tensor.tolist,
        deserializer=lambda value: torch.tensor(value, dtype=torch.float32),
        fail_already_registered=False,
    )


def find_module_class(given: CommandLine) -> type[SegmentationModule]:
    """Return the class that the key `module_class` names, `SegmentationModule` where it is not given.

    Raises `ConfigError` where it cannot be imported or is no `SegmentationModule`.
    """
    tree, places = given.together()
    name = tree.get(MODULE_CLASS)
    if name is None:
        return SegmentationModule
    place = places.get((MODULE_CLASS,), "")
    where = f"{place}: {MODULE_CLASS}" if place and not place.startswith("--") else MODULE_CLASS
    try:
        found = resolve_name(str(name))
    except Exception as error:  # whatever a user's own file raises on import
        raise ConfigError(f"{where}: {name} cannot be imported ({error}); {SEARCHED}") from error
    if not (isinstance(found, type) and issubclass(found, SegmentationModule)):
        raise ConfigError(f"{where}: {name} is not a subclass of raum_lightning.SegmentationModule")
    return found
