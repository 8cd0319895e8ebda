"""`module.postprocess: search`: the steps of a run's end are those that `raum postprocess fit` finds."""

import csv
import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from raum_lightning.cli import main
from raum_lightning.postprocess import Postprocess
from raum_lightning.studies.comparison import Results
from tests.helpers.handmade import DEBUG, fit_handmade
from tests.helpers.ranks import run, splits

CASES = "runs/phantom-cases"
SEARCH = "raum_lightning.training.callbacks.search"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with synthetic cases and a run on them that searched; three validation cases."""
    folder = tmp_path_factory.mktemp("search")
    fit_handmade(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", *words(folder, [2, 3, 4]), "--run.id", "one"]) == 0
    return folder


def words(folder: Path, val: Sequence[int]) -> list[str]:
    network = ["--module.network", "tests.helpers.handmade.Handmade", "--module.roi_size", "[32,32,32]"]
    steps = [
        "--module.lr",
        "0",
        "--module.overlap",
        "0.25",
        "--trainer.max_steps",
        "1",
        "--module.postprocess",
        "search",
    ]
    steps += ["--data.patches_per_epoch", "2", "--trainer.check_val_every_n_epoch", "1"]
    parts = splits(folder / f"splits-{len(val)}.json", train=[1], val=val, test=[5])
    return [*DEBUG, *network, *steps, *parts, "--data.root", CASES]


def card(folder: Path, run_id: str) -> dict[str, Any]:
    content = torch.load(folder / f"runs/debug/{run_id}/checkpoints/best.ckpt", weights_only=True)
    found: dict[str, Any] = content["model_card"]
    return found


@pytest.mark.slow
def test_the_steps_are_those_of_postprocess_fit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    best = "runs/debug/one/checkpoints/best.ckpt"
    for number in (2, 3, 4):
        name = f"BraTS20_Training_{number:03d}"
        out = ["--out", f"masks/{name}.nii.gz", "--trust", "tests.helpers.handmade", "--postprocess", "none"]
        assert main(["segment", "--checkpoint", best, "--case", f"{CASES}/{name}", *out]) == 0
    folders = ["--predictions", "masks", "--references", CASES]
    assert main(["postprocess", "fit", *folders, "--rules", "brats2020", "--out", "post.yaml"]) == 0
    steps = Postprocess.read(Path("post.yaml"))
    assert steps.plain and Postprocess.of(card(root, "one")["postprocess"]) == steps


@pytest.mark.slow
def test_a_cpu_with_bf16_searches_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where batches of float16 are made in the same process as the network's bf16."""
    monkeypatch.chdir(root)
    monkeypatch.setattr("raum_lightning.cli.run_plan.lacks_bf16", lambda accelerator: None)
    half = ["--run.id", "half", "--trainer.precision", "bf16-mixed", "--data.num_workers", "0"]
    assert main(["fit", *words(root, [2, 3, 4]), *half]) == 0
    assert card(root, "half")["postprocess"] == card(root, "one")["postprocess"]


@pytest.mark.slow
def test_test_prints_raw_and_cleaned_rows_by_the_model_card(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    config, cases = Path("runs/debug/one/config.yaml"), Path("runs/debug/one/test/cases.csv")
    assert main(["test", "-c", str(config)]) == 0
    shown = capsys.readouterr().out
    (row,) = csv.DictReader(cases.read_text().splitlines())
    for masks, name in (("raw", "dice_wt"), ("cleaned", "cleaned/dice_wt")):
        assert any(f" {masks} " in line and f"{float(row[name]):.3f}" in line for line in shown.splitlines())
    assert f"cleaned by: {Postprocess.of(card(root, 'one')['postprocess'])}" in " ".join(shown.split())
    for cleaned, name in ((False, "dice_wt"), (True, "cleaned/dice_wt")):
        found = Results.read(Path("runs/debug/one"), cleaned=cleaned)
        assert (found.name, found.rules) == ("debug/one", "brats2020")
        assert found.scores[row["case"]]["dice_wt"] == pytest.approx(float(row[name]))
    assert main(["test", "-c", str(config), "--module.postprocess", "none"]) == 0
    assert "cleaned" not in capsys.readouterr().out and "cleaned/dice_wt" not in cases.read_text()


@pytest.mark.slow
def test_too_few_validation_cases_are_said_before_training(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(root)
    assert main(["fit", *words(root, [2, 3]), "--run.id", "few"]) == 0
    assert "module.postprocess=search needs 3 validation cases and there are 2" in caplog.text
    assert card(root, "few")["postprocess"] is None


@pytest.mark.distributed
def test_two_ranks_find_the_steps_of_one(root: Path) -> None:
    devices = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    options = [*words(root, [2, 3, 4]), *devices, "--data.batch_size", "1", "--run.id", "ranks"]
    assert run(root, ["fit", *options], ranks=2) == [0, 0], (root / "output-0.txt").read_text()
    assert card(root, "ranks")["postprocess"] == card(root, "one")["postprocess"]


@pytest.mark.slow
def test_a_resumed_run_starts_from_its_last_checkpoint_and_searches_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    before, checkpoints = card(root, "one")["postprocess"], Path("runs/debug/one/checkpoints")
    assert (checkpoints / "best.ckpt").stat().st_mtime_ns <= (checkpoints / "last.ckpt").stat().st_mtime_ns
    again = [*words(root, [2, 3, 4]), "--run.id", "one", "--trainer.max_steps", "2", "--ckpt_path", "auto"]
    assert main(["fit", *again]) == 0
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 2
    assert before and card(root, "one")["postprocess"] == before


@pytest.mark.slow
def test_a_search_that_a_signal_ends_is_made_up_for_on_resuming(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    options = [*words(root, [2, 3, 4]), "--run.id", "stopped"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(f"{SEARCH}._segmented", lambda *unused: os.kill(os.getpid(), signal.SIGTERM))
        main(["fit", *options])
    assert ended.value.code == 128 + signal.SIGTERM and card(root, "stopped")["postprocess"] is None
    said = capsys.readouterr().out
    assert "module.postprocess=search was not finished: best.ckpt has no steps yet" in said
    command = next(line for line in said.splitlines() if line.startswith("  lightning fit"))
    assert main(shlex.split(command)[1:]) == 0
    found = card(root, "stopped")["postprocess"]
    assert found and found == card(root, "one")["postprocess"]
