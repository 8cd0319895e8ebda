"""The best checkpoint's state names files, which are replaced and removed later: only those of the run are taken up."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raum_lightning.runs.folder import RunFolder
from raum_lightning.training.callbacks.best import BestCheckpoint


def state(folder: Path, *paths: str) -> dict[str, Any]:
    scores = {path: torch.tensor(0.1 * number) for number, path in enumerate(paths, 1)}
    return {
        "dirpath": str(folder),
        "best_model_score": torch.tensor(0.9),
        "best_k_models": scores,
        "kth_best_model_path": paths[0],
        "kth_value": torch.tensor(0.1),
        "best_model_path": paths[-1],
        "last_model_path": paths[0],
    }


@pytest.mark.parametrize(
    "foreign", ["../../other.ckpt", "../x", "..", "notes.txt", "/etc/passwd", "s3://bucket/a.ckpt"]
)
def test_files_elsewhere_are_left_alone(tmp_path: Path, foreign: str) -> None:
    folder = RunFolder(tmp_path).checkpoints
    best = BestCheckpoint(RunFolder(tmp_path), "val/dice_mean", keep=2)
    named = foreign if foreign.startswith(("/", "s3:")) else f"{folder}/{foreign}"
    best.load_state_dict(state(folder, named, f"{folder}/best-step=2.ckpt"))
    assert list(best.best_k_models) == [f"{folder}/best-step=2.ckpt"]
    assert best.kth_best_model_path == best.best_model_path == f"{folder}/best-step=2.ckpt"
    best.load_state_dict(state(folder, named))
    assert not best.best_k_models and best.kth_best_model_path == best.best_model_path == best.last_model_path == ""
