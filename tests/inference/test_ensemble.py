"""`raum ensemble`: several networks in one file, one of them in memory at a time."""

import csv
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import raum_lightning
from raum_lightning.cli import main
from raum_lightning.errors import CheckpointError, ConfigError, ExportError
from raum_lightning.inference import ensemble
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.ensemble import write_ensemble
from raum_lightning.inference.exported import read_safetensors
from raum_lightning.inference.loading import filled
from raum_lightning.postprocess import Postprocess
from tests.helpers.handmade import TRUST, fit_handmade

STEPS = Postprocess(largest={"WT": 1}, min_mm3={"ET": 400})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_handmade(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture
def members(checkpoint: Path, tmp_path: Path) -> list[Path]:
    """Three checkpoints, each with other weights."""
    return [changed(checkpoint, tmp_path / f"{number}.ckpt", scale=1 - 0.1 * number) for number in range(3)]


def changed(checkpoint: Path, to: Path, *, scale: float = 1, **card: object) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"] = {name: weight * scale for name, weight in content["state_dict"].items()}
    content["model_card"] |= card
    torch.save(content, to)
    return to


def test_the_file_segments_as_its_members_do_together(checkpoint: Path, members: list[Path], tmp_path: Path) -> None:
    case = checkpoint.parents[3] / "phantom-cases/BraTS20_Training_002"
    out = tmp_path / "e.safetensors"
    steps = tmp_path / "post.yaml"
    steps.write_text(STEPS.to_yaml())
    assert main(["ensemble", *map(str, members), "--out", str(out), "--trust", TRUST]) == 0
    joined = raum_lightning.load(out, trust=TRUST).segment(case)
    together = raum_lightning.load(members, trust=TRUST).segment(case)
    assert np.array_equal(joined.probabilities, together.probabilities) and joined.labels.any()
    words = ["--out", str(out), "--trust", TRUST, "--postprocess", str(steps)]
    assert main(["ensemble", *map(str, members), *words]) == 0
    mask = tmp_path / "mask.nii.gz"
    assert main(["segment", "--model", str(out), "--trust", TRUST, "--case", str(case), "--out", str(mask)]) == 0
    cleaned = raum_lightning.load(members, trust=TRUST, postprocess=steps).segment(case)
    assert np.array_equal(np.asarray(nib.load(mask).dataobj) > 0, cleaned.labels > 0)
    assert not np.array_equal(cleaned.labels, together.labels)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many networks are in memory each time that a member of an ensemble is made."""
    made: list[weakref.ref[nn.Module]] = []
    counts: list[int] = []

    def watched(*given: Any) -> nn.Module:
        gc.collect()
        counts.append(sum(one() is not None for one in made))
        network = filled(*given)
        made.append(weakref.ref(network))
        return network

    monkeypatch.setattr(ensemble, "filled", watched)
    gc.freeze()  # what was there before need not be looked at each time
    yield counts
    gc.unfreeze()


def test_predict_and_test_average_the_members(
    checkpoint: Path,
    members: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    beside: list[int],
) -> None:
    monkeypatch.chdir(checkpoint.parents[4])
    monkeypatch.setenv("COLUMNS", "200")
    out, masks = tmp_path / "e.safetensors", tmp_path / "masks"
    write_ensemble(members, out, trust=[TRUST], postprocess=STEPS)
    cases = str(checkpoint.parents[3] / "phantom-cases")
    assert main(["segment", "--model", str(out), "--trust", TRUST, "--cases", cases, "--out", str(masks)]) == 0
    words = ["-c", str(checkpoint.parents[1] / "config.yaml"), "--trainer.logger", "false", "--ckpt_path", str(out)]
    beside.clear()
    predict = ["predict", *words, "--data.predict_root", cases, "--out", str(tmp_path / "predicted")]
    assert main(predict) == 0
    # each member when the file is opened and for each of five cases, and never beside another
    assert beside == [0] * 18
    said = capsys.readouterr().out
    assert f"cleaned: {STEPS} (--module.postprocess none" in said
    for name in (f"BraTS20_Training_{number:03d}.nii.gz" for number in range(1, 6)):
        ours, theirs = (np.asarray(nib.load(folder / name).dataobj) for folder in (tmp_path / "predicted", masks))
        assert ours.any() and np.array_equal(ours, theirs)
    assert main(predict) == 0 and "5 of 5 cases are segmented already" in capsys.readouterr().out
    write_ensemble(members[:2], out, trust=[TRUST], postprocess=STEPS)
    assert main(predict) == 0 and "5 in" in capsys.readouterr().out  # of other weights
    assert main(["test", *words, "--out", str(tmp_path / "scores")]) == 0
    assert "cleaned" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "scores/cases.csv").read_text().splitlines()))
    assert len(rows) == 2 and any(row["dice_wt"] != row["cleaned/dice_wt"] for row in rows)


def test_what_an_ensemble_cannot_do_is_one_sentence(
    checkpoint: Path,
    members: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(checkpoint.parents[4])
    out = tmp_path / "e.safetensors"
    write_ensemble(members[:2], out, trust=[TRUST])
    words = ["-c", str(checkpoint.parents[1] / "config.yaml"), "--trainer.logger", "false"]
    for verb, more, said in (
        ("validate", ["--ckpt_path", out], "is an ensemble, and validate is for one network"),
        ("fit", ["--ckpt_path", out], "holds no state of a training; --module.init_from"),
        ("fit", ["--module.init_from", out, "--run.id", "from"], "holds an ensemble; give the checkpoint of one"),
        ("test", ["--ckpt_path", out, "--module.compile", "true"], "cannot be run with module.compile"),
        ("test", ["--ckpt_path", out, "--data.modalities", "[t2, t1ce, flair]"], "was trained on flair, t1ce, t2"),
    ):
        assert main([verb, *words, *map(str, more)]) == 2
        assert f"{out}" in (error := capsys.readouterr().err) and said in error
    (tmp_path / "a.onnx").touch()
    assert main(["test", *words, "--ckpt_path", str(tmp_path / "a.onnx")]) == 2
    assert "is an exported program, not a checkpoint; use `raum segment --model`" in capsys.readouterr().err


def test_an_export_of_one_network_is_scored_as_its_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parents[4])
    out, scores = tmp_path / "one.safetensors", []
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), "--trust", TRUST]) == 0
    words = ["-c", str(checkpoint.parents[1] / "config.yaml"), "--trainer.logger", "false"]
    for path in (checkpoint, out):
        folder = tmp_path / path.stem
        for verb in ("test", "validate"):
            assert main([verb, *words, "--ckpt_path", str(path), "--out", str(folder)]) == 0
            scores.append((folder / "cases.csv").read_text())
    assert scores[:2] == scores[2:] and scores[0] != scores[1]


def test_one_network_is_in_memory(checkpoint: Path, members: list[Path], tmp_path: Path, beside: list[int]) -> None:
    write_ensemble(members, tmp_path / "e.safetensors", trust=[TRUST])
    segmenter = raum_lightning.load(tmp_path / "e.safetensors", trust=TRUST)
    assert not list(segmenter.networks[0].parameters())
    segmenter.segment(checkpoint.parents[3] / "phantom-cases/BraTS20_Training_001")
    # each member when the file is opened and when the case is segmented, and never beside another
    assert beside == [0] * 6


def test_other_programs_read_the_file(checkpoint: Path, tmp_path: Path) -> None:
    members = [checkpoint, changed(checkpoint, tmp_path / "half.ckpt", scale=0.5)]
    card = write_ensemble(members, tmp_path / "e.safetensors", trust=[TRUST], postprocess=STEPS)
    tensors = load_file(tmp_path / "e.safetensors")
    own = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, weight in own.items():
        short = name.removeprefix("network.")
        assert torch.equal(tensors[f"0.{short}"], weight) and torch.equal(tensors[f"1.{short}"], weight * 0.5)
    assert len(tensors) == 2 * len(own)
    with safe_open(tmp_path / "e.safetensors", framework="pt") as file:
        assert ModelCard.from_json(file.metadata()["model_card"]) == card
    assert card.postprocess == {"min_mm3": {"ET": 400}, "largest": {"WT": 1}}
    with pytest.raises(ExportError, match="holds an ensemble, which `raum segment` takes"):
        read_safetensors(tmp_path / "e.safetensors")


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"modalities": ["t2", "t1ce", "flair"]}, "modalities t2, t1ce, flair differs from flair, t1ce, t2"),
        ({"classes": ["background", "NCR", "ED", "RC"], "regions": {"WT": ["NCR"]}}, "classes background, NCR, ED, RC"),
        ({"dataset": "brats2021"}, "dataset brats2021 differs from brats2020"),
    ],
)
def test_members_of_another_kind_are_refused(
    checkpoint: Path, tmp_path: Path, card: dict[str, object], said: str
) -> None:
    other = changed(checkpoint, tmp_path / "other.ckpt", **card)
    with pytest.raises(CheckpointError, match=said):
        write_ensemble([checkpoint, other], tmp_path / "e.safetensors", trust=[TRUST])
    assert not (tmp_path / "e.safetensors").exists()


def test_what_is_no_ensemble(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "e.safetensors")
    words = ["--out", out, "--trust", TRUST]
    assert main(["ensemble", str(checkpoint), *words]) == 2
    assert "takes two or more networks, and 1 is given" in capsys.readouterr().err
    assert main(["ensemble", str(checkpoint), str(checkpoint), "--out", "e.ckpt"]) == 2
    assert "e.ckpt: the name must end in .safetensors" in capsys.readouterr().err
    member = tmp_path / "one.safetensors"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(member), "--trust", TRUST]) == 0
    before = member.read_bytes()
    assert main(["ensemble", str(checkpoint), str(member), "--out", str(member), "--trust", TRUST]) == 2
    assert "one.safetensors: is a file that is read, which it would replace" in capsys.readouterr().err
    assert member.read_bytes() == before
    other = changed(checkpoint, tmp_path / "other.ckpt", postprocess=STEPS.plain)
    with pytest.raises(ConfigError, match="has another post-processing than"):
        write_ensemble([checkpoint, other], tmp_path / "e.safetensors", trust=[TRUST])
    # folders of runs stand for their best checkpoint
    run = str(checkpoint.parents[1])
    assert main(["ensemble", run, run, *words]) == 0
    assert f"{out}: 2 networks" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="compile=True needs networks that stay in memory"):
        raum_lightning.load(out, trust=TRUST, compile=True)
