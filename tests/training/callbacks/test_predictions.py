"""`lightning predict` resumes where it was killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from raum_lightning import SegmentationModule
from raum_lightning.cli import main
from raum_lightning.training.callbacks.predictions import hash_weights
from tests.helpers import ROOT
from tests.helpers.handmade import DEBUG, fit_handmade

CASES = [f"BraTS20_Training_{number:03d}" for number in range(1, 6)]
# writes the first mask, half of the second, and dies
KILLED = """
import os, signal, sys
import nibabel as nib
from raum_lightning.cli import main
import tests.helpers.float32

save, written = nib.save, []
def dying(image, path):
    save(image, path)
    written.append(path)
    if len(written) == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
nib.save = dying
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_handmade(tmp_path_factory.mktemp("work"))


@pytest.fixture
def segmented(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The cases that the network sees."""
    seen: list[str] = []
    step = SegmentationModule.predict_step

    def predict_step(self: SegmentationModule, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        seen.extend(batch["case"])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "predict_step", predict_step)
    yield seen


def words(checkpoint: Path, *more: str) -> list[str]:
    network = ["--module.network", "tests.helpers.handmade.Handmade", "--module.roi_size", "[32,32,32]"]
    root = ["--data.predict_root", "runs/phantom-cases", "--ckpt_path", str(checkpoint)]
    return ["predict", *DEBUG, *network, *root, *more]


def test_a_killed_run_leaves_whole_files_and_goes_on(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, segmented: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkpoint.parents[4])
    folder = checkpoint.parents[1] / "predictions"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, *words(checkpoint)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    names = sorted(path.name for path in folder.iterdir())
    assert names[1:] == [f"{CASES[0]}.nii.gz"] and names[0].endswith(f"-{CASES[1]}.nii.gz")
    first = (folder / f"{CASES[0]}.nii.gz").stat().st_mtime_ns

    assert main(words(checkpoint)) == 0
    assert segmented == CASES[1:]
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{case}.nii.gz" for case in CASES),
        "brats2020.ctbl",
        "brats2020.txt",
        "volumes.csv",
    ]
    assert (folder / f"{CASES[0]}.nii.gz").stat().st_mtime_ns == first
    for case in CASES:
        assert np.asarray(nib.load(folder / f"{case}.nii.gz").dataobj).max() == 4
    assert f"1 of 5 cases are segmented already in {folder}" in capsys.readouterr().out

    segmented.clear()
    assert main(words(checkpoint)) == 0
    assert segmented == []


def test_what_other_weights_settings_or_images_made_is_replaced(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, segmented: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkpoint.parents[4])
    assert main(words(checkpoint)) == 0
    flipped = words(checkpoint, "--module.flips", "2")
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["network.bias"] += 0.1
    other = checkpoint.with_name("other.ckpt")
    torch.save(content, other)
    copied = checkpoint.with_name("copied.ckpt")
    copied.write_bytes(other.read_bytes())
    without = words(other, "--data.without", "[flair]")
    for command, again in (
        (flipped, CASES),
        (without, CASES),
        (without, []),
        (words(other), CASES),
        (words(copied), []),
        (words(copied), []),
    ):
        segmented.clear()
        capsys.readouterr()
        assert main(command) == 0
        assert segmented == again
        assert ("5 in" in capsys.readouterr().out) == bool(again)
    image = Path("runs/phantom-cases") / CASES[2] / f"{CASES[2]}_t2.nii.gz"
    os.utime(image, ns=(0, 0))
    assert main(words(copied)) == 0
    assert segmented == [CASES[2]]


def test_weights_are_known_by_their_values() -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1, dtype=torch.bfloat16)}
    known = hash_weights(weights)
    assert known == hash_weights({"b": weights["b"].clone(), "a": weights["a"].T.contiguous().T})
    assert known != hash_weights(weights | {"b": torch.tensor(2, dtype=torch.bfloat16)})
    assert known != hash_weights(weights | {"a": weights["a"].reshape(3, 2)})


def test_a_mask_of_another_program_is_not_replaced(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, segmented: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkpoint.parents[4])
    corrected = checkpoint.parents[1] / "predictions" / f"{CASES[1]}.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((56, 56, 48), np.uint8), np.eye(4)), corrected)
    assert main(words(checkpoint)) == 2
    assert f"{CASES[1]}.nii.gz: was not written by raum" in capsys.readouterr().err and segmented == []
    corrected.unlink()
