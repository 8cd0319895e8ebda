"""What a user reads when training fails, alone and on two ranks."""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from raum_lightning.cli import main
from raum_lightning.cli.errors import RANKS as LAUNCHED
from raum_lightning.cli.errors import explain, located
from raum_lightning.datasets import presets
from tests.helpers import EXPERIMENTS
from tests.helpers.cases import write_brats
from tests.helpers.ranks import run, signal_at, splits, state

RANKS = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "1"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("failures")
    for number in range(1, 4):
        write_brats(here / "cases", f"BraTS20_Training_{number:03d}", presets()["brats2020"], seed=number)
    splits(here / "splits.json", train=[1, 2], val=[3])
    return here


def words(name: str, *more: str) -> list[str]:
    fit = ["fit", "-c", str(EXPERIMENTS / "debug.yaml"), "--data.root", "cases", "--data.splits", "splits.json"]
    fit += ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "50"]
    return [*fit, "--run.experiment", "debug", "--run.id", name, "--data.patches_per_epoch", "8", *more]


def nan_at(batch: int, rank: int) -> list[str]:
    return ["--module.loss", "tests.helpers.ranks.NanAt", f"--module.loss.batch={batch}", f"--module.loss.rank={rank}"]


@pytest.mark.parametrize("noticed", [[], ["--data.patches_per_epoch", "6", "--trainer.check_val_every_n_epoch", "2"]])
def test_a_loss_that_becomes_nan(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], noticed: list[str]
) -> None:
    """In the first epoch, and noticed there or after the next."""
    monkeypatch.chdir(work)
    assert main(words("nan", *nan_at(2, 0), *noticed)) == 2
    kept = Path("runs/debug/nan/nonfinite-2-rank0.pt")
    batch = torch.load(kept, weights_only=True)
    assert batch["image"].shape == (2, 3, 32, 32, 32) and batch["keys"] == [(0, 4), (0, 5)]
    said = capsys.readouterr().err
    assert (
        f"the loss of batch 2 became NaN or infinite; it held {', '.join(batch['case'])} and is kept in {kept}" in said
    )
    assert not list(Path("runs/debug/nan/checkpoints").glob("*.ckpt"))


