"""No command replaces a file that it did not write: what a user names as output is checked before the work."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from raum_lightning.atomic import file_for_folder
from raum_lightning.errors import OutputError
from raum_lightning.runs.folder import RunFolder

# where the formats that we write keep who wrote them: at the beginning (HTML, JSON, PNG, SVG), or at the end (PDF)
LOOKED_AT = 4096
VOLUMES = "volumes.csv"
SCORES = ("cases.csv", "cases.json", "metrics.csv")
# how the tables begin that verbs write into a folder; a killed process may have left an empty one
TABLES = {
    "cases.csv": rb"case,[\w/]+_\w+|$",
    "cases.json": rb'\s*{\s*"name":|$',
    "metrics.csv": rb"step,|$",
    VOLUMES: rb"case(,[^,\n]+)+\n([^\n]+(,\d+\.\d{3}|,)\s|$)|$",
}


def check_output(path: Path, command: str, *, ours: Callable[[Path], bool] | None = None) -> None:
    """Check that `command` can write `path` and that it has itself written the file that stands there, if one does.

    A command is known by its name near the beginning or end of its files; where a format has no place for that, `ours`
    tells. Names that belong to a run in its folder are refused as well. Raises `OutputError`.
    """
    run = RunFolder(path.parent)
    if path in run.own and (run.exists or RunFolder(run.path.parent).exists):
        raise OutputError(f"{path}: is a name that `lightning` uses in the folder of a run; give another name")
    if path.exists() and not (path.is_file() and (ours or _marked(command))(path)):
        raise OutputError(f"{path}: exists and was not written by `{command}`; give another name, or remove it first")
    check_writable(path)


def check_folder(path: Path, tables: Sequence[str] = ()) -> None:
    """Check that files can be written into a folder, and that it has no others of the names of these `tables`.

    Raises `OutputError`, also where `path` is a file, or the folder of a run, whose own metrics.csv would get the rows.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(file_for_folder(path))
    if RunFolder(path).exists:
        raise OutputError(f"{path}: is the folder of a run, which has files of these names; give another folder")
    for file in (path / name for name in tables):
        if file.is_file() and not re.match(TABLES[file.name], _read(file)):
            raise OutputError(f"{file}: exists and is no table of raum; give another folder, or move it away")
    check_writable(path / "file")


def check_writable(path: Path) -> None:
    """Raise `OutputError` where `path`, and the folders above that are not there, cannot be made."""
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = "may not be written to" if folder.is_dir() else "is no folder"
        raise OutputError(f"{path}: {folder} {reason}; give another name")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LOOKED_AT)


def _marked(command: str) -> Callable[[Path], bool]:
    def found(path: Path) -> bool:
        with path.open("rb") as file:
            beginning = file.read(LOOKED_AT)
            file.seek(max(0, path.stat().st_size - LOOKED_AT))
            return command.encode() in beginning + b"\n" + file.read()

    return found
