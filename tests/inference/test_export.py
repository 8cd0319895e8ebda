"""A checkpoint as ONNX and as a program: the same logits, the same masks, and the errors a user can make."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import raum_lightning
from raum_lightning import UNETR
from raum_lightning.cli import main
from raum_lightning.errors import ExportError
from raum_lightning.inference.export import About, _Program, read, write
from raum_lightning.labels import EDITIONS
from raum_lightning.models.cpu import accelerate
from tests.helpers import DEBUG
from tests.helpers.cases import write_brats

CASE = {"modalities": ["flair", "t2"], "edition": "brats2023", "orientation": "LPS", "spacing": [1.0, 1.0, 1.5]}
ABOUT = About(CASE, "regions", 4, {"roi_size": (16, 8, 8), "overlap": 0.25, "batch_size": 2})


def network() -> UNETR:
    torch.manual_seed(0)
    sizes = {"img_size": (16, 8, 8), "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16}
    return UNETR(in_channels=2, out_channels=3, out_indices=(1, 2), feature_size=2, dropout=0.5, **sizes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a few steps, and the folder of one of its cases."""
    here = tmp_path_factory.mktemp("export")
    cases = [write_brats(here / "cases", f"BraTS20_Training_00{n}", EDITIONS["brats2020"], seed=n) for n in range(1, 5)]
    words = ["-c", DEBUG, "--data.root", "cases", "--trainer.logger", "false", "--run.id", "x", "--module.lr", "0.01"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert main(["fit", *words, "--trainer.max_steps", "8"]) == 0
    return here / "runs/debug/x/checkpoints/best.ckpt", cases[0]


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_logits_and_what_is_said_beside_them_survive(suffix: str, tmp_path: Path) -> None:
    ours, path = network(), tmp_path / f"model{suffix}"
    difference, largest = write(ours, ABOUT, path, channels=2)
    again = read(path)
    assert again.about == ABOUT
    assert (again.mode, again.flips, again.windows) == ("regions", 4, ABOUT.windows)
    assert list(tmp_path.iterdir()) == [path]
    assert not any(parameter.requires_grad for parameter in again.network.parameters())
    for batch in (1, 2, 5):
        image = torch.randn(batch, 2, 16, 8, 8)
        with torch.inference_mode():
            expected = ours.eval()(image)
            torch.testing.assert_close(again.network.to("cpu").eval()(image), expected, rtol=0, atol=1e-4)
    assert difference <= 1e-4 and largest > 0.1
    if suffix == ".onnx":
        model = onnx.load(path)
        properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props if "raum." in entry.key}
        assert properties["raum.case"] == CASE
        assert properties["raum.mode"] == "regions"
        assert properties["raum.windows"] == {"roi_size": [16, 8, 8], "overlap": 0.25, "batch_size": 2}
        assert [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [0, 2, 16, 8, 8]


class Doubled(nn.Module):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: Tensor) -> Tensor:
        return image * self.factor


def test_a_network_that_comes_out_different_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = _Program.forward
    monkeypatch.setattr(_Program, "forward", lambda self, image: forward(self, image) + 0.5)
    with pytest.raises(ExportError, match=r"model\.pt2: its logits differ by 5\.0e-01 .* than the tolerance 0\.001"):
        write(Doubled(), ABOUT, tmp_path / "model.pt2", channels=2)
    assert not any(tmp_path.iterdir())


def test_logits_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differ by nan"):
        write(Doubled(float("nan")), ABOUT, tmp_path / "model.pt2", channels=2)


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_masks_are_those_of_the_checkpoint(
    trained: tuple[Path, Path], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, case = trained
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / name)]) == 0
    assert "logits differ by at most" in capsys.readouterr().out
    for option, model in (("--checkpoint", checkpoint), ("--model", tmp_path / name)):
        words = ["--case", str(case), "--out", str(tmp_path / f"{option}.nii.gz"), "--device", "cpu"]
        assert main(["segment", option, str(model), *words]) == 0
    masks = [nib.load(tmp_path / f"{option}.nii.gz") for option in ("--checkpoint", "--model")]
    values = [np.asarray(mask.dataobj) for mask in masks]
    assert values[0].any() and (values[0] != values[1]).mean() < 1e-4
    assert np.array_equal(masks[0].affine, masks[1].affine)


def test_checkpoints_and_exports_make_an_ensemble(trained: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, case = trained
    words = ["--format", "torch-export", "--out", str(tmp_path / "new/m.pt2")]
    assert main(["export", "--checkpoint", str(checkpoint), *words]) == 0
    alone = raum_lightning.load(checkpoint, device="cpu").segment(case)
    both = raum_lightning.load([checkpoint, tmp_path / "new/m.pt2"], device="cpu").segment(case)
    np.testing.assert_allclose(both.probabilities, alone.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "model.bin"], "model.bin: let the name end in *.onnx or *.pt2"),
        (["--out", "model.onnx", "--format", "torch-export"], "model.onnx: let the name end in *.pt2"),
        (["--out", "model.onnx", "--checkpoint", "none.ckpt"], "none.ckpt: no such checkpoint"),
    ],
)
def test_mistakes_are_named(
    trained: tuple[Path, Path], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--checkpoint", str(trained[0]), *words]) == 2
    assert said in capsys.readouterr().err


def test_files_that_are_no_exports_are_named(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.pt2"):
        path = tmp_path / name
        with pytest.raises(ExportError, match="no such model"):
            read(path)
        path.write_bytes(b"nothing")
        with pytest.raises(ExportError, match="cannot read it"):
            read(path)


def test_a_missing_onnxruntime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr("raum_lightning.inference.export.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnxruntime, not installed: pip install 'raum-lightning\[onnx\]'"):
        read(tmp_path / "model.onnx")


def test_a_program_is_of_the_plain_network(tmp_path: Path) -> None:
    plain, fast = network(), network()
    accelerate(fast)
    programs = []
    for number, one in enumerate((plain, fast)):
        write(one, ABOUT, tmp_path / f"{number}.pt2", channels=2)
        programs.append(torch.export.load(tmp_path / f"{number}.pt2").graph_module.code)
    assert programs[0] == programs[1]
