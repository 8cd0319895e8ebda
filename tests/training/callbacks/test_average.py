"""The running mean of weights: its closed form, and that it is what is scored, saved and resumed, to the last bit."""

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from raum_lightning.cli import main
from raum_lightning.errors import ConfigError
from raum_lightning.module import SegmentationModule
from raum_lightning.training.callbacks.average import CURRENT, FINE
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


def copied(module: Any) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in module.network.state_dict().items()}


class Record(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def note(self, module: Any) -> None:
        self.seen.append(copied(module))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.note(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *unused: Any) -> None:
        if len(self.seen) == trainer.global_step:  # a step and not only a batch
            self.note(pl_module)


class Unscored(SegmentationModule):
    """Validation runs, and scores nothing."""

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return batch["label"]

    def on_validation_epoch_end(self) -> None:
        pass


def averaging(ema: float = 0.25) -> SegmentationModule:
    torch.manual_seed(0)
    return Unscored(Normed(), ema=ema, lr=0.1, warmup_steps=0)


def loader(count: int) -> DataLoader[Any]:
    torch.manual_seed(1)
    batches: Any = [
        {"image": torch.randn(2, 1, 4, 4, 4), "label": torch.randint(4, (2, 4, 4, 4), dtype=torch.uint8)}
        for _ in range(count)
    ]
    return DataLoader(batches, batch_size=None)


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "max_steps": 3}
    return pl.Trainer(default_root_dir=folder, callbacks=[*callbacks], **quiet | options)


def test_closed_form_over_steps_of_accumulated_batches(tmp_path: Path) -> None:
    module, record = averaging(), Record()
    trainer(tmp_path, record, accumulate_grad_batches=2).fit(module, loader(6))
    expected, *later = record.seen
    for step, weights in enumerate(later, start=1):
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, then 3/12 and 0.25
        for name, weight in weights.items():
            moving = weight.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * weight if moving else weight
    assert len(later) == 3 and expected["norm.num_batches_tracked"] == 6
    torch.testing.assert_close(dict(module.network.state_dict()), expected)


def test_weights_in_bfloat16_have_a_mean_in_float32_which_is_resumed(tmp_path: Path) -> None:
    def fit(name: str, **taken_up: Any) -> tuple[list[dict[str, torch.Tensor]], dict[str, Any]]:
        record = Record()
        every = ModelCheckpoint(tmp_path / name, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        options: dict[str, Any] = {"precision": "bf16-true", "enable_checkpointing": True}
        # an epoch for each step
        trainer(tmp_path, record, every, max_steps=6, **options).fit(averaging(), loader(1), **taken_up)
        return record.seen, saved(f"{tmp_path}/{name}/step=6.ckpt")

    (start, *later), whole = fit("whole")
    _, resumed = fit("resumed", ckpt_path=tmp_path / "whole/step=3.ckpt", weights_only=True)
    expected = {name: weight.double() for name, weight in start.items()}
    for step, weights in enumerate(later, start=1):
        decay = min(0.25, (1 + step) / (10 + step))
        expected = {name: decay * mean + (1 - decay) * weights[name].double() for name, mean in expected.items()}
    assert whole[FINE].keys() == expected.keys() - {"norm.num_batches_tracked"}
    for name, mean in whole[FINE].items():
        assert mean.dtype == torch.float32
        torch.testing.assert_close(mean.double(), expected[name], rtol=1e-6, atol=1e-7)
        assert torch.equal(whole["state_dict"][f"network.{name}"], mean.bfloat16())
    for key in ("state_dict", CURRENT, FINE):
        torch.testing.assert_close(resumed[key], whole[key], rtol=0, atol=0)


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
def test_of_finer_weights_nothing_more_is_saved(tmp_path: Path, precision: Any, dtype: torch.dtype) -> None:
    module = averaging()
    training = trainer(tmp_path, precision=precision)
    training.fit(module, loader(3))
    training.save_checkpoint(tmp_path / "it.ckpt")
    content = saved(f"{tmp_path}/it.ckpt")
    assert FINE not in content and content["state_dict"]["network.conv.weight"].dtype == dtype


def test_a_second_fit_goes_on_from_the_weights_and_not_from_their_mean(tmp_path: Path) -> None:
    module, first, second = averaging(), Record(), Record()
    trainer(tmp_path, first).fit(module, loader(3))
    trained, mean = first.seen[-1], copied(module)
    assert not torch.equal(trained["conv.weight"], mean["conv.weight"])
    trainer(tmp_path).validate(module, loader(1), verbose=False)
    torch.testing.assert_close(copied(module), mean, rtol=0, atol=0)

    class AfterValidation(Record):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *unused: Any) -> None:
            self.note(pl_module)

        def on_train_batch_end(self, *unused: Any) -> None:
            pass

    after = AfterValidation()
    trainer(tmp_path, second, after, val_check_interval=1).fit(module, loader(3), loader(1))
    torch.testing.assert_close(second.seen[0], trained, rtol=0, atol=0)
    torch.testing.assert_close(after.seen[1:], second.seen[:3], rtol=0, atol=0)


def test_a_second_fit_that_resumes_a_file_holds_nothing_of_the_first(tmp_path: Path) -> None:
    module, again = averaging(), Record()
    training = trainer(tmp_path, max_steps=2)
    training.fit(module, loader(1))
    training.save_checkpoint(tmp_path / "two.ckpt")
    trainer(tmp_path, max_steps=5).fit(module, loader(1))
    trainer(tmp_path, again, max_steps=3).fit(module, loader(1), ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    torch.testing.assert_close(again.seen[0], saved(f"{tmp_path}/two.ckpt")[CURRENT], rtol=0, atol=0)


def test_a_run_that_fails_in_validation_is_saved_with_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, record = averaging(), Record()

    def fail(*unused: Any) -> None:
        training.save_checkpoint(tmp_path / "amid.ckpt")
        raise OSError("of a case")

    monkeypatch.setattr(module, "validation_step", fail)
    training = trainer(tmp_path, record, num_sanity_val_steps=0)
    with pytest.raises(OSError, match="of a case"):
        training.fit(module, loader(3), loader(1))
    content = saved(f"{tmp_path}/amid.ckpt")
    torch.testing.assert_close(content[CURRENT], record.seen[-1], rtol=0, atol=0)
    mean = content["state_dict"]["network.conv.weight"]
    assert torch.equal(mean, copied(module)["conv.weight"]) and not torch.equal(mean, content[CURRENT]["conv.weight"])


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
        other = ["--data.test_fraction", "0.3", "--module.lr", "0.01", "--ckpt_path", "saved/step=1.ckpt"]
        main(["fit", *words[:-2], *other])
