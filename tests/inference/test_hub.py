"""`hf://` addresses, by a folder that stands for the hub's cache: no server is asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import CheckpointError
from raum_lightning.inference import hub
from raum_lightning.inference.export import write
from raum_lightning.inference.hub import local
from raum_lightning.inference.weights import read_weights
from tests.helpers import ROOT
from tests.helpers.cases import write_brats
from tests.inference.test_export import unetr

COMMIT = "0123456789" * 4
UNETR = ["--module.network", "raum_lightning.models.UNETR"]


def snapshot(cache: Path, repository: str) -> Path:
    """The folder of a repository's files in a cache of the hub."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    files = folder / "snapshots" / COMMIT
    files.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    return files


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of this process, which is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_other_paths_stay_as_they_are() -> None:
    for path in ("a/b.ckpt", Path("a/b.ckpt"), "/hf:/org/name", "a/hf:/org/name", ""):
        assert local(path) == Path(path)


@pytest.mark.slow
def test_a_network_segments_from_its_address(cache: Path, tmp_path: Path) -> None:
    file = snapshot(cache, "org/tiny") / "model.safetensors"
    write(unetr(), file)
    case = write_brats(tmp_path, "case", presets()["brats2020"])
    masks = []
    for number, address in enumerate(("hf://org/tiny", "hf://org/tiny/model.safetensors", str(file))):
        out = tmp_path / f"{number}.nii.gz"
        words = ["--case", str(case), "--out", str(out), "--device", "cpu", "--flips", "1"]
        assert main(["segment", "--checkpoint", address, *words]) == 0
        masks.append(out.read_bytes())
    assert masks[0] == masks[1] == masks[2]
    # as module.init_from has it
    assert read_weights(Path("hf://org/tiny")).tensors.keys() == unetr().network.state_dict().keys()


@pytest.mark.slow
def test_the_environment_names_the_cache(tmp_path: Path) -> None:
    files = snapshot(tmp_path, "org/name")
    (files / "sub").mkdir()
    (files / "sub/a.safetensors").touch()
    told = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    code = "from raum_lightning.inference.hub import local; print(local('hf://org/name/sub/a.safetensors'))"
    ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, **told}, capture_output=True, text=True)
    assert ran.stdout.strip() == str(files / "sub/a.safetensors"), ran.stderr


@pytest.mark.slow
def test_one_sentence_for_what_cannot_be_taken(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snapshot(cache, "org/none") / "model.ckpt").touch()
    files = snapshot(cache, "org/two")
    (files / "a.safetensors").touch()
    (files / "b.safetensors").touch()
    for address, said in (
        ("hf://org", "hf://org: is not a valid address; give hf://organisation/name"),
        ("hf://org/none/model.ckpt", r"only \*\.safetensors are taken from the hub, as opening another kind"),
        ("hf://org/none/model.pt2", "can run code"),
        ("hf://org/none", r"hf://org/none: should hold one \*\.safetensors and holds none"),
        ("hf://org/two", r"holds 2 of them \(a\.safetensors, b\.safetensors\); add the name of one"),
        ("hf://org/absent", "hf://org/absent: cannot be fetched"),
        ("hf://org/two/c.safetensors", "hf://org/two/c.safetensors: cannot be fetched"),
        ("hf://../etc/a.safetensors", "cannot be fetched"),
    ):
        with pytest.raises(CheckpointError, match=said):
            local(address)
    words = ["--case", str(tmp_path), "--out", str(tmp_path / "mask.nii.gz")]
    assert main(["segment", "--checkpoint", "hf://org/none/model.ckpt", *words]) == 2
    assert capsys.readouterr().err.startswith("error: hf://org/none/model.ckpt: only *.safetensors are taken")
    assert main(["predict", *UNETR, "--data.root", "cases", "--ckpt_path", "hf://org/none"]) == 2
    assert "error: hf://org/none: should hold one *.safetensors" in capsys.readouterr().err
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"not installed: pip install 'raum-lightning\[hub\]'"):
        local("hf://org/two/a.safetensors")
