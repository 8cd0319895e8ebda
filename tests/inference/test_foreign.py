"""MONAI's UNETR to a file of ours and back."""

from pathlib import Path
from typing import Any

import monai
import pytest
import torch
from monai.networks import nets

from raum_lightning import load
from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.inference.weights import start_from
from raum_lightning.models import UNETR
from tests.helpers.cases import write_brats
from tests.helpers.networks import small

CARD = ["--modalities", "flair", "t1ce", "t2", "--dataset", "brats2020"]


def theirs(channels: int = 3, **changes: Any) -> nets.UNETR:
    torch.manual_seed(0)
    return nets.UNETR(channels, 4, 32, feature_size=4, hidden_size=24, mlp_dim=48, num_heads=2, **changes).eval()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": theirs().state_dict()}, "monai.pt")
    return tmp_path


@pytest.mark.slow
def test_to_ours_and_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--from", "monai", "monai.pt", "--out", "a.safetensors", "--heads", "2", *CARD]) == 0
    assert "a.safetensors: UNETR, 3 to 4 channels, 32 x 32 x 32, 0." in capsys.readouterr().out
    segmenter = load("a.safetensors")
    image = torch.randn(1, 3, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(segmenter.networks[0](image), theirs()(image), rtol=1e-4, atol=1e-4)
    write_brats(here, "BraTS20_Training_001", presets()["brats2020"])
    assert main(["segment", "--model", "a.safetensors", "--case", "BraTS20_Training_001", "--out", "m.nii.gz"]) == 0
    assert main(["import", "--to", "monai", "a.safetensors", "--out", "back.pt"]) == 0
    back = torch.load("back.pt", weights_only=True)
    # the call that is printed makes the network that the tensors are of
    call = capsys.readouterr().out.splitlines()[-1].partition("a state dict for monai.")[2]
    other = eval(f"made.{call}", {"made": monai})
    assert other.vit.blocks[0].attn.num_heads == 2
    assert [type(part) for part in other.modules()] == [type(part) for part in theirs().modules()]
    other.load_state_dict(back, strict=True)
    for name, weight in theirs().state_dict().items():
        assert torch.equal(back[name], weight), name


@pytest.mark.parametrize("norm", ["instance", ("group", {"num_groups": 4})])
def test_a_norm_that_no_tensor_tells_is_said(here: Path, capsys: pytest.CaptureFixture[str], norm: Any) -> None:
    torch.save(theirs(norm_name=norm).state_dict(), "normed.pt")
    assert main(["import", "--from", "monai", "normed.pt", "--out", "a.safetensors", "--heads", "2"]) == 0
    said = "norm: instance_affine is assumed; a network trained with group norm has the same tensors"
    assert (said in capsys.readouterr().out) == (norm != "instance")


def test_without_a_card_it_is_to_start_from(here: Path) -> None:
    torch.save(theirs(1).state_dict(), "one.pt")
    assert main(["import", "--from", "monai", "one.pt", "--out", "one.safetensors", "--heads", "2"]) == 0
    sizes = {"embed_dim": 24, "mlp_dim": 48, "num_heads": 2, "out_indices": (4, 7, 10, 12), "feature_size": 4}
    network = UNETR(in_channels=1, out_channels=4, img_size=32, **sizes)
    table, _ = start_from(Path("one.safetensors"), network, modalities=("flair",), outputs=("a", "b", "c", "d"))
    assert not table.new and not table.left_over


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--from", "timm", "monai.pt", "--out", "a.safetensors"],
            "'timm' is none of the libraries that are known: monai",
        ),
        (["--from", "monai", "monai.pt", "--out", "a.pt"], "a.pt: the name must end in .safetensors"),
        (["--from", "monai", "monai.pt", "--out", "a.safetensors"], "no tensor tells the heads of a network of 24"),
        (["--from", "monai", "none.pt", "--out", "a.safetensors"], "none.pt: no such"),
        (["--from", "monai", "small.pt", "--out", "a.safetensors"], "small.pt: is no state dict of MONAI's UNETR"),
        (["--from", "monai", "monai.pt", "--out", "a.safetensors", "--heads", "2", *CARD[:2]], "names 1 of 3 channels"),
        (
            ["--from", "monai", "broken.pt", "--out", "a.safetensors", "--heads", "2"],
            "broken.pt: its weight head.weight holds NaN",
        ),
        (["--to", "monai", "ours.safetensors", "--out", "a.pt"], "ours.safetensors: no such model"),
        (["--from", "monai", "monai.pt", "--out", "there.safetensors"], "there.safetensors: exists"),
        (
            ["--from", "monai", "monai.pt", "--out", "a.safetensors", "--heads", "2", "--img-size", "48", "32", "32"],
            "monai.pt: holds positions of 8 patches of 16^3 voxels, and --img-size 48 32 32 is 12",
        ),
        (
            ["--from", "monai", "monai.pt", "--out", "a.safetensors", "--heads", "2", "--mode", "regions"],
            "--mode says what the outputs are of a file to segment with",
        ),
        (
            ["--to", "monai", "there.safetensors", "--out", "a.pt", "--img-size", "32", "32", "32", *CARD],
            "--img-size, --modalities, --dataset: only with --from",
        ),
    ],
)
def test_mistakes_are_named(here: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.safetensors").touch()
    torch.save({"vit.norm.weight": torch.ones(3)}, "small.pt")
    broken = theirs().state_dict()
    broken["out.conv.conv.weight"][0] = torch.nan
    torch.save(broken, "broken.pt")
    assert main(["import", *words]) == 2
    assert said in capsys.readouterr().err and not Path("a.safetensors").exists()


def test_a_network_of_monais_that_was_trained_here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raum_lightning.inference import foreign
    from raum_lightning.inference.loading import TrainedNetwork
    from tests.helpers import handmade

    monkeypatch.setattr(foreign, "open_network", lambda path: TrainedNetwork(theirs(), handmade.CARD))
    assert main(["import", "--to", "monai", "baseline.ckpt", "--out", "a.pt"]) == 0
    state = torch.load("a.pt", weights_only=True)
    assert state.keys() == theirs().state_dict().keys()
    assert all(torch.equal(state[name], weight) for name, weight in theirs().state_dict().items())


def test_skips_from_other_blocks_are_not_monais(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from raum_lightning.inference import foreign
    from raum_lightning.inference.loading import TrainedNetwork
    from tests.helpers import handmade

    monkeypatch.setattr(foreign, "open_network", lambda path: TrainedNetwork(small(), handmade.CARD))
    assert main(["import", "--to", "monai", "ours.ckpt", "--out", "a.pt"]) == 2
    assert "its decoder takes blocks [1, 2, 4] and MONAI's [4, 7, 10, 12]" in capsys.readouterr().err
