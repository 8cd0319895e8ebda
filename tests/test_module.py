"""The module through the trainer: what it optimises, how it scores, and that any network fits in."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import nibabel as nib
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn

import raum_lightning
from raum_lightning import UNETR, BratsDataModule, SegmentationModule
from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.inference.blending import background_logits_
from raum_lightning.labels import REGIONS, in_classes
from raum_lightning.losses import DiceCELoss
from raum_lightning.models import layout
from raum_lightning.training.first_patch import output_channels
from raum_lightning.training.schedule import warmup_cosine
from raum_lightning.training.scoring import pseudo_dice
from tests.helpers import DEBUG
from tests.helpers.cases import write_brats, write_msd
from tests.helpers.ranks import StepClock


def tiny_unetr(**options: Any) -> UNETR:
    shape = {
        "img_size": (32, 32, 32),
        "embed_dim": 24,
        "depth": 4,
        "num_heads": 2,
        "mlp_dim": 48,
        "out_indices": (1, 2, 3, 4),
    }
    return UNETR(**shape | {"feature_size": 4} | options)


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=folder, enable_checkpointing=False, **quiet | options)


def data(root: Path, folder: Path, **options: Any) -> BratsDataModule:
    tiny = {"roi_size": (32, 32, 32), "patches_per_epoch": 8, "num_workers": 0, "prepared_dir": folder / "prepared"}
    return BratsDataModule(root, **tiny | options)


def test_a_network_is_asked_once_for_its_outputs(brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command line before the cases are prepared, and not again by `setup`; again for another network."""
    asked: list[nn.Module] = []

    def counted(network: nn.Module, *question: Any) -> int | str:
        asked.append(network)
        return output_channels(network, *question)

    monkeypatch.setattr("raum_lightning.training.data_fit.output_channels", counted)
    module, cases = SegmentationModule(tiny_unetr()), data(brats, tmp_path)
    first = module.network
    for _ in range(2):
        module.check_data(cases)
    module.check_data(cases, fitting=False)
    module.network = tiny_unetr()
    module.check_data(cases)
    assert asked == [first, first, module.network], "of windows and patches, of windows alone, and of the new one"


