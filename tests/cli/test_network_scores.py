"""`raum subsets`, `raum ablate`, `--data.without` and missing modalities, on networks trained with dropout."""

import csv
import json
import math
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from raum_lightning import load
from raum_lightning.cli import main
from raum_lightning.cli.network_scores import Row, find_scoring, save
from raum_lightning.datasets import presets
from raum_lightning.errors import ConfigError
from raum_lightning.inference.segmenter import Segmenter
from raum_lightning.labels import ED, ET
from tests.helpers import DEBUG
from tests.helpers.cases import write_brats
from tests.helpers.handmade import TRUST, fit_handmade

DROPOUT = ["--data.modality_dropout", "{flair: 0.5, t2: 0.5}", "--data.fill_absent", "{flair: t2}"]
DROPOUT += ["--data.test_fraction", "0.4"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cases and a run, `runs/debug/dropout`, and one of the handmade network, `handmade`."""
    here = tmp_path_factory.mktemp("subsets")
    fit_handmade(here)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert main(["fit", "-c", DEBUG, *DROPOUT, "--run.id", "dropout"]) == 0
        content = torch.load("runs/debug/handmade/checkpoints/last.ckpt", weights_only=True)
        assert content["model_card"]["may_lack"] == []
        content["model_card"]["may_lack"] = ["flair"]
        torch.save(content, "runs/debug/handmade/checkpoints/dropout.ckpt")
    return here


@pytest.fixture(autouse=True)
def here(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    return work


CASES = Path("runs/phantom-cases")
BEST = "runs/debug/dropout/checkpoints/best.ckpt"
HANDMADE = Path("runs/debug/handmade/checkpoints")


def mean_of_test(*without: str) -> float:
    """The mean Dice of `raum test` with the best checkpoint of the run."""
    words = ["--data.without", f"[{', '.join(without)}]"] if without else []
    assert main(["test", "-c", DEBUG, *DROPOUT, "--run.id", "dropout", *words]) == 0
    folder = Path("runs/debug/dropout/test", *([f"without-{'-'.join(without)}"] if without else []))
    with (folder / "cases.csv").open() as file:
        return fmean(float(row["dice_mean"]) for row in csv.DictReader(file))


def test_subsets_are_what_test_says_without_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "subsets.json"
    assert main(["subsets", "--checkpoint", BEST, "--data.root", str(CASES), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "rules brats2020: " in said and "\ndice: " in said
    assert "means over 2 cases" in said and "trained to do without flair, t2" in said
    content = json.loads(out.read_text())
    assert content["command"] == "raum subsets" and content["rules"] == "brats2020" and len(content["cases"]) == 2
    rows = {row["modalities"]: row["dice_mean"] for row in content["rows"]}
    assert list(rows) == ["flair t1ce t2", "flair t1ce", "flair t2", "t1ce t2", "flair", "t1ce", "t2"]
    assert rows["flair t1ce t2"] == pytest.approx(mean_of_test(), abs=2e-3)
    assert rows["t1ce t2"] == pytest.approx(mean_of_test("flair"), abs=2e-3)
    assert rows["t2"] == pytest.approx(mean_of_test("flair", "t1ce"), abs=2e-3)
    assert len(set(rows.values())) > 3


def test_the_rules_are_those_of_the_data_set_unless_others_are_asked_for() -> None:
    metastases: Any = SimpleNamespace(dataset=presets()["brats-met-2023"])
    card = load(BEST).card
    for asked, name in (("auto", "brats2023-met"), ("brats2026", "brats2026"), ("default", "brats2020")):
        metrics, rules = find_scoring(Namespace(rules=asked, metrics=["dice", "dice"]), [metastases], card)
        assert rules.name == name and metrics == ("dice",)
    with pytest.raises(ConfigError, match="'tumor_f1' does not exist"):
        find_scoring(Namespace(rules="auto", metrics=["tumor_f1"]), [metastases], card)


def test_cases_that_trained_the_network_are_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = json.loads(Path("runs/debug/dropout/splits.json").read_text())
    turned = split | {"train": split["val"], "val": split["train"]}
    for content, said in (
        (turned, f"was trained on {len(split['train'])} of these cases ({split['train'][0]}"),
        ([turned, split], "holds 2 folds; give a file with the one split of this network"),
    ):
        (tmp_path / "splits.json").write_text(json.dumps(content))
        words = ["--checkpoint", BEST, "--data.root", str(CASES), "--splits", str(tmp_path / "splits.json")]
        assert main(["subsets", *words, "--part", "val"]) == 2
        assert said in capsys.readouterr().err


def test_an_absent_modality_is_filled_by_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, absent = tmp_path / "whole/BraTS20_Training_002", tmp_path / "absent/BraTS20_Training_002"
    for case in (whole, absent):
        shutil.copytree(CASES / case.name, case)
    flair, t2 = (f"{whole.name}_{name}.nii.gz" for name in ("flair", "t2"))
    (absent / flair).unlink()
    shutil.copyfile(whole / t2, whole / flair)
    network = load(BEST)
    assert network.card.fill_absent == {"flair": "t2"}
    found = network.segment(absent)
    np.testing.assert_array_equal(found.labels, network.segment(whole).labels)
    network.card = replace(network.card, fill_absent={})
    assert (found.probabilities != network.segment(absent).probabilities).any()
    assert main(["segment", "--checkpoint", BEST, "--case", str(absent), "--out", str(tmp_path / "a.nii.gz")]) == 0
    assert "segmented without flair (t2 in its place), as the network" in capsys.readouterr().out
    test = ["test", "-c", DEBUG, *DROPOUT, "--run.id", "dropout", "--data.fill_absent", "null"]
    assert main([*test, "--data.without", "[flair]"]) == 2
    assert "best.ckpt was trained with other data.fill_absent: give --data.fill_absent '{flair: t2}'" in " ".join(
        capsys.readouterr().err.split()
    )


def test_blocks_are_taken_out_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "blocks.csv"
    words = ["--checkpoint", BEST, "--data.root", str(CASES), "--metrics", "dice", "hd95", "--out", str(out)]
    assert main(["ablate", *words]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["replaced"] for row in rows] == ["none", "all blocks", *(f"block {n}" for n in range(1, 5))]
    assert float(rows[0]["dice_mean"]) == pytest.approx(mean_of_test(), abs=2e-3)
    assert rows[1]["dice_mean"] != rows[0]["dice_mean"] and float(rows[0]["hd95_mean"]) > 0
    assert main(["ablate", *words]) == 0  # its own table may be written again
    capsys.readouterr()
    out.write_text("case,dice\n")
    assert main(["ablate", *words]) == 2
    assert "exists and was not written by `raum ablate`" in capsys.readouterr().err


def test_a_missing_modality_is_done_without_where_that_was_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = tmp_path / "cases/BraTS20_Training_002"
    shutil.copytree(CASES / case.name, case)
    (case / f"{case.name}_flair.nii.gz").unlink()
    words = ["segment", "--trust", TRUST, "--case", str(case), "--out", str(tmp_path / "seg.nii.gz")]
    assert main([*words, "--checkpoint", str(HANDMADE / "last.ckpt")]) == 2
    assert "flair is missing" in capsys.readouterr().err
    assert main([*words, "--checkpoint", str(HANDMADE / "dropout.ckpt")]) == 0
    assert "segmented without flair, as the network has learnt to" in capsys.readouterr().out
    segmenter = load(HANDMADE / "dropout.ckpt", trust=[TRUST])
    found, whole = segmenter.segment(case), segmenter.segment(CASES / case.name)
    # the handmade network sees edema on FLAIR alone and enhancing tumour on T1ce alone
    assert found.missing == ("flair",) and (whole.labels == ED).any() and not (found.labels == ED).any()
    assert (found.labels[whole.labels == ET] == ET).all()
    mask = nib.load(tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(mask.affine, nib.load(case / f"{case.name}_t1ce.nii.gz").affine)
    # T1ce it has not learnt to do without
    (case / f"{case.name}_t1ce.nii.gz").unlink()
    assert main([*words, "--checkpoint", str(HANDMADE / "dropout.ckpt")]) == 2
    assert "t1ce is missing" in capsys.readouterr().err


def test_a_folder_says_what_was_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("BraTS20_Training_001", "BraTS20_Training_002"):
        shutil.copytree(CASES / name, tmp_path / "cases" / name)
    (tmp_path / "cases" / name / f"{name}_flair.nii.gz").unlink()
    words = ["segment", "--trust", TRUST, "--cases", str(tmp_path / "cases"), "--out", str(tmp_path / "out")]
    for line in ("2 of 2 cases segmented, 0 were there", "0 of 2 cases segmented, 2 were there"):
        assert main([*words, "--checkpoint", str(HANDMADE / "dropout.ckpt")]) == 0
        said = capsys.readouterr().out
        assert line in said
    assert f"{name}: segmented without flair" not in said


def test_a_score_that_no_case_has_is_null_in_json(tmp_path: Path) -> None:
    rows = [Row("none", {"dice_wt": 0.5, "dice_et": math.nan, "lesion_hd95_et": math.inf})]
    for name in ("table.json", "table.csv"):
        save(tmp_path / name, rows, "replaced")
    bare: list[str] = []  # NaN and Infinity, which are no JSON
    content = json.loads((tmp_path / "table.json").read_text(), parse_constant=bare.append)
    assert content == {"rows": [{"replaced": "none", "dice_wt": 0.5, "dice_et": None, "lesion_hd95_et": "inf"}]}
    assert not bare and (tmp_path / "table.csv").read_text().splitlines()[1] == "none,0.5,,inf"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "-c", DEBUG, "--data.without", "[flair]"], "data.without is for validate, test and predict"),
        (["test", "-c", DEBUG, "--data.without", "[pd]"], "data.without=['pd'] must be some of flair, t1ce, t2"),
        (["test", "-c", DEBUG, "--data.without", "[flair,t1ce,t2]"], "leaves no modality"),
        (["subsets", "--checkpoint", "alone.ckpt", "--data.root", str(CASES)], "no splits.json beside it"),
        (["subsets", "--checkpoint", BEST, "--data.root", str(CASES), "--splits", "no.json"], "no.json: no such file"),
        (["subsets", "--checkpoint", BEST, "--data.root", "ODD", "--part", "all"], "seg.nii.gz: shape (39, 36, 32)"),
        (["subsets", "--checkpoint", BEST, "--data.root", str(CASES), "--out", "a.txt"], "the name must end in .json"),
        (["subsets", "--checkpoint", BEST, "--data.root", str(CASES), "--metrics", "f"], "metric 'f' does not exist"),
        (["ablate", "--checkpoint", str(HANDMADE / "last.ckpt"), "--trust", TRUST, "--data.root", "."], "no transform"),
    ],
)
def test_mistakes_are_named_before_the_work(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(BEST, "alone.ckpt")
    odd = write_brats(tmp_path / "odd", "BraTS20_Training_900", presets()["brats2020"])
    mask = nib.load(odd / f"{odd.name}_seg.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[:-1], mask.affine), odd / f"{odd.name}_seg.nii.gz")
    monkeypatch.setattr(Segmenter, "segment", None)
    assert main([str(tmp_path / "odd") if word == "ODD" else word for word in words]) == 2
    assert said in capsys.readouterr().err
