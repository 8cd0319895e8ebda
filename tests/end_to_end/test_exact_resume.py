"""Losses to the last bit: for any number of workers, and after a continuation in the middle of an epoch."""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from raum_lightning.cli import main
from raum_lightning.datasets import presets
from tests.helpers import DEBUG
from tests.helpers.cases import write_brats

STEPS = 7  # of five to an epoch
SAVE_ALL = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"dirpath": "saved", "filename": "{step}", "save_top_k": -1, "every_n_train_steps": 1},
}

# what keeps state of its own, or draws numbers, beside the network of `debug`
MODERN = {
    "module": {
        "ema": 0.9,
        "network": {
            "class_path": "raum_lightning.models.UNETRV2",
            "init_args": {
                "patch_size": 8,
                "out_indices": [1, 2, 4],
                "embed_dim": 24,
                "depth": 4,
                "num_heads": 2,
                "mlp": "swiglu",
                "mlp_dim": 32,
                "stem": "conv",
                "stem_size": 4,
                "skips": "stem",
                "position": "rope",
                "qk_norm": True,
                "layer_scale": 0.1,
                "drop_path": 0.3,
                "deep_supervision": True,
                "norm": "instance_affine",
            },
        },
    },
    "data": {"modality_dropout": {"flair": 0.3}, "balanced": True},
}


def losses(name: str, *more: str) -> dict[int, str]:
    """Trains with dropout in the current folder; the loss of each step, in all its digits."""
    fit = ["fit", "-c", DEBUG, "--data.root", "cases"]
    fit += ["--data.patches_per_epoch", "10", "--data.batch_size", "2"]
    if "--trainer.max_epochs" not in more:
        fit += ["--trainer.max_steps", str(STEPS)]
    fit += ["--module.network.init_args.dropout", "0.3", "--trainer.limit_val_batches", "0"]
    fit += ["--trainer.logger", "raum_lightning.loggers.CSVLogger", "--trainer.enable_progress_bar", "false"]
    assert main([*fit, "--run.experiment", "debug", "--run.id", name, *more]) == 0
    rows = csv.DictReader(Path("runs/debug", name, "metrics.csv").read_text().splitlines())
    return {int(row["step"]): row["train/loss"] for row in rows if row["train/loss"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """A folder with cases, the checkpoints of all steps of one run in `saved`, and that run's losses."""
    here = tmp_path_factory.mktemp("exact")
    for number in range(1, 7):
        write_brats(here / "cases", f"BraTS20_Training_{number:03d}", presets()["brats2020"], seed=number)
    (here / "save.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [SAVE_ALL]}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        return here, losses("whole", "-c", "save.yaml")


def test_every_step_has_its_own_loss(whole: tuple[Path, dict[int, str]]) -> None:
    assert list(whole[1]) == list(range(STEPS))
    assert len(set(whole[1].values())) == STEPS


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers(
    whole: tuple[Path, dict[int, str]], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole[0])
    assert losses(f"workers-{workers}", "--data.num_workers", str(workers)) == whole[1]


@pytest.mark.parametrize(("step", "workers"), [(2, 0), (3, 2), (5, 0), (6, 1)])
def test_continued_after_any_step(
    whole: tuple[Path, dict[int, str]], step: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole[0])
    taken_up = ["--ckpt_path", f"saved/step={step}.ckpt", "--data.num_workers", str(workers)]
    assert losses(f"from-{step}", *taken_up) == {at: loss for at, loss in whole[1].items() if at >= step}


def test_continued_where_epochs_count(whole: tuple[Path, dict[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """How long epochs are, Lightning learns from the loader, which must not be made before it knows where to resume."""
    monkeypatch.chdir(whole[0])
    epochs = ["--trainer.max_epochs", "2"]
    counted = losses("epochs", *epochs, "-c", "save.yaml", "--trainer.callbacks.init_args.dirpath", "counted")
    assert list(counted) == list(range(10))
    again = losses("from-epochs", *epochs, "--ckpt_path", "counted/step=3.ckpt")
    assert again == {at: loss for at, loss in counted.items() if at >= 3}


def test_the_modern_network_with_its_mean_resumes_and_is_exported(
    whole: tuple[Path, dict[int, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """EMA, deep supervision, rotary positions, DropPath, modality dropout and balanced batches together."""
    monkeypatch.chdir(whole[0])
    Path("modern.yaml").write_text(yaml.safe_dump(MODERN))
    modern = ["-c", "modern.yaml", "-c", "save.yaml", "--trainer.callbacks.init_args.dirpath"]
    counted = losses("modern", *modern, "modern")
    again = losses("from-modern", *modern, "again", "--ckpt_path", "modern/step=3.ckpt")
    assert again == {at: loss for at, loss in counted.items() if at >= 3} and len(set(counted.values())) == STEPS
    one, other = (torch.load(f"{folder}/step=7.ckpt", weights_only=True) for folder in ("modern", "again"))
    for key in ("state_dict", "current_weights"):
        for name, weight in one[key].items():
            assert torch.equal(weight, other[key][name]), (key, name)
    last = "runs/debug/modern/checkpoints/last.ckpt"
    state = torch.load(last, weights_only=True)["state_dict"]
    for suffix in ("safetensors", "pt2"):
        assert main(["export", "--checkpoint", last, "--out", f"modern.{suffix}"]) == 0, capsys.readouterr().err
    exported = load_file("modern.safetensors")
    assert not torch.equal(state["network.head.weight"], one["current_weights"]["head.weight"])
    for name, weight in exported.items():
        assert torch.equal(weight, state[f"network.{name}"])
    case = ["--case", "cases/BraTS20_Training_001", "--out", "seg.nii.gz"]
    assert main(["segment", "--model", "modern.safetensors", *case]) == 0
