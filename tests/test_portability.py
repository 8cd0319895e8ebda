"""What Windows, Apple and GPUs without bf16 lack or ask for, as far as it can be seen on another machine."""

import os
import subprocess
import sys
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch

from raum_lightning.cli import main
from raum_lightning.errors import ConfigError
from raum_lightning.inference.segmenter import Segmenter
from raum_lightning.losses import DiceCELoss
from raum_lightning.metrics import evaluation
from tests.helpers import DEBUG, ROOT
from tests.helpers.cases import write_brats_cases
from tests.helpers.handmade import CARD, Handmade

# torch and Lightning are imported before: they know Windows by other signs
WITHOUT = """
import multiprocessing, os, shutil, signal, sys
import torch, torchio, torchmetrics, wandb, lightning.pytorch, lightning.pytorch.cli, scipy.ndimage, nibabel, matplotlib

def refuse(*args, **kwargs):
    raise OSError(1314, "a required privilege is not held by the client")

true_open = os.open
def no_folders(path, *args, **kwargs):
    if os.path.isdir(path):
        raise PermissionError(13, "permission denied", str(path))
    return true_open(path, *args, **kwargs)

for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM", "sigwaitinfo", "pthread_sigmask"):
    delattr(signal, name)
for name in ("fork", "forkpty", "sched_getaffinity", "sysconf", "getuid", "geteuid", "mkfifo", "statvfs"):
    delattr(os, name)
of_windows = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGSEGV, signal.SIGTERM}
signal.valid_signals = lambda: of_windows
os.symlink, os.open = refuse, no_folders
shutil._use_fd_functions = False
lightning.pytorch.trainer.connectors.signal_connector._IS_WINDOWS = True
multiprocessing.get_all_start_methods = lambda: ["spawn"]
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None

from pkgutil import walk_packages
from importlib import import_module
import raum_lightning
for found in walk_packages(raum_lightning.__path__, "raum_lightning."):
    # experiments/ has no modules; __main__ runs
    if found.name != "raum_lightning.__main__":
        import_module(found.name)
from raum_lightning.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def without_posix(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    command = [sys.executable, "-c", WITHOUT, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_training_needs_no_signals_links_forks_or_modules_of_posix(tmp_path: Path) -> None:
    write_brats_cases(tmp_path / "cases", 5)
    words = ["fit", "-c", DEBUG, "--data.root", "cases", "--data.test_fraction", "0.2", "--trainer.max_steps", "2"]
    small = [
        "--trainer.logger",
        "raum_lightning.loggers.CSVLogger",
        "--data.folds",
        "2",
        "--module.postprocess",
        "null",
    ]
    done = without_posix(tmp_path, *words, *small, "--run.id", "one", "--run.keep", "2", "--trainer.callbacks", "[]")
    assert done.returncode == 0, done.stdout + done.stderr
    saved = tmp_path / "runs/debug/one/checkpoints"
    best = saved / "best.ckpt"
    assert best.is_file() and not best.is_symlink()
    assert any(best.read_bytes() == other.read_bytes() for other in saved.glob("best-*.ckpt"))


def test_masks_are_scored_by_spawned_processes_where_there_is_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "get_all_start_methods", lambda: ["spawn"])
    asked: list[str] = []

    def context(method: str) -> BaseContext:
        asked.append(method)
        return get_context(method)

    monkeypatch.setattr(evaluation, "get_context", context)
    with evaluation.mapping(2):  # whose processes start with their first task
        assert asked == ["spawn"]


def test_plan_says_where_memory_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from raum_lightning.cli import trial

    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(ConfigError, match="peak of memory"):
        trial._peak_of_process()


@pytest.mark.slow
def test_an_apple_gpu_that_is_not_there_is_named(
    brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match=r"device=mps: this machine has no Apple GPU .*; try cpu"):
        Segmenter([Handmade()], CARD, device="mps")
    words = ["-c", DEBUG, "--data.root", str(brats), "--trainer.accelerator", "mps"]
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *words]) == 2
    assert "mps" in capsys.readouterr().err.lower()


@pytest.mark.parametrize("mode", ["labels", "regions"])
def test_the_loss_of_float16_logits_is_that_of_float32(mode: str) -> None:
    """Logits of 300 are exact in float16; their exponentials, and sums over 13,824 voxels, are beyond its 65504."""
    torch.manual_seed(0)
    half = (100 * torch.randn(2, 4 if mode == "labels" else 3, 24, 24, 24)).clamp(-300, 300).half()
    labels = torch.randint(4, (2, 24, 24, 24), dtype=torch.uint8)
    single = half.float().requires_grad_()
    half.requires_grad_()
    scale = 2.0**16  # where Lightning's gradient scaler begins
    with torch.autocast("cpu", torch.float16):
        loss = DiceCELoss(mode=mode)(half, labels)
    assert loss.dtype == torch.float32 and loss.isfinite()
    (loss * scale).backward()
    expected = DiceCELoss(mode=mode)(single, labels)
    (expected * scale).backward()
    assert torch.equal(loss, expected)
    assert half.grad is not None and half.grad.dtype == torch.float16 and single.grad is not None
    assert torch.equal(half.grad, single.grad.half()) and half.grad.isfinite().all() and half.grad.any()


def test_segmenting_in_float16_gives_nearly_the_mask_of_float32(tmp_path: Path) -> None:
    case = write_brats_cases(tmp_path, 1) / "BraTS20_Training_001"
    masks = [
        Segmenter([Handmade()], CARD, device="cpu", precision=precision).segment(case).labels
        for precision in ("32-true", "16-mixed")
    ]
    assert masks[0].any() and (masks[0] == masks[1]).mean() > 0.999


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_in_float16_steps_and_stays_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 6)
    words = ["-c", DEBUG, "--data.root", "cases", "--trainer.accelerator", "gpu", "--trainer.precision", "16-mixed"]
    assert main(["fit", *words, "--trainer.logger", "false", "--run.id", "one"]) == 0
    saved = torch.load(tmp_path / "runs/debug/one/checkpoints/last.ckpt", weights_only=False)
    assert all(value.isfinite().all() for value in saved["state_dict"].values() if value.is_floating_point())
