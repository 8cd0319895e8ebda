"""Two processes that share one copy of the weights compute what two with a copy each compute."""

import signal
from pathlib import Path

import pytest
import torch

from raum_lightning.datasets import presets
from tests.helpers import EXPERIMENTS
from tests.helpers.cases import write_brats
from tests.helpers.ranks import rows, run, signal_at, splits, state

STEPS = 4  # two epochs of two, each validated
COMMON = ["-c", str(EXPERIMENTS / "debug.yaml"), "--data.root", "cases", "--trainer.enable_progress_bar", "false"]
LOGGED = ["--trainer.logger", "raum_lightning.loggers.CSVLogger"]
SHARDED = ["--trainer.devices", "2", "--trainer.accelerator", "cpu"]
SHARDED += ["--trainer.strategy.class_path", "lightning.pytorch.strategies.ModelParallelStrategy"]


def validations(run: Path) -> list[dict[str, str]]:
    return [row for row in rows(run) if row["val/loss"]]


def scores(row: dict[str, str]) -> list[float]:
    return [float(row[f"val/{name}"]) for name in ("loss", "dice_wt", "dice_tc", "dice_et", "dice_mean")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on two ranks in double precision: `ddp`, and `sharded`, stopped by a signal after step 3 and resumed.

    Three validation cases: an odd number, so that the ranks do not have as many windows. The second epoch trains the
    weights that the first one's validation held whole.
    """
    here = tmp_path_factory.mktemp("sharded")
    for number in range(1, 7):
        write_brats(here / "cases", f"BraTS20_Training_{number:03d}", presets()["brats2020"], seed=number)
    words = ["fit", *COMMON, *LOGGED, *splits(here / "splits.json", train=[1, 2], val=[3, 4, 5], test=[6])]
    words += ["--data.batch_size", "1", "--data.patches_per_epoch", "4", "--trainer.max_steps", str(STEPS)]
    # Lightning refuses double precision by its name for this strategy
    words += ["--trainer.precision", "null", "--trainer.plugins+", "lightning.pytorch.plugins.DoublePrecision"]
    ddp = ["--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"]
    assert run(here, [*words, *ddp, "--run.id", "ddp"], ranks=2) == [0, 0]
    words += [*SHARDED, "--run.id", "sharded"]
    stopped = run(here, [*words, *signal_at(here, 3, signal.SIGTERM), "--run.experiment", "debug"], ranks=2)
    assert stopped == [128 + signal.SIGTERM, 0]
    assert state(here / "runs/debug/sharded")["global_step"] == STEPS - 1
    assert run(here, [*words, "--ckpt_path", "auto"], ranks=2) == [0, 0]
    return here


def test_weights_moments_and_scores_are_those_of_ddp(work: Path) -> None:
    ddp, sharded = (state(work / "runs/debug" / name) for name in ("ddp", "sharded"))
    assert ddp["global_step"] == sharded["global_step"] == STEPS
    assert ddp["state_dict"].keys() == sharded["state_dict"].keys()
    for name, weight in ddp["state_dict"].items():
        torch.testing.assert_close(sharded["state_dict"][name], weight, rtol=0, atol=1e-12)
    moments = [content["optimizer_states"][0]["state"] for content in (ddp, sharded)]
    assert moments[0].keys() == moments[1].keys()
    for index, expected in moments[0].items():
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(moments[1][index][name], expected[name], rtol=1e-9, atol=1e-14)
    logged = [validations(work / "runs/debug" / name) for name in ("ddp", "sharded")]
    assert len(logged[0]) == len(logged[1]) == 2
    for expected, row in zip(*logged, strict=True):
        assert scores(row) == pytest.approx(scores(expected), abs=1e-9)


def test_one_process_reads_its_checkpoint(work: Path) -> None:
    words = [*COMMON, *LOGGED, "--data.splits", "splits.json"]
    words += ["--ckpt_path", "runs/debug/sharded/checkpoints/last.ckpt", "--trainer.precision", "32-true"]
    assert run(work, ["validate", *words]) == [0]
    (alone,) = rows(work / "runs/debug/sharded/validate")
    assert scores(alone) == pytest.approx(scores(validations(work / "runs/debug/sharded")[-1]), abs=1e-6)


def test_ranks_predict_different_numbers_of_cases(work: Path) -> None:
    words = ["predict", *COMMON, *SHARDED, "--trainer.logger", "false", "--data.splits", "splits.json"]
    words += ["--ckpt_path", "runs/debug/ddp/checkpoints/last.ckpt"]
    assert run(work, words, ranks=2) == [0, 0]
    assert len(list((work / "runs/debug/ddp/predictions").glob("*.nii.gz"))) == 1
