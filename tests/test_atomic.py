"""Files appear whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raum_lightning.atomic import (
    append_text,
    atomic,
    expanded,
    mixed_up,
    partial_path,
    remove_partials,
    write_csv,
    write_json,
    write_text,
)
from raum_lightning.errors import OutputError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_written_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.csv"
    for rows in ([{"a": 1, "b": 2}], [{"a": 3, "b": "x,y"}]):
        write_csv(path, ["a", "b"], rows)
    assert path.read_bytes() == b'a,b\r\n3,"x,y"\r\n'
    append_text(path, "5,6\r\n")
    assert path.read_bytes().endswith(b'y"\r\n5,6\r\n')
    write_json(path, {"a": [1]})
    assert path.read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_a_home_that_nobody_has_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/cases") == Path("/home/me/cases")
    assert expanded("~no-such-user/cases") == Path("~no-such-user/cases")


def test_the_one_before_can_be_kept(tmp_path: Path) -> None:
    for content in "abc":
        with atomic(tmp_path / "last", keep=tmp_path / "previous") as partial:
            partial.write_text(content)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"last": "c", "previous": "b"}


@pytest.mark.parametrize("failure", [FULL, RuntimeError("a library's own"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a.txt"
    for before in ("", "; the one before it is intact"):
        with pytest.raises(OutputError if failure is FULL else type(failure)) as caught, atomic(path) as partial:
            partial.write_text("half")
            raise failure
        if failure is FULL:
            said = f"{path}: could not be written (No space left on device; folder {tmp_path}){before}"
            assert str(caught.value) == said
        assert [file.read_text() for file in tmp_path.iterdir()] == (["whole"] if before else [])
        write_text(path, "whole")


def test_a_disk_that_fills_up_is_recognised_behind_a_librarys_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device"), atomic(tmp_path / "a.pt") as partial:
        partial.write_text("half")
        try:
            raise FULL
        except OSError as error:
            raise RuntimeError("PytorchStreamWriter failed writing file") from error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file: is a file where a folder is expected; give another folder"):
        write_text(tmp_path / "file" / "a.txt", "")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError) as raised:
        (tmp_path / "link").mkdir()
    assert str(mixed_up(raised.value)).endswith(
        "link: is a link to nowhere, which is not there; give another name, or remove the link"
    )


def test_only_dead_writers_files_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = partial_path(Path("a.nii.gz")).name
    theirs = own.replace(str(os.getpid()), str(dead.pid))
    elsewhere = f".other{theirs.replace('.', '', 1)}"  # what runs on another machine cannot be told from here
    kept = [own, elsewhere, "a.nii.gz", ".hidden-a.nii.gz"]
    for name in (*kept, theirs):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / theirs.replace("a.nii.gz", "case")).mkdir()
    remove_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
