"""`raum prepare`: what it prepares, and what it removes and keeps."""

import json
import os
from pathlib import Path

import pytest

from raum_lightning.cases.discovery import find_cases
from raum_lightning.cli import main
from raum_lightning.data.store import prepare


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_prepares_what_is_missing_and_removes_what_no_case_needs(
    brats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "prepared"
    words = ["prepare", str(brats), "--modalities", "flair", "t1ce", "--prepared_dir", str(folder)]
    assert main([*words, "--dry-run"]) == 0
    assert "6 of 6 cases would be prepared" in capsys.readouterr().out and not folder.exists()
    assert main(words) == 0
    assert "6 of 6 cases prepared" in capsys.readouterr().out
    kept = names(folder)
    assert len(kept) == 6

    # other modalities of the same cases are needed as well, and what raum did not write is left alone
    cases = find_cases(brats)
    prepare(cases[:1], folder, ["t2"])
    (folder / "notes").mkdir()
    kept = names(folder)
    # one file has changed, and one case is gone
    os.utime(cases[0].images["flair"], ns=(1, 1))
    for path in (*cases[5].images.values(), cases[5].label):
        assert path
        path.unlink()
    old = {name for name in kept for case in (cases[0], cases[5]) if name.startswith(case.id)}
    old -= {name for name in old if name in names(folder) and _modalities(folder / name) == ["t2"]}
    assert len(old) == 2

    assert main([*words, "--clean", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "1 of 5 cases would be prepared" in said and "2 folders, " in said and " MB, would be removed" in said
    assert all(f"{folder / name}: not needed" in said for name in old)
    assert names(folder) == kept

    assert main([*words, "--clean"]) == 0
    said = capsys.readouterr().out
    assert "1 of 5 cases prepared" in said and "8 folders, " in said and "7 folders, " in said
    after = names(folder)
    assert not after & old and kept - old <= after and len(after - kept) == 1


def _modalities(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "case.json").read_text())["modalities"]
    return found


def test_a_damaged_case_is_named(brats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "prepared"
    words = ["prepare", str(brats), "--modalities", "flair", "--prepared_dir", str(folder)]
    assert main(words) == 0
    path = next(folder.glob("*001-*/image.npy"))
    path.write_bytes(path.read_bytes()[:-10])
    assert main(words) == 0
    assert f"case BraTS20_Training_001 is prepared again: {path} is not what was written" in capsys.readouterr().out


def test_wrong_arguments_are_one_line(brats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(brats), "--modalities", "pd"]) == 2
    assert "data.modalities=['pd'] must be some of flair, t1, t1ce, t2" in capsys.readouterr().err
    assert main(["prepare", str(brats / "nowhere")]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
