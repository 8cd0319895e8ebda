"""The running mean of weights: its closed form, and that it is what is scored, saved and resumed, to the last bit."""

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader

from raum_lightning import SegmentationModule
from raum_lightning.cli import main
from raum_lightning.errors import ConfigError
from raum_lightning.training.callbacks.average import CURRENT
from tests.helpers import DEBUG

SAVE_ALL = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"dirpath": "saved", "filename": "{step}", "save_top_k": -1, "every_n_train_steps": 1},
}


class Normed(nn.Module):
    """With buffers, one of them an integer."""

    img_size = (4, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(image))


class Record(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def note(self, module: Any) -> None:
        self.seen.append({name: weight.clone() for name, weight in module.network.state_dict().items()})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.note(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *unused: Any) -> None:
        if len(self.seen) == trainer.global_step:  # a step and not only a batch
            self.note(pl_module)


def test_closed_form_over_steps_of_accumulated_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, record = SegmentationModule(Normed(), ema=0.25, lr=0.1, warmup_steps=0), Record()
    batches = [
        {"image": torch.randn(2, 1, 4, 4, 4), "label": torch.randint(4, (2, 4, 4, 4), dtype=torch.uint8)}
        for _ in range(6)
    ]
    pl.Trainer(
        default_root_dir=tmp_path,
        callbacks=[record],
        accelerator="cpu",
        max_steps=3,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, DataLoader(batches, batch_size=None))
    expected, *later = record.seen
    for step, weights in enumerate(later, start=1):
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, then 3/12 and 0.25
        for name, weight in weights.items():
            moving = weight.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * weight if moving else weight
    assert len(later) == 3 and expected["norm.num_batches_tracked"] == 6
    torch.testing.assert_close(dict(module.network.state_dict()), expected)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(ConfigError, match=rf"^module\.ema={decay} is not in \(0, 1\)"):
        SegmentationModule(Normed(), ema=decay)


def fit(name: str, *more: str) -> dict[str, Any]:
    words = ["-c", DEBUG, "-c", "save.yaml", "--data.root", "cases", "--run.experiment", "debug", "--run.id", name]
    words += ["--module.ema", "0.9", "--module.lr", "0.01", "--data.test_fraction", "0.3"]
    words += ["--trainer.logger", "raum_lightning.loggers.CSVLogger", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", *words, *more]) == 0
    return saved(f"runs/debug/{name}/checkpoints/last.ckpt")


def saved(path: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def losses(path: str) -> list[str]:
    rows = csv.DictReader(Path(path).read_text().splitlines())
    return [row["val/loss"] for row in rows if row["val/loss"]]


@pytest.mark.slow
def test_what_is_scored_saved_and_resumed(brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("save.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [SAVE_ALL]}}))
    whole = fit("whole")
    best = saved("runs/debug/whole/checkpoints/best.ckpt")
    assert any(not torch.equal(best["state_dict"][f"network.{name}"], w) for name, w in best[CURRENT].items())
    # the file alone scores what was scored when it was written
    words = ["-c", DEBUG, "--data.root", "cases", "--run.experiment", "debug", "--run.id", "whole"]
    words += ["--trainer.logger", "raum_lightning.loggers.CSVLogger", "--ckpt_path", "last"]
    assert main(["validate", *words, "--data.test_fraction", "0.3"]) == 0
    logged, again = losses("runs/debug/whole/metrics.csv"), losses("runs/debug/whole/validate/metrics.csv")
    assert float(again[0]) == pytest.approx(float(logged[-1]), rel=1e-5)
    for step in (1, 2):  # within an epoch, and at its end
        resumed = fit(f"from-{step}", "--ckpt_path", f"saved/step={step}.ckpt")
        for key in ("state_dict", CURRENT):
            torch.testing.assert_close(resumed[key], whole[key], rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"holds a mean of weights: resume with the module\.ema"):
        monkeypatch.setenv("RAUM_TRACEBACK", "1")
        main(["fit", *words[:-2], "--data.test_fraction", "0.3", "--ckpt_path", "saved/step=1.ckpt"])