@pytest.mark.slow
def test_overfits_one_case(brats: Path, tmp_path: Path) -> None:
    pl.seed_everything(0)
    (tmp_path / "splits.json").write_text('{"train": ["%s"], "val": ["%s"]}' % (("BraTS20_Training_001",) * 2))
    cases = data(brats, tmp_path, splits=tmp_path / "splits.json", augmentation=False, batch_size=2)
    module = SegmentationModule(tiny_unetr(feature_size=8), lr=1e-2, warmup_steps=5)
    trainer(tmp_path, max_steps=60, limit_val_batches=0).fit(module, datamodule=cases)
    (scores,) = trainer(tmp_path).validate(module, datamodule=cases, verbose=False)
    assert scores["val/dice_wt"] > 0.9
    assert scores["val/dice_mean"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("end", [{"max_steps": 6}, {"max_steps": -1, "callbacks": [StepClock(6)]}])
def test_the_learning_rate_steps_with_the_optimiser(brats: Path, tmp_path: Path, end: dict[str, Any]) -> None:
    """And falls to the run's end, be it by steps or by the clock, of whose time a tenth at most is for the warm-up."""
    rates = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    module = SegmentationModule(tiny_unetr(), lr=1e-2, warmup_steps=2)
    fit = trainer(tmp_path, limit_val_batches=0, **end | {"callbacks": [Watch(), *end.get("callbacks", [])]})
    fit.fit(module, datamodule=data(brats, tmp_path, batch_size=2))
    warmup = 0.6 if "callbacks" in end else 2
    expected = [warmup_cosine(step, warmup_steps=warmup, total_steps=6) for step in range(6)]
    expected[:2] = [1 / 3, 2 / 3]  # by the clock before the length is known
    assert rates == pytest.approx([1e-2 * factor for factor in expected])


class BatchClock(Timer):
    """Has a second pass in each batch."""

    passed = 0

    def on_train_batch_end(self, *given: Any) -> None:
        self.passed += 1
        super().on_train_batch_end(*given)

    def time_elapsed(self, *unused: Any) -> float:
        return float(self.passed)


@pytest.mark.slow
def test_time_ends_a_run_after_a_whole_step_and_it_is_validated(brats: Path, tmp_path: Path) -> None:
    """Of two batches each; and in an epoch that is not to be validated."""
    validated = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            validated.append(trainer.global_step)

    end = {"max_steps": -1, "accumulate_grad_batches": 2, "check_val_every_n_epoch": 5, "num_sanity_val_steps": 0}
    fit = trainer(tmp_path, **end, callbacks=[Watch(), BatchClock({"seconds": 3})])
    fit.fit(SegmentationModule(tiny_unetr(), warmup_steps=0), datamodule=data(brats, tmp_path))
    assert (fit.global_step, validated, fit.check_val_every_n_epoch) == (2, [2], 5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["labels", "regions"])
def test_scores_are_those_of_the_written_masks(
    brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-c", DEBUG, "--data.root", str(brats), "--trainer.logger", "false", "--run.id", "x"]
    words += ["--module.loss.init_args.mode", mode, "--data.test_fraction", "0.4"]
    words += ["--module.metrics", "[dice, specificity]"]
    assert main(["fit", *words, "--trainer.max_steps", "8", "--module.lr", "0.01"]) == 0
    for verb in ("test", "predict"):
        assert main([verb, *words]) == 0
    rows = list(csv.DictReader((tmp_path / "runs/debug/x/test/cases.csv").read_text().splitlines()))
    assert len(rows) == 2
    dataset = presets()["brats2020"]
    for row in rows:
        masks = tmp_path / f"runs/debug/x/predictions/{row['case']}.nii.gz", next(brats.glob(f"{row['case']}/*_seg*"))
        prediction, target = (dataset.encode(np.asarray(nib.load(path).dataobj)) for path in masks)
        for region, classes in REGIONS.items():
            a, b = in_classes(prediction, classes), in_classes(target, classes)
            assert float(row[f"dice_{region.lower()}"]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
            outside = (~b).sum()  # over the file's grid
            assert float(row[f"specificity_{region.lower()}"]) == pytest.approx((~a & ~b).sum() / outside, abs=1e-9)


@pytest.mark.slow
def test_a_network_of_another_library_trains_from_yaml_alone(
    brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "segresnet.yaml").write_text(
        f"base: {DEBUG}\n"
        "module:\n"
        "  network:\n"
        "    class_path: monai.networks.nets.SegResNet\n"
        "    init_args: {init_filters: 8}\n"
        "  roi_size: [32, 32, 32]\n"
    )
    words = ["-c", "segresnet.yaml", "--data.root", str(brats), "--trainer.logger", "false"]
    assert main(["fit", *words, "--trainer.max_steps", "2"]) == 0
    assert main(["test", *words]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "works"), [(4, False), (5, True)])
def test_the_resection_cavity_is_a_class_of_its_own(tmp_path: Path, channels: int, works: bool) -> None:
    for number in range(3):
        write_brats(tmp_path / "cases", f"BraTS-GLI-0000{number}-100", presets()["brats2024"], seed=number)
    cases = data(tmp_path / "cases", tmp_path, dataset="brats2024")
    module = SegmentationModule(tiny_unetr(out_channels=channels), warmup_steps=0)
    fit = trainer(tmp_path, max_steps=1)
    if works:
        fit.fit(module, datamodule=cases)
    else:
        with pytest.raises(ValueError, match="out_channels=4 but the labels of brats2024 need 5: background, NCR"):
            fit.fit(module, datamodule=cases)


@pytest.mark.slow
def test_msd_cases_train_and_come_back_on_their_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_msd(tmp_path / "Task01", 4)
    monkeypatch.chdir(tmp_path)
    words = ["-c", DEBUG, "--data.root", "Task01", "--trainer.logger", "false", "--run.id", "x"]
    assert main(["fit", *words, "--trainer.max_steps", "1"]) == 0
    assert main(["predict", *words, "--data.predict_root", "Task01"]) == 0
    written = sorted((tmp_path / "runs/debug/x/predictions").glob("*.nii.gz"))
    assert [path.name for path in written] == [f"BRATS_{n}.nii.gz" for n in ("001", "002", "003", "004", "900")]
    mask = nib.load(written[0])
    assert mask.shape == (40, 36, 32) and set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2, 3}


def test_loss_and_module_must_agree_on_what_channels_mean() -> None:
    with pytest.raises(ConfigError, match=r"module\.mode is labels but the loss is for regions"):
        SegmentationModule(tiny_unetr(out_channels=3), DiceCELoss(mode="regions"), mode="labels")


class ModeOfItsOwn(torch.nn.CrossEntropyLoss):
    """Has an attribute of the same name that means something else."""

    mode = "regions"


def test_another_losss_mode_means_nothing() -> None:
    module = SegmentationModule(tiny_unetr(), ModeOfItsOwn())
    assert module.mode == "labels"
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    assert module.loss_of(torch.zeros(1, 4, 2, 2, 2), labels).item() == pytest.approx(np.log(4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"flips": 3},
        {"overlap": 1},
        {"overlap": -0.1},
        {"overlap": float("nan")},
        {"sw_batch_size": 0},
        {"lr": -1e-4},
        {"lr": float("nan")},
        {"weight_decay": float("inf")},
        {"warmup_steps": -1},
        {"roi_size": (32, 0, 32)},
        {"roi_size": (32, 32)},
        {"mode": "classes"},
        {"monitor": "dice"},
        {"monitor": "hd95_mean"},
        {"metrics": ["hd95"]},
        {"metrics": ["volume"], "monitor": "volume_mean"},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_used_is_refused_by_its_key(wrong: dict[str, Any]) -> None:
    key = "monitor" if "metrics" in wrong else next(iter(wrong))
    with pytest.raises(ConfigError, match=rf"^module\.{key}="):
        SegmentationModule(tiny_unetr(), **wrong)


@pytest.mark.parametrize(
    ("monitor", "lower"), [("dice_mean", False), ("hd95_et", True), ("hd95_tumor_core", True), ("loss", True)]
)
def test_the_monitored_score_says_which_way_is_better(monitor: str, lower: bool) -> None:
    module = SegmentationModule(tiny_unetr(), metrics=["dice", "hd95"], monitor=monitor)
    assert module.lower_is_better is lower


def test_the_loss_leaves_out_what_no_window_saw() -> None:
    module = SegmentationModule(tiny_unetr(), torch.nn.CrossEntropyLoss())
    logits, labels = torch.zeros(1, 4, 4, 1, 1), torch.tensor([0, 1, 2, 3]).view(1, 4, 1, 1)
    logits[0, 1, 1] = 3.0
    background_logits_(logits[0], torch.tensor([False, False, True, True]).view(4, 1, 1))
    # -log softmax of the first two voxels: log 4, and log(3 + e^3) - 3
    expected = (np.log(4) + np.log(3 + np.exp(3)) - 3) / 2
    assert module._loss_of_seen(logits, labels).item() == pytest.approx(expected)


@pytest.mark.slow
def test_a_warm_up_longer_than_the_run_is_refused(brats: Path, tmp_path: Path) -> None:
    module = SegmentationModule(tiny_unetr(), warmup_steps=2)
    with pytest.raises(ConfigError, match=r"module\.warmup_steps=2 is longer than the run of 1 steps"):
        trainer(tmp_path, max_steps=1).fit(module, datamodule=data(brats, tmp_path))


@pytest.mark.slow
def test_a_loss_of_torch_trains(brats: Path, tmp_path: Path) -> None:
    cases = data(brats, tmp_path)
    ours = SegmentationModule(tiny_unetr())
    theirs = SegmentationModule(tiny_unetr(), torch.nn.CrossEntropyLoss(), warmup_steps=0)
    assert ours.mode == theirs.mode == "labels"
    trainer(tmp_path, max_steps=1).fit(theirs, datamodule=cases)
    (scores,) = trainer(tmp_path).validate(theirs, datamodule=cases, verbose=False)
    assert scores["val/loss"] > 0


@pytest.mark.slow
def test_cases_that_trained_are_not_scored_without_the_command_line(
    brats: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, path = SegmentationModule(tiny_unetr(), warmup_steps=0), str(tmp_path / "mine.ckpt")
    fit = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    cases = data(brats, tmp_path)
    fit.fit(module, datamodule=cases)
    fit.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    assert content["trained"] == sorted(cases.split.train)
    trainer(tmp_path).validate(module, datamodule=data(brats, tmp_path), ckpt_path=path, verbose=False)
    with pytest.raises(RunError, match="cases to be scored were used to train this checkpoint"):
        trainer(tmp_path).validate(module, datamodule=data(brats, tmp_path, fold=1), ckpt_path=path)
    del content["trained"]  # as one that was saved by an older version
    torch.save(content, path)
    trainer(tmp_path).validate(module, datamodule=data(brats, tmp_path, fold=1), ckpt_path=path, verbose=False)
    assert f"{path}: it does not say which cases trained it: scores on these would be too high" in caplog.text


@pytest.mark.slow
def test_a_network_with_more_classes_than_the_data_does_not_predict(brats: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out_channels=5 but the labels of brats2020 need 4"):
        trainer(tmp_path).predict(SegmentationModule(tiny_unetr(out_channels=5)), datamodule=data(brats, tmp_path))


def test_fsdp_is_refused_for_its_successor() -> None:
    module: Any = SegmentationModule(tiny_unetr())
    module._trainer = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(ValueError, match=r"fsdp would wait for ever .* give lightning\.\S+\.ModelParallelStrategy"):
        module.setup("fit")


def test_pseudo_dice_counts_the_batch_as_one() -> None:
    labels = torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0]]).view(2, 4, 1, 1)
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 0, 0, 0], [3, 3, 0, 0]]), 4).float()
    # WT: 2*2/(3+3); TC: 2*2/(3+2); ET: 2*1/(2+1)
    expected = (4 / 6 + 4 / 5 + 2 / 3) / 3
    value = pseudo_dice(logits.permute(0, 2, 1)[..., None, None], labels, "labels")
    assert value.item() == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("compiles", "kind"), [(False, layout.UNETR), (True, UNETR)])
