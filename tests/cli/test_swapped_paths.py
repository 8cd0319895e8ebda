"""A file given where a folder is meant, or a folder where a file is: one sentence that says so, before any work."""

from pathlib import Path

import pytest

from raum_lightning.cases import check
from raum_lightning.cli import main

FILE = "is a file where a folder is expected"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["phantom", "file"], f"file: {FILE}; give another folder, or move the file away"),
        (["phantom", "file/below"], f"file: {FILE}"),
        (["prepare", "cases", "--prepared_dir", "file"], f"file: {FILE}"),
        (["prepare", "cases", "--prepared_dir", "file/below"], f"file: {FILE}"),
        (["prepare", "file"], f"file: {FILE}; give one that holds cases"),
        (["check", "file"], f"file: {FILE}; give one that holds cases"),
        (["check", "cases", "--cache", "file"], f"file: {FILE}"),
        (["check", "cases", "--cache", "file/below"], f"file: {FILE}"),
        (["evaluate", "--predictions", "file", "--references", "cases"], f"file: {FILE}"),
        (["evaluate", "--predictions", "cases", "--references", "file"], f"file: {FILE}"),
        (["init", "file"], "file"),
        (["report", "file"], "file is no folder; give another name"),
        (["compare", "folder", "folder"], "folder: has neither results.json nor test/cases.json"),
        (["segment", "--checkpoint", "folder", "--case", "cases", "--out", "a.nii.gz"], "folder: is "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_meant_is_said_before_the_work(
    words: list[str], said: str, brats: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(brats.parent)
    monkeypatch.delattr(check, "measure")
    Path("file").write_text("kept")
    Path("folder").mkdir()
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line and "Errno" not in line
    assert Path("file").read_text() == "kept"
