"""Files and folders that appear whole or not at all: half written they have a name that says whose they are."""

import os
import shutil
import socket
from glob import escape
from pathlib import Path


def partial_path(path: Path) -> Path:
    """Where this process writes what it then renames to `path`."""
    return path.with_name(f"{_prefix()}{os.getpid()}-{path.name}")


def remove_partials(folder: Path) -> None:
    """Removes what processes of this machine that were killed left half written in `folder`."""
    for path in folder.glob(f"{escape(_prefix())}*"):
        writer = path.name.removeprefix(_prefix()).partition("-")[0]
        if not writer.isdigit() or _alive(int(writer)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _prefix() -> str:
    # process ids mean nothing on the other machines that share a folder
    return f".{socket.gethostname()}-"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True
