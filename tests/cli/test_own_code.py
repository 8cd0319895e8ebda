"""A user's own classes in files beside the YAML, and lists where a class takes tensors."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import raum_lightning
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cli import main
from raum_lightning.errors import CheckpointError
from raum_lightning.runs.folder import RunFolder
from tests.helpers import DEBUG

OWN = """
import torch
from torch import nn
from raum_lightning import SegmentationModule


class Small(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(in_channels, width, 1), nn.ReLU(), nn.Conv3d(width, out_channels, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class Own(SegmentationModule):
    def __init__(self, network: nn.Module, *, factor: float = 1.0, **others) -> None:
        super().__init__(network, **others)
        self.factor = factor

    def training_step(self, batch, batch_idx):
        return self.factor * super().training_step(batch, batch_idx)
"""


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A YAML file beside the user's own code, in another folder than the current one."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / f"{name}.py").write_text(OWN)
    content = {
        "base": DEBUG,
        "module": {"roi_size": [32, 32, 32], "network": {"class_path": f"{name}.Small", "init_args": {"width": 6}}},
        "trainer": {"logger": False, "callbacks": [], "enable_progress_bar": False},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder / "own.yaml"
    sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_network_beside_the_yaml_is_trained_and_segments_where_its_file_is_trusted(
    experiment: Path, brats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = experiment.parent.glob("*.py")
    words = ["-c", str(experiment), "--data.root", str(brats), "--run.id", "one"]
    assert main(["fit", *words, "--module_class", f"{file.stem}.Own", "--module.factor", "0.5"]) == 0
    run = RunFolder(Path("runs/own/one"))
    config = yaml.safe_load(run.config.read_text())
    assert (config["module_class"], config["module"]["factor"]) == (f"{file.stem}.Own", 0.5)
    # its code is found again from the run's own file, in another process
    sys.modules.pop(file.stem)
    sys.path[:] = [folder for folder in sys.path if folder != str(experiment.parent)]
    own = ["-c", str(run.config), "--run.id", "one", "--ckpt_path", "auto", "--trainer.max_steps", "6"]
    assert main(["fit", *own]) == 0
    case = str(find_cases(brats)[0].folder)
    segment = ["segment", "--checkpoint", str(run.best), "--case", case, "--out", "mask.nii.gz"]
    assert main(segment) == 2 and "--trust" in capsys.readouterr().err
    assert main([*segment, "--trust", "none.py"]) == 2 and "no such file" in capsys.readouterr().err
    assert main([*segment, "--trust", str(file)]) == 0 and Path("mask.nii.gz").is_file()
    segmenter = raum_lightning.load(run.best, trust=[str(file)])
    assert repr(segmenter).startswith("<Segmenter: Small on cpu, 1 flip; <ModelCard: flair, t1ce, t2 to WT, TC, ET")
    assert repr(segmenter.segment(case)).startswith(f"<Segmentation of {find_cases(brats)[0].id}: WT ")


@pytest.mark.slow
def test_code_that_cannot_be_used_is_named(experiment: Path, brats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "-c", str(experiment), "--data.root", str(brats)]
    for given, said in (
        (["--module_class", "torch.nn.ReLU"], "torch.nn.ReLU is not a subclass of raum_lightning.SegmentationModule"),
        (["--module_class", "no_such.Own"], "no_such.Own cannot be imported (No module named 'no_such'); a file of"),
        (["--module.network", "no_such.Net"], "no_such.Net cannot be imported (No module named 'no_such'); a file of"),
    ):
        assert main([*words, *given]) == 2
        shown = capsys.readouterr().err
        assert said in shown and len(shown.splitlines()) == 1


@pytest.mark.slow
def test_class_weights_are_a_list_in_yaml(experiment: Path, brats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loss = "{class_path: torch.nn.CrossEntropyLoss, init_args: {weight: [1, 2, 2, 3]}}"
    words = ["-c", str(experiment), "--data.root", str(brats), "--run.id", "one"]
    assert main(["fit", *words, "--module.loss", loss]) == 0
    run = RunFolder(Path("runs/own/one"))
    assert yaml.safe_load(run.config.read_text())["module"]["loss"]["init_args"]["weight"] == [1, 2, 2, 3]
    (file,) = experiment.parent.glob("*.py")
    with pytest.raises(CheckpointError, match="--trust torch"):
        raum_lightning.SegmentationModule.load_from_checkpoint(run.best, trust=[str(file)])
    module = raum_lightning.SegmentationModule.load_from_checkpoint(run.best, trust=[str(file), "torch.nn"])
    assert torch.equal(module.loss.weight, torch.tensor([1.0, 2.0, 2.0, 3.0]))
    assert main(["fit", *words[:-1], "two", "--module.loss", loss.replace(", 3]", "]")]) == 2
    assert "module.loss CrossEntropyLoss raises" in capsys.readouterr().err


def test_what_a_notebook_shows_is_short(brats: Path) -> None:
    assert dir(raum_lightning) == sorted(raum_lightning.__all__)
    case = find_cases(brats)[0]
    folder = case.folder
    assert repr(case) == f"<Case {case.id}: flair, t1, t1ce, t2, mask, brats2020, in {folder}>"
    assert repr(case.dataset) == "<DataSet brats2020: flair, t1, t1ce, t2; 1 NCR, 2 ED, 4 ET>"
    assert repr(RunFolder(Path("runs/a/b"))) == "<RunFolder runs/a/b>"
    data = raum_lightning.BratsDataModule(brats, modalities=["flair"])
    assert repr(data) == f"<BratsDataModule {brats}: flair; 0 train, 0 val, 0 test>"