def test_the_network_is_accelerated_on_a_cpu_unless_it_is_compiled(
    brats: Path, tmp_path: Path, compiles: bool, kind: type
) -> None:
    module = SegmentationModule(tiny_unetr(), compile=compiles)
    module.trainer = trainer(tmp_path)
    module.setup("fit")
    assert type(module.network) is kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "another"])
def test_a_checkpoint_of_a_trainer_of_ones_own_segments(
    brats: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Our networks say how they are made; another is given again, in Python."""
    network: nn.Module = tiny_unetr() if kind == "ours" else nn.Conv3d(3, 4, 1)
    given = {} if kind == "ours" else {"network": nn.Conv3d(3, 4, 1)}
    module = SegmentationModule(network, warmup_steps=1, roi_size=(32, 32, 32))
    fit = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    fit.fit(module, datamodule=data(brats, tmp_path, batch_size=2))
    checkpoint, case = tmp_path / "own.ckpt", brats / "BraTS20_Training_001"
    fit.save_checkpoint(checkpoint)
    loaded = raum_lightning.load(checkpoint, device="cpu", **given)
    for name, weight in loaded.networks[0].state_dict().items():
        torch.testing.assert_close(weight, module.network.state_dict()[name], rtol=0, atol=0)
    labels = loaded.segment(case).labels
    words = ["segment", "--checkpoint", str(checkpoint), "--case", str(case), "--out", str(tmp_path / "seg.nii.gz")]
    if kind == "another":
        assert main(words) == 2
        assert "does not say how its network is made" in capsys.readouterr().err
        return
    assert main(words) == 0
    written = np.asarray(nib.load(tmp_path / "seg.nii.gz").dataobj)
    np.testing.assert_array_equal(written, presets()["brats2020"].decode(labels))
    again = SegmentationModule.load_from_checkpoint(checkpoint)
    assert isinstance(again.network, UNETR) and again.network.spec["init_args"]["embed_dim"] == 24
