"""`docs/patches.py`: a picture, or one sentence where the folder or an option cannot be used."""

import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Sequence[str]], int]:
    monkeypatch.chdir(tmp_path)
    found: Callable[[Sequence[str]], int] = runpy.run_path(str(ROOT / "docs/patches.py"))["main"]
    return found


@pytest.mark.slow
def test_patches_are_drawn(brats: Path, main: Callable[[Sequence[str]], int]) -> None:
    assert main([str(brats), "patches.png", "--size", "16"]) == 0
    assert Path("patches.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "p.png"], "nowhere: no such folder"),
        ([".", "p.png"], "no cases found"),
        (["cases", "p.xyz"], "p.xyz: has no ending of a picture; try p.png"),
        (["cases", "p.png", "--size", "0"], "data.roi_size=[0, 0, 0] must be"),
        (["cases", "p.png", "--modality", "pd"], "data.modalities=['pd'] must be some of"),
        (["cases", "no/such/folder/p.png", "--size", "16"], "no/such/folder: no such folder to write"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    words: list[str],
    said: str,
    main: Callable[[Sequence[str]], int],
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words[0] == "cases":
        request.getfixturevalue("brats")
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and said in error
