"""Ids become names of files: whatever a stranger's dataset.json says, nothing is written elsewhere."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cases.ids import check_id, printable
from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import CaseError
from tests.helpers.cases import write_brats, write_msd


@pytest.mark.parametrize(
    ("case_id", "words"),
    [
        ("../../etc/passwd", "its id becomes the name of a file; give it one without / and dot in front"),
        ("a/b", "its id becomes the name of a file"),
        ("a\\b", "its id becomes the name of a file"),
        ("", "its id becomes the name of a file"),
        (".hidden", "its id becomes the name of a file"),
        ("a ", "its id becomes the name of a file"),
        ("a\x1b[31mred", r"case a\x1b[31mred: its id holds characters that are not shown; rename its files"),
        ("a\nb", r"case a\nb: its id holds characters that are not shown"),
        ("a\u202eb", r"case a\u202eb: its id holds characters that are not shown"),
        ("a" * 151, "its id takes more than 150 bytes; give its files shorter names"),
        ("ü" * 76, "its id takes more than 150 bytes"),
    ],
)
def test_ids_that_are_no_clean_name(case_id: str, words: str) -> None:
    with pytest.raises(CaseError) as caught:
        Case(case_id, presets()["brats2020"], {})
    assert words in str(caught.value)


@pytest.mark.parametrize("case_id", ["BraTS20_Training_001", "sub-01_ses-02", "case [1] (copy)", "Müller 3", "病例1"])
def test_ids_that_are(case_id: str) -> None:
    assert check_id(case_id) == case_id


@pytest.mark.slow
@given(st.text())
def test_what_is_printed_holds_no_control_character(text: str) -> None:
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in printable(text))


@pytest.mark.parametrize(
    ("key", "entry", "words"),
    [
        ("image", "/etc/passwd.nii.gz", "lies outside"),
        ("image", "../other/a.nii.gz", "lies outside"),
        ("image", "imagesTr/../../a.nii.gz", "lies outside"),
        ("label", "../a.nii.gz", "lies outside"),
        ("image", "imagesTr/a.txt", "dataset.json names it as an image, which ends in .nii.gz or .nii"),
        ("image", "imagesTr/a\x1b]0;title\x07.nii.gz", r"case a\x1b]0;title\x07: its id holds characters"),
    ],
)
def test_what_a_dataset_json_may_not_name(
    tmp_path: Path, key: str, entry: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_msd(tmp_path / "msd", 1)
    path = tmp_path / "msd/dataset.json"
    content = json.loads(path.read_text())
    content["training"][0][key] = entry
    path.write_text(json.dumps(content))
    with pytest.raises(CaseError) as caught:
        find_cases(tmp_path / "msd", "msd-task01")
    assert words in str(caught.value)
    assert main(["check", str(tmp_path / "msd"), "--dataset", "msd-task01"]) == 2
    said = capsys.readouterr().err
    assert words in said and "\x1b" not in said and "\x07" not in said


def test_a_file_with_escapes_in_its_name_is_said_with_them_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path / "\x1b[2Jnone")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/\\x1b[2Jnone: no such folder; give one that holds cases\n"


def test_a_dataset_json_that_is_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(CaseError, match="is not valid JSON"):
        find_cases(tmp_path, "msd-task01")


def test_a_dataset_json_with_two_meanings(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "edema": 1, "edema": 2}}')
    with pytest.raises(CaseError, match=r"dataset\.json: is not valid JSON \(it has the key 'edema' twice\)"):
        find_cases(tmp_path, "msd-task01")


def test_hidden_folders_are_no_cases(tmp_path: Path) -> None:
    write_brats(tmp_path, "a", presets()["brats2020"])
    write_brats(tmp_path / ".a-half-written", "a", presets()["brats2020"])
    assert [case.id for case in find_cases(tmp_path)] == ["a"]


def test_a_folder_called_like_a_colour_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_brats(tmp_path / "[red]\x1b[1m", "[bold]a", presets()["brats2020"])
    (folder / "[bold]a_t2.nii.gz").unlink()
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "[bold]a (brats2020, " in said and r"[red]\x1b[1m" in said and "\x1b" not in said
