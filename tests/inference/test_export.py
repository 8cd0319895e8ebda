"""A checkpoint as safetensors, ONNX and a program: the same logits, the same masks, and the errors a user can make."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import raum_lightning
from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import CheckpointError, ExportError
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.export import FORMATS, write
from raum_lightning.inference.exported import Program
from raum_lightning.inference.loading import TrainedNetwork, open_network
from raum_lightning.inference.trusted import build
from raum_lightning.models.accelerate import accelerate
from tests.helpers import DEBUG, ROOT
from tests.helpers.cases import write_brats
from tests.helpers.handmade import CARD

pytestmark = pytest.mark.slow

SIZES = {"img_size": [16, 8, 8], "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16}
SPEC = {
    "class_path": "raum_lightning.models.UNETR",
    "init_args": {
        "in_channels": 2,
        "out_channels": 3,
        "out_indices": [1, 2],
        "feature_size": 2,
        "dropout": 0.5,
        **SIZES,
    },
}
REGIONS = replace(
    CARD, modalities=("flair", "t2"), mode="regions", roi_size=(16, 8, 8), flips=4, scores={"val/dice": 1}
)
SUFFIXES = tuple(FORMATS.values())


def unetr() -> TrainedNetwork:
    torch.manual_seed(0)
    return TrainedNetwork(build(SPEC), REGIONS, SPEC)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, float, float]]:
    """`unetr()` in each format: the file, alone in its folder, and what `write` returned."""
    paths = {suffix: tmp_path_factory.mktemp(suffix[1:]) / f"model{suffix}" for suffix in SUFFIXES}
    return {suffix: (path, *write(unetr(), path)) for suffix, path in paths.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a few steps, and the folder of one of its cases."""
    here = tmp_path_factory.mktemp("export")
    known = presets()["brats2020"]
    cases = [write_brats(here / "cases", f"BraTS20_Training_00{n}", known, seed=n) for n in range(1, 5)]
    words = ["-c", DEBUG, "--data.root", "cases", "--trainer.logger", "false", "--run.id", "x", "--module.lr", "0.01"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert main(["fit", *words, "--trainer.max_steps", "8"]) == 0
    return here / "runs/debug/x/checkpoints/best.ckpt", cases[0]


@pytest.fixture(scope="module")
def exports(trained: tuple[Path, Path]) -> dict[str, Path]:
    """That checkpoint in each format, by its ending."""
    paths = {suffix: trained[0].with_name(f"model{suffix}") for suffix in SUFFIXES}
    for path in paths.values():
        assert main(["export", "--checkpoint", str(trained[0]), "--out", str(path)]) == 0
    return paths


def test_the_card_holds_the_scores(trained: tuple[Path, Path]) -> None:
    content = torch.load(trained[0], weights_only=True)
    (score,) = {state["current_score"].item() for state in content["callbacks"].values() if "current_score" in state}
    assert content["model_card"]["scores"]["val/dice_mean"] == pytest.approx(score)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_logits_and_model_card_survive(suffix: str, written: dict[str, tuple[Path, float, float]]) -> None:
    ours, (path, difference, largest) = unetr(), written[suffix]
    again = open_network(path, trust_code=True)
    assert again.card == REGIONS
    assert list(path.parent.iterdir()) == [path]
    for batch in (1, 2, 5):
        image = torch.randn(batch, 2, 16, 8, 8)
        with torch.inference_mode():
            expected = ours.network.eval()(image)
            torch.testing.assert_close(again.network.to("cpu").eval()(image), expected, rtol=0, atol=1e-4)
    assert difference <= 1e-4 and largest > 0.1


def test_a_program_of_the_modern_network_runs_in_any_precision_and_place(tmp_path: Path) -> None:
    """Its positions are made within, where `torch.export` notes device and type of the export."""
    torch.manual_seed(0)
    spec = {
        "class_path": "raum_lightning.models.UNETRV2",
        "init_args": {"in_channels": 2, "out_channels": 3, "out_indices": [1, 2], "feature_size": 8, **SIZES}
        | {"position": "rope", "embed_dim": 12, "qk_norm": True},
    }
    trained = TrainedNetwork(build(spec), REGIONS, spec)
    write(trained, tmp_path / "m.pt2")
    program = open_network(tmp_path / "m.pt2", trust_code=True).network
    image = torch.randn(1, 2, 16, 8, 8)
    with torch.no_grad():
        expected = trained.network.eval()(image)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(program(image), expected, rtol=0, atol=1e-4)
        # a device that only knows shapes stands for a GPU
        assert program.to("meta")(image.to("meta")).shape == (1, 3, 16, 8, 8)


def test_other_programs_read_the_card(written: dict[str, tuple[Path, float, float]]) -> None:
    model = onnx.load(written[".onnx"][0])
    (text,) = (entry.value for entry in model.metadata_props if entry.key == "model_card")
    assert [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [0, 2, 16, 8, 8]
    with safe_open(written[".safetensors"][0], "pt") as file:
        assert file.metadata()["model_card"] == text
        assert json.loads(file.metadata()["network"]) == SPEC
    values = json.loads(text)
    assert values["modalities"] == ["flair", "t2"] and values["roi_size"] == [16, 8, 8]
    assert values["regions"] == {"WT": ["NCR", "ED", "ET"], "TC": ["NCR", "ET"], "ET": ["ET"]}
    assert values["label_values"] == [0, 1, 2, 4] and values["scores"] == {"val/dice": 1}


class Doubled(nn.Module):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: Tensor) -> Tensor:
        return image * self.factor


def test_a_network_that_comes_out_different_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Program.forward
    monkeypatch.setattr(Program, "forward", lambda self, image: forward(self, image) + 0.5)
    with pytest.raises(ExportError, match=r"model\.pt2: its logits differ by 5\.0e-01 .* than the tolerance 0\.001"):
        write(TrainedNetwork(Doubled(), REGIONS), tmp_path / "model.pt2")
    assert not any(tmp_path.iterdir())


def test_logits_that_are_nan_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differ by nan"):
        write(TrainedNetwork(Doubled(float("nan")), REGIONS), tmp_path / "model.pt2")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_room_there_is_one_sentence_and_no_file(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(
        {
            "hyper_parameters": {"network": SPEC},
            "state_dict": {f"network.{name}": weight for name, weight in unetr().network.state_dict().items()},
            "model_card": REGIONS.to_plain(),
        },
        tmp_path / "model.ckpt",
    )
    out = tmp_path / f"out/model{suffix}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        code = main(["export", "--checkpoint", str(tmp_path / "model.ckpt"), "--out", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert (
        capsys.readouterr().err
        == f"error: {out}: could not be written (File too large; folder {out.parent.resolve()})\n"
    )
    assert not any(out.parent.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_masks_are_those_of_the_checkpoint(
    trained: tuple[Path, Path], exports: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    checkpoint, case = trained
    for option, path in (("--checkpoint", checkpoint), ("--model", exports[suffix])):
        words = ["--case", str(case), "--out", str(tmp_path / f"{option}.nii.gz"), "--device", "cpu", "--trust-code"]
        assert main(["segment", option, str(path), *words]) == 0
    masks = [nib.load(tmp_path / f"{option}.nii.gz") for option in ("--checkpoint", "--model")]
    values = [np.asarray(mask.dataobj) for mask in masks]
    assert values[0].any() and (values[0] != values[1]).mean() < 1e-4
    assert np.array_equal(masks[0].affine, masks[1].affine)


# a module that lightning or torchmetrics would be found among
WITHOUT = """
import sys
from raum_lightning.cli import main
assert main(sys.argv[1:]) == 0
found = {name.partition(".")[0] for name in sys.modules}
assert not found & {"lightning", "pytorch_lightning", "torchmetrics", "torchio", "wandb", "matplotlib"}, found
"""


def test_segmenting_imports_no_training_code(
    trained: tuple[Path, Path], exports: dict[str, Path], tmp_path: Path
) -> None:
    models = map(str, (trained[0], *exports.values()))
    words = ["segment", "--model", *models, "--case", str(trained[1]), "--out", str(tmp_path / "a.nii.gz")]
    command = [sys.executable, "-c", WITHOUT, *words, "--trust-code", "--device", "cpu"]
    process = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


def test_checkpoints_and_exports_make_an_ensemble(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, case = trained
    words = ["--format", "safetensors", "--out", str(tmp_path / "new/m.safetensors")]
    assert main(["export", "--checkpoint", str(checkpoint), *words]) == 0
    assert "m.safetensors: logits differ by at most 0.0e+00" in capsys.readouterr().out
    alone = raum_lightning.load(checkpoint, device="cpu").segment(case)
    both = raum_lightning.load([checkpoint, tmp_path / "new/m.safetensors"], device="cpu").segment(case)
    np.testing.assert_allclose(both.probabilities, alone.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "model.bin"], "model.bin: the name must end in *.safetensors, *.onnx or *.pt2"),
        (["--out", "model.onnx", "--format", "torch-export"], "model.onnx: the name must end in *.pt2"),
        (["--out", "model.onnx", "--checkpoint", "none.ckpt"], "none.ckpt: no such checkpoint"),
        (["--out", "theirs.safetensors"], "theirs.safetensors: exists and was not written by `raum export`"),
        (["--out", "theirs.onnx"], "theirs.onnx: exists and was not written by `raum export`"),
        (["--out", "empty.pt2"], "empty.pt2: exists and was not written by `raum export`"),
    ],
)
def test_mistakes_are_named(
    trained: tuple[Path, Path],
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("theirs.safetensors", "my weights"), ("theirs.onnx", "mine"), ("empty.pt2", "")):
        Path(name).write_text(content)
    assert main(["export", "--checkpoint", str(trained[0]), *words]) == 2
    assert said in capsys.readouterr().err


def test_files_that_are_no_exports_are_named(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"model{suffix}"
        with pytest.raises(ExportError, match="no such model"):
            open_network(path, trust_code=True)
        path.write_bytes(b"nothing")
        with pytest.raises(ExportError, match="cannot read it"):
            open_network(path, trust_code=True)


def test_a_program_is_opened_only_where_its_code_is_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.pt2").write_bytes(b"anything")
    write_brats(tmp_path, "case", presets()["brats2020"])
    words = ["--case", str(tmp_path / "case"), "--out", str(tmp_path / "a.nii.gz")]
    assert main(["segment", "--model", str(tmp_path / "model.pt2"), *words]) == 2
    assert "model.pt2: a .pt2 can run any code when it is opened; give --trust-code" in capsys.readouterr().err
    assert main(["segment", "--model", str(tmp_path / "model.pt2"), *words, "--trust-code"]) == 2
    assert "torch.export cannot read it" in capsys.readouterr().err


def test_a_missing_onnxruntime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr("raum_lightning.inference.exported.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnxruntime, which is not installed: pip install 'raum-lightning\[onnx\]'"):
        open_network(tmp_path / "model.onnx")


def test_a_program_is_of_the_plain_network(written: dict[str, tuple[Path, float, float]], tmp_path: Path) -> None:
    fast = unetr()
    accelerate(fast.network, "cpu")
    write(fast, tmp_path / "fast.pt2")
    plain, other = (torch.export.load(path).graph_module.code for path in (written[".pt2"][0], tmp_path / "fast.pt2"))
    assert plain == other


def test_a_network_that_returns_other_channels_than_its_card_says_is_named(tmp_path: Path) -> None:
    case = write_brats(tmp_path, "case", presets()["brats2020"])
    path = tmp_path / "model.safetensors"
    write(replace(unetr(), card=replace(REGIONS, mode="labels")), path)
    with pytest.raises(CheckpointError, match="the network returns 3 channels where its model card names 4"):
        raum_lightning.load(path).segment(case)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roi_size": [16, 8]}, "roi_size is (16, 8), a value of the wrong type"),
        ({"roi_size": [16, 8, 10**9]}, "roi_size="),
        ({"roi_size": [16, 8, 8.5]}, "roi_size is (16, 8, 8.5), a value of the wrong type"),
        ({"roi_size": torch.tensor([16, 8, 8])}, "roi_size is tensor"),
        ({"sw_batch_size": 10**9}, "sw_batch_size=1000000000"),
        ({"sw_batch_size": 2.5}, "sw_batch_size is 2.5"),
        ({"overlap": 1.0}, "overlap=1.0"),
        ({"spacing": [1, 1, 1e6]}, "spacing="),
        ({"regions": {"WT": []}}, "regions="),
        ({"regions": "WT"}, "regions is WT"),
        ({"scores": {"val/dice": "high"}}, "scores is"),
        ({"training_cases": 5}, "training_cases is 5"),
        ({"may_lack": "flair"}, "may_lack is flair"),
        ({"fill_absent": ["t2"]}, "fill_absent is ('t2',)"),
        ({"fill_absent": {"flair": "pd"}}, "fill_absent={'flair': 'pd'}"),
        ({"fill_absent": {"flair": "flair"}}, "fill_absent={'flair': 'flair'}"),
        ({"spacing": [1, 1, float("nan")]}, "spacing="),
        ({"orientation": "LLS"}, "orientation='LLS'"),
        ({"modalities": []}, "modalities=()"),
        ({"modalities": ["flair", "flair"]}, "modalities="),
        ({"modalities": ["\x1b[31m"]}, "modalities="),
        ({"label_values": [0, 1, 2]}, "label_values="),
        ({"label_values": [0, 1, 2, "4"]}, "label_values is (0, 1, 2, '4')"),
        ({"regions": {"WT": ["nothing"]}}, "regions="),
        ({"mode": "both"}, "mode='both'"),
        ({"flips": 3}, "flips=3"),
        ({"sw_batch_size": 0}, "sw_batch_size=0"),
        ({"spacing": None}, "the model card cannot be used"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(CheckpointError, match="the model card cannot be used") as raised:
        ModelCard.from_plain(REGIONS.to_plain() | changes)
    assert said in str(raised.value)
