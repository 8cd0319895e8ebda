"""What is a user's to mend is one line and exit code 2; a defect is a traceback and exit code 1."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from raum_lightning import errors, geometry
from raum_lightning.cli import errors as translated
from raum_lightning.cli import main, view

WORDS = ["view", "case", "--out", "a.png"]


def planted(error: BaseException) -> Any:
    """A command that raises `error`."""

    def run(_: Any) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    "defect",
    [ValueError("zip() argument 2 is longer than argument 1"), KeyError("case"), OSError("no file name"), TypeError()],
    ids=repr,
)
def test_a_defect_is_raised(defect: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "run", planted(defect))
    with pytest.raises(type(defect)) as raised:
        main(WORDS)
    assert raised.value is defect


def test_a_full_disk_is_no_defect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(view, "run", planted(OSError(28, "No space left on device")))
    assert main(WORDS) == 2
    assert capsys.readouterr().err == "error: a file could not be written (No space left on device)\n"


@pytest.mark.slow
def test_a_defect_ends_in_a_traceback_and_exit_code_1() -> None:
    code = (
        "import sys; from raum_lightning.cli import main, view\n"
        "view.run = lambda args: list(zip([1], [1, 2], strict=True))\n"
        "sys.exit(main(['view', 'case', '--out', 'a.png']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.endswith("zip() argument 2 is longer than argument 1\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        *((kind("fold=7 does not exist"), "error: fold=7 does not exist\n") for kind in vars(errors).values()
          if isinstance(kind, type)),
        (PermissionError(13, "Permission denied", "runs/a"), "error: runs/a: Permission denied\n"),
        (FileNotFoundError(2, "No such file or directory", "a.nii"), "error: a.nii: No such file or directory\n"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_users_mistake_is_one_line_and_exit_code_2(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(view, "run", planted(error))
    assert main(WORDS) == 2
    assert capsys.readouterr() == ("", line)
    monkeypatch.setenv("RAUM_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(WORDS)


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(view, "run", planted(KeyboardInterrupt()))
    assert main(WORDS) == 130
    assert capsys.readouterr().err == "interrupted\n"

    def as_lightning_does(_: Any) -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr(view, "run", as_lightning_does)
    assert main(WORDS) == 130
    monkeypatch.setattr(view, "run", planted(SystemExit(143)))
    with pytest.raises(SystemExit, match="143"):
        main(WORDS)


def test_failures_of_libraries_are_explained() -> None:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    layer = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError) as misfit:
        layer.load_state_dict({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})
    for error, said in (
        (torch.OutOfMemoryError("CUDA out of memory."), "lower data.batch_size"),
        (torch.distributed.DistError("peer closed.\nTrace"), "is lost (peer closed); its own last message"),
        (
            MisconfigurationException("No supported gpu backend found!\nmore"),
            "trainer: No supported gpu backend found!",
        ),
        (misfit.value, "(size mismatch for weight: copying a param with shape torch.Size([3, 2])"),
    ):
        assert said in str(translated.explain(error)) and "\n" not in str(translated.explain(error))
    for defect in (RuntimeError("anything else"), ValueError("ours"), AssertionError()):
        assert translated.explain(defect) is None


class Mistaken(Dataset[None]):
    """What a user's mistake makes of each item."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise errors.ConfigError("data.a=3 cannot be: give 2")


def test_a_mistake_found_in_a_worker_is_the_same_sentence() -> None:
    with pytest.raises(errors.ConfigError) as error:
        next(iter(DataLoader(Mistaken(), num_workers=1)))
    assert "Traceback" in str(error.value)
    assert translated.explain(error.value) == "data.a=3 cannot be: give 2"


def test_a_refusal_names_the_key_and_our_own_errors_pass(tmp_path: Path) -> None:
    def refuse(text: str) -> None:
        exec(compile(f"raise ValueError({text!r})", str(tmp_path / "library.py"), "exec"))

    with pytest.raises(errors.ConfigError) as named, translated.refusals("trainer", {"max_steps": -3, "steps": 1}):
        refuse("`max_steps` must be -1 or more.\nSee the documentation")
    assert str(named.value) == "trainer.max_steps=-3: `max_steps` must be -1 or more"
    with pytest.raises(errors.ConfigError) as unnamed, translated.refusals("trainer", {"max_steps": -3}):
        refuse("nothing known")
    assert str(unnamed.value) == "trainer: nothing known"
    with pytest.raises(ValueError, match="defect") as defect, translated.refusals("trainer", {}):
        exec(compile("raise ValueError('defect')", geometry.__file__, "exec"))
    assert type(defect.value) is ValueError
    with pytest.raises(errors.CaseError, match="a case"), translated.refusals("trainer", {}):
        raise errors.CaseError("a case")
