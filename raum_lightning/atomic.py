"""Atomic writing: files and folders appear whole or not at all; until then they have a temporary name."""

import csv
import ctypes
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from raum_lightning.errors import OutputError

# PROCESS_QUERY_LIMITED_INFORMATION of Windows
QUERY = 0x1000


@contextmanager
def atomic(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there is flushed to the disk and renamed to `path`.

    Makes the folders above. What `path` held before is kept as `keep`, where given. Where writing fails nothing is left
    under the temporary name, and what `path` held before stays. Raises `OutputError` for a failure of the operating
    system, such as a full disk.
    """
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)
        if keep and path.exists():
            path.replace(keep)
        partial.replace(path)
        _flush(path.parent)
    except BaseException as error:
        with suppress(OSError):  # which would hide the failure before it
            partial.unlink(missing_ok=True)
        if (failure := _system_failure(error)) is not None:
            raise not_written(path, failure) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with a heading, whole or not at all."""
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file; what a crash leaves of it is for the reader to recognise."""
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            file.write(text)
    except OSError as failure:
        raise not_written(path, failure) from failure


def not_written(path: Path, failure: OSError) -> OutputError:
    """Return the sentence for a file that could not be written, with why and in which folder."""
    if mixed := mixed_up(failure):
        return OutputError(mixed)
    kept = "; the one before it is intact" if path.is_file() else ""
    return OutputError(f"{path}: could not be written ({failure.strerror}; folder {path.parent.resolve()}){kept}")


def mixed_up(failure: OSError) -> str | None:
    """Return a sentence where a file stands in the place of a folder, or a folder in that of a file; None otherwise."""
    if failure.filename is None or not isinstance(failure, (FileExistsError, NotADirectoryError, IsADirectoryError)):
        return None
    path = Path(os.fsdecode(failure.filename2 or failure.filename))
    if isinstance(failure, IsADirectoryError):
        return f"{path}: is a folder where a file is expected; give the name of a file"
    if path.is_symlink() and not path.exists():
        return f"{path}: is a link to {path.readlink()}, which is not there; give another name, or remove the link"
    file = next((one for one in (path, *path.parents) if one.is_file()), None)
    if file is None:
        return None
    return file_for_folder(file)


def file_for_folder(path: Path) -> str:
    """Return the sentence for a file that stands in the place of a folder."""
    return f"{path}: is a file where a folder is expected; give another folder, or move the file away"


def expanded(path: Path | str) -> Path:
    """Return a path with `~` as the home it stands for, or as it is where it stands for none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def no_folder(path: Path) -> str:
    """Return what is wrong with a path that is not that of a folder."""
    return f"{path}: {'is a file where a folder is expected' if path.is_file() else 'no such folder'}"


def partial_path(path: Path) -> Path:
    """Return where this process writes what it then renames to `path`."""
    return path.with_name(f"{_prefix()}{os.getpid()}-{path.name}")


def remove_partials(folder: Path) -> None:
    """Remove what processes of this machine that were killed left half written in `folder`."""
    for path in folder.glob(f"{escape(_prefix())}*"):
        writer = path.name.removeprefix(_prefix()).partition("-")[0]
        if not writer.isdigit() or is_alive(int(writer)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Return whether this machine runs a process of that number."""
    if sys.platform == "win32":  # where `os.kill` ends the process, whatever the signal
        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(QUERY, False, process)
        kernel.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _prefix() -> str:
    # process ids mean nothing on the other machines that share a folder
    return f".{socket.gethostname()}-"


def _flush(path: Path) -> None:
    """Make a file, or the names in a folder, last through a power cut; Windows flushes files alone, opened to write."""
    try:
        handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _system_failure(error: BaseException | None) -> OSError | None:
    """Return the failure of the operating system behind an error; torch and NIfTI writers wrap it in their own."""
    while error is not None and not isinstance(error, OutputError):
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__cause__ or error.__context__
    return None