def test_weights_that_become_nan_of_finite_losses(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    broken = ["--module.loss", "tests.helpers.ranks.NanGradientAt", "--module.loss.batch=3"]
    assert main(words("gradient", *broken, "--data.patches_per_epoch", "4")) == 2
    assert "error: weights became NaN or infinite by step 4, of losses that were finite" in capsys.readouterr().err
    sound = state(work / "runs/debug/gradient")
    assert sound["global_step"] == 2 and all(one.isfinite().all() for one in sound["state_dict"].values())
    # with no validation after it, as the run ends
    assert main(words("last", *broken, "--trainer.limit_val_batches", "0", "--trainer.max_steps", "4")) == 2
    assert "error: weights became NaN or infinite by step 4" in capsys.readouterr().err
    assert not list(Path("runs/debug/last/checkpoints").glob("*.ckpt"))


def test_weights_that_are_nan_are_neither_scored_nor_trained(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    assert main(words("broken", "--trainer.max_steps", "2")) == 0
    path = Path("runs/debug/broken/checkpoints/last.ckpt")
    content = torch.load(path, weights_only=True)
    content["state_dict"]["network.vit.pos_embed"][0, 0, 0] = torch.inf
    torch.save(content, path)
    verbs = (["validate"], ["predict"], ["fit", "--trainer.max_steps", "4"])
    for verb, *more in verbs:
        assert main([verb, *words("again", "--ckpt_path", str(path), *more)[1:]]) == 2
        said = f"error: {path}: its weight network.vit.pos_embed holds NaN or infinite values (1 tensors do); give an"
        assert said in capsys.readouterr().err
    content["state_dict"]["network.vit.pos_embed"][0, 0, 0] = 3e38  # finite, and what is computed of it is not
    content["state_dict"]["network.vit.patch_embed.bias"] += 3e38
    torch.save(content, path)
    for verb in ("validate", "predict"):
        assert main([verb, *words("again", "--ckpt_path", str(path), "--data.predict_root", "cases")[1:]]) == 2
        said = "the network returned NaN or infinite values with trainer.precision 32-true; take other weights"
        assert said in capsys.readouterr().err


class Masked(torch.nn.Conv3d):
    """With values that are never trained, and are infinite as those of an attention mask."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf))
        self.fixed = torch.nn.Parameter(torch.tensor(torch.inf), requires_grad=False)


def test_infinite_values_that_are_not_trained(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    masked = ["--module.network", f"{__name__}.Masked", "--module.roi_size", "[32,32,32]"]
    for more in (["--trainer.max_steps", "2"], ["--trainer.max_steps", "4", "--ckpt_path", "auto"]):
        assert main(words("masked", *masked, *more)) == 0
    assert main(["validate", *words("masked", *masked)[1:]]) == 0


def test_a_loss_that_becomes_nan_on_another_rank(work: Path) -> None:
    assert run(work, words("nan-1", *RANKS, *nan_at(2, 1)), ranks=2) == [2, 2]
    assert "error: rank 1 on " in (said := (work / "output-1.txt").read_text()) and "the loss of batch 2" in said
    assert "error" not in (work / "output-0.txt").read_text()


def test_a_rank_that_is_killed_ends_the_others(work: Path) -> None:
    codes = run(work, words("lost", *RANKS, *signal_at(work, 2, signal.SIGKILL, rank=1)), ranks=2)
    assert codes == [2, -signal.SIGKILL]
    said = (work / "output-0.txt").read_text()
    assert "the connection to another rank is lost (" in said and "Traceback" not in said


def test_ranks_with_different_arguments(work: Path) -> None:
    assert run(work, words("different", *RANKS), ranks=2, last=["--module.lr", "0.5"]) == [2, 2]
    said = (work / "output-0.txt").read_text()
    assert "error: rank 0 on " in said and "rank 1 on " in said and "in: module.lr; start all ranks" in said


def test_a_node_without_the_data(work: Path) -> None:
    # the other rank waits for it, until the launcher ends it
    assert run(work, words("nodata", *RANKS), ranks=2, last=["--data.root", "nowhere"], until=1)[1] == 2
    assert "error: rank 1 on " in (said := (work / "output-1.txt").read_text()) and "nowhere: no such folder" in said


def test_what_one_rank_is_told_both_do_and_one_process_goes_on(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = ["--trainer.precision", "64-true"]
    told = [*signal_at(work, 2, signal.SIGTERM, rank=1), "--module.network.init_args.checkpointing", "all"]
    assert run(work, words("told", *RANKS, *exact, *told), ranks=2) == [128 + signal.SIGTERM, 0]
    assert state(work / "runs/debug/told")["global_step"] == 2
    monkeypatch.chdir(work)
    assert main(words("told", *exact, "--ckpt_path", "auto")) == 0
    assert main(words("alone", *exact)) == 0
    weights = [state(work / "runs/debug" / name)["state_dict"] for name in ("told", "alone")]
    for name, weight in weights[1].items():
        torch.testing.assert_close(weights[0][name], weight, rtol=1e-6, atol=1e-8)


class _Deadly(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_failures_are_explained() -> None:
    with pytest.raises(RuntimeError) as died:
        next(iter(DataLoader(_Deadly(), num_workers=1)))
    assert "lower data.num_workers" in str(explain(died.value))
    assert "lower data.batch_size" in str(explain(torch.OutOfMemoryError("CUDA out of memory.")))
    assert "is lost (peer closed); its" in str(explain(torch.distributed.DistError("peer closed.\nTrace")))
    assert explain(RuntimeError("anything else")) is None


def test_only_one_of_many_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert located("lost") == "lost"
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert located("lost").startswith("rank 3 on ") and located("lost").endswith(": lost")
    monkeypatch.delenv("SLURM_NTASKS")
    monkeypatch.delenv("SLURM_PROCID")
    assert located("lost") == "lost"
    monkeypatch.setitem(LAUNCHED, "world", 2)  # what Lightning's own launcher has forgotten by then
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert located("lost").startswith("rank 1 on ")
