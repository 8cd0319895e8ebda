"""`raum evaluate`: two folders of masks to scores."""

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from raum_lightning.cases.case import write_mask
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import CaseError, EvaluationError
from raum_lightning.figures import Scan
from raum_lightning.labels import ED, ET, RC
from raum_lightning.metrics import DEFAULT, METRICS, RULES, explain, score
from raum_lightning.metrics.evaluation import Evaluation, evaluate, mapping
from raum_lightning.metrics.folders import Folders, find_masks, match_folders
from tests.helpers.cases import AFFINE, SHAPE, tiny_volumes, write_brats, write_msd

BRATS = [f"BraTS20_Training_{number:03d}" for number in range(1, 7)]


def write(path: Path, labels: np.ndarray, dataset: str = "brats2020", affine: np.ndarray = AFFINE) -> None:
    """A mask as someone else's program writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(presets()[dataset].decode(labels), affine), path)


def shifted(seed: int, voxels: int = 1) -> np.ndarray:
    return np.roll(tiny_volumes(seed)[1], voxels, axis=0)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Of all six cases, moved by 0 to 5 voxels."""
    for number, case in enumerate(BRATS, 1):
        write(tmp_path / "predictions" / f"{case}.nii.gz", shifted(number, number - 1))
    return tmp_path / "predictions"


def command(predictions: Path, references: Path, *words: str | Path) -> int:
    return main(["evaluate", "--predictions", str(predictions), "--references", str(references), *map(str, words)])


@pytest.mark.slow
def test_scores_are_those_of_the_metrics(brats: Path, predictions: Path, tmp_path: Path) -> None:
    assert command(predictions, brats, "--lesion-wise", "--classes", "NCR", "--out", tmp_path / "out/m.json") == 0
    content = json.loads((tmp_path / "out/m.json").read_text())
    metrics = ["dice", "hd95", "lesion_dice", "lesion_hd95"]
    computed = [*metrics, "reference_volume"]
    for number, case in enumerate(BRATS, 1):
        masks = (torch.from_numpy(np.array(mask)) for mask in (shifted(number, number - 1), tiny_volumes(number)[1]))
        assert content["cases"][case] == score(*masks, metrics=computed, classes=["NCR"], spacing=(1, 1, 1))
    columns = {name: [row[name] for row in content["cases"].values()] for name in content["cases"][BRATS[0]]}
    for name, values in columns.items():
        summary = content["summary"][name]
        assert (summary["mean"], summary["median"]) == pytest.approx((np.mean(values), np.median(values)))
        assert summary["std"] == pytest.approx(np.std(values, ddof=1)) and summary["cases"] == 6
        steps = [min(values), summary["low"], summary["mean"], summary["high"], max(values)]
        assert (np.diff(steps) >= -1e-9).all()
    assert content["rules"]["name"] == "brats2020" and content["rules"]["missed_mm"] == pytest.approx(373.12866)
    assert content["metrics"] == {metric: explain(metric, DEFAULT) for metric in metrics}
    assert content["present"] == {"wt": 6, "tc": 6, "et": 6, "ncr": 6}
    rows = list(csv.DictReader((tmp_path / "out/m.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == BRATS
    assert [float(row["hd95_et"]) for row in rows] == columns["hd95_et"]


def test_masks_are_found_by_the_names_that_a_data_set_gives_them(brats: Path, tmp_path: Path) -> None:
    for number, ending in enumerate(("", "_seg", "-seg", "_dseg", "_segm", "_tumor_segmentation")):
        write(tmp_path / "p" / f"{BRATS[number]}{ending}.nii.gz", shifted(number + 1, 0))
    assert list(find_masks(tmp_path / "p")) == sorted(BRATS)


def test_a_mask_of_a_case_that_is_called_as_an_image_is_no_image(tmp_path: Path) -> None:
    """Visits T0 and T1: `p01_T1` is also what some data sets call a T1 of `p01`."""
    visits = ["p01_T0", "p01_T1"]
    for name in visits:
        for folder in ("predictions", "references/labelsTr"):
            write(tmp_path / folder / f"{name}.nii.gz", shifted(0, 0))
        write(tmp_path / "references/imagesTr" / f"{name}_0000.nii.gz", shifted(0, 0))
    labels = {"background": 0, "lesion": 4}
    content = {"channel_names": {"0": "flair"}, "labels": labels, "file_ending": ".nii.gz"}
    (tmp_path / "references/dataset.json").write_text(json.dumps(content))
    (tmp_path / "own.yaml").write_text("{images: {scan: '{case}/scan'}, mask: '{case}/lesion', labels: {4: lesion}}")
    found = match_folders(tmp_path / "predictions", tmp_path / "references")
    assert list(found.pairs) == visits and not found.without_prediction
    assert list(find_masks(tmp_path / "predictions", str(tmp_path / "own.yaml"))) == visits
    assert list(find_masks(tmp_path / "predictions")) == visits[:1], "nothing tells"
    for name in ("scan", "p1_pred"):
        write(tmp_path / "beside/p1" / f"{name}.nii.gz", shifted(0, 0))
    assert list(find_masks(tmp_path / "beside", str(tmp_path / "own.yaml"))) == ["p1_pred"]
    for case in find_cases(tmp_path / "references"):
        write_mask(tmp_path / "ours" / f"{case.id}.nii.gz", shifted(0, 0) // 3, case, next(iter(case.images)))
    assert list(find_masks(tmp_path / "ours")) == visits


def test_the_table_says_how_good_and_how_bad_it_was(
    brats: Path, predictions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(predictions, brats) == 0
    shown = capsys.readouterr().out
    summary, worst = shown.split("worst by mean dice")
    assert not [line for line in shown.splitlines() if len(line) > 80] and re.search(
        r"95 % +(\d\.\d+ to [\d.]+ +){4}\n", shown
    )
    assert "6 of 6 references" in summary and "median" in summary
    listed = [case for line in worst.splitlines() for case in BRATS if case in line]
    assert listed == BRATS[:0:-1]  # the five that were moved farthest, the farthest first
    said = " ".join(shown.split())
    assert all(f"{metric}: {explain(metric, DEFAULT)}" in said for metric in ("dice", "hd95"))
    assert "rules brats2020: BraTS to 2022" in said and "± " in said and "95 %" in said
    assert "of 6 references these have the region at all: WT 6, TC 6, ET 6" in said
    assert "label values of predictions: 6 brats2020, by file name" in shown


def test_the_worst_distance_is_the_largest() -> None:
    scores = {case: {"hd95_mean": value} for case, value in (("a", 3.0), ("b", 9.0), ("c", 5.0), ("d", np.nan))}
    nothing = Folders({}, {}, [])
    assert Evaluation(("hd95",), DEFAULT, scores, {}, nothing).worst(3) == ["b", "c", "a"]


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_every_metric_says_what_it_is(rules: object) -> None:
    assert all("{" not in explain(metric, rules) and len(explain(metric, rules)) > 8 for metric in METRICS)


@pytest.mark.slow
def test_rules_are_those_of_the_data_set_unless_given(
    predictions: Path, brats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = "BraTS-GLI-00001-000"
    write_brats(tmp_path / "gli", case, presets()["brats2023"])
    write(tmp_path / "p" / f"{case}.nii.gz", np.zeros(SHAPE, np.uint8), "brats2023")
    assert evaluate(tmp_path / "p", tmp_path / "gli").scores[case]["hd95_et"] == 374
    assert evaluate(tmp_path / "p", tmp_path / "gli", rules="brats2024").scores[case]["hd95_et"] == 337
    assert command(predictions, brats, "--rules", "brats2026", "--metrics", "all", "--classes", "all") == 0
    said = capsys.readouterr().out
    assert "rules brats2026: BraTS 2025 on, brats-evaluation" in said and "mets_large_f1" in said


@pytest.mark.slow
def test_a_page_sorts_and_shows_the_worst(predictions: Path, brats: Path, tmp_path: Path) -> None:
    for case in BRATS[2:]:
        (predictions / f"{case}.nii.gz").unlink()
    assert command(predictions, brats, "--html", tmp_path / "page.html") == 1  # four have no prediction
    text = (tmp_path / "page.html").read_text()
    assert text.count('<img alt="Slices of ') == 2 and text.count('class="sortable"') == 2 and "sort(rank)" in text
    assert "http" not in text.split("<body>")[1].replace("http-equiv", "")
    assert "<button>dice_<wbr>mean</button>" in text and '<td class="bar" style="--v:' in text
    order = [text.index(f"<h3>{case}: mean dice") for case in BRATS[1::-1]]
    assert order == sorted(order)
    masks = tmp_path / "r"
    write(masks / f"{BRATS[0]}.nii.gz", tiny_volumes(1)[1])
    assert command(predictions, masks, "--html", tmp_path / "page.html") == 0  # its own file, and masks alone
    assert (tmp_path / "page.html").read_text().count('<img alt="Slices of ') == 1
    (tmp_path / "other.html").write_text("mine")
    assert command(predictions, masks, "--html", tmp_path / "other.html") == 2


def test_a_page_shows_predictions_with_more_classes_than_the_references(tmp_path: Path) -> None:
    case = "BraTS-GLI-00001-000"
    write_brats(tmp_path / "gli", case, presets()["brats2023"])
    labels = tiny_volumes()[1]
    labels[5, 5, 5] = RC
    write(tmp_path / "p" / f"{case}.nii.gz", labels, "brats2024")
    named = ("--dataset-predictions", "brats2024")
    assert command(tmp_path / "p", tmp_path / "gli", *named, "--html", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").read_text().count('<img alt="Slices of ') == 1


@pytest.mark.slow
def test_many_processes_find_what_one_finds(brats: Path, predictions: Path) -> None:
    calls: list[tuple[int, int]] = []
    one = evaluate(predictions, brats, workers=1)
    two = evaluate(predictions, brats, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert one == two and calls == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize(
    "naming",
    ["{}.nii.gz", "{}.nii", "{}_seg.nii.gz", "{}-seg.nii.gz", "{}_SEG.nii.gz", "{}.NII.GZ", "deeper/{0}/{0}_seg.nii"],
)
def test_names_of_predictions(brats: Path, tmp_path: Path, naming: str) -> None:
    for number, case in enumerate(BRATS, 1):
        write(tmp_path / "p" / naming.format(case), tiny_volumes(number)[1])
    found = evaluate(tmp_path / "p", brats)
    assert found.summary["dice_mean"].median == 1 and len(found.scores) == 6


def test_linked_folders_of_predictions_are_followed(brats: Path, predictions: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links/here").symlink_to(predictions)
    assert evaluate(tmp_path / "links", brats).scores == evaluate(predictions, brats).scores


def test_an_id_says_more_than_the_end_of_a_name(tmp_path: Path) -> None:
    write_brats(tmp_path / "cases", "BraTS-GLI-00001-000", presets()["brats2023"])
    write(tmp_path / "p/BraTS-GLI-00001-000_seg.nii.gz", tiny_volumes()[1], "brats2023")
    assert evaluate(tmp_path / "p", tmp_path / "cases").summary["dice_mean"].mean == 1


def test_a_volume_is_neither_good_nor_bad(brats: Path, predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(predictions, brats, "--metrics", "volume") == 0
    assert "volume" in (shown := capsys.readouterr().out) and "worst" not in shown
    assert command(predictions, brats, "--metrics", "volume", "dice") == 0
    assert "worst by mean dice" in capsys.readouterr().out


@pytest.mark.parametrize("naming", ["{}_seg.nii.gz", "{}-seg.nii.gz", "{}.nii.gz"])
def test_references_may_be_masks_alone(predictions: Path, brats: Path, tmp_path: Path, naming: str) -> None:
    for number, case in enumerate(BRATS, 1):
        write(tmp_path / "r" / naming.format(case), tiny_volumes(number)[1])
    assert evaluate(predictions, tmp_path / "r").scores == evaluate(predictions, brats).scores


def test_a_header_of_ours_says_whose_values_they_are(tmp_path: Path) -> None:
    write_brats(tmp_path / "cases", "BraTS-GLI-00001-000", presets()["brats2023"])
    write_brats(tmp_path / "old", "a", presets()["brats2020"])
    (old,) = find_cases(tmp_path / "old")
    write_mask(tmp_path / "p/BraTS-GLI-00001-000.nii.gz", tiny_volumes()[1], old, "flair")
    found = evaluate(tmp_path / "p", tmp_path / "cases")
    assert found.summary["dice_mean"].mean == 1
    assert found.folders.datasets == {
        "predictions": {"brats2020, by header": 1},
        "references": {"brats2023, by file name": 1},
    }


@pytest.mark.parametrize(
    ("case", "own", "written", "value"),
    [
        ("BraTS-GLI-00001-000", "brats2023", "brats2020", 4),
        ("BraTS2021_00001", "brats2021", "brats2023", 3),
        ("patient", "brats2020", "brats2023", 3),
    ],
)
def test_a_value_of_another_data_set_is_never_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, own: str, written: str, value: int
) -> None:
    write_brats(tmp_path / "cases", case, presets()[own])
    write(tmp_path / "p" / f"{case}.nii.gz", tiny_volumes()[1], written)
    assert command(tmp_path / "p", tmp_path / "cases") == 1
    said = capsys.readouterr().out
    assert f"{case} was not scored" in said and f"{case}.nii.gz: label {value} is not one of" in said
    assert "--dataset-predictions" in said
    assert command(tmp_path / "p", tmp_path / "cases", "--dataset-predictions", written) == 0
    assert "1 brats20" in (said := capsys.readouterr().out) and "by option" in said


def test_the_cavity_of_2024_must_be_declared(tmp_path: Path) -> None:
    case = "BraTS-GLI-02001-100"
    folder = write_brats(tmp_path / "cases", case, presets()["brats2024"])
    labels = tiny_volumes()[1]
    labels[20:24, 20:24, 20:24] = RC
    write(folder / f"{case}-seg.nii.gz", labels, "brats2024")
    write(tmp_path / "named" / f"{case}.nii.gz", labels, "brats2024")
    write(tmp_path / "custom" / "cases" / f"{case}.nii.gz", labels, "brats2024")
    assert "4 is RC in brats2024" in evaluate(tmp_path / "named", tmp_path / "cases").problems[case]
    declared = {"dataset_references": "brats2024"}
    assert "4 is RC in brats2024" in evaluate(tmp_path / "named", tmp_path / "cases", **declared).problems[case]
    both = evaluate(tmp_path / "named", tmp_path / "cases", classes=["RC"], **declared, dataset_predictions="brats2024")
    assert both.summary["dice_rc"].mean == 1


def test_an_unnamed_prediction_of_a_2024_reference_may_hold_no_4(tmp_path: Path) -> None:
    write(tmp_path / "p/patient.nii.gz", tiny_volumes()[1], "brats2020")
    write(tmp_path / "r/patient.nii.gz", tiny_volumes()[1], "brats2024")
    found = evaluate(tmp_path / "p", tmp_path / "r", dataset_references="brats2024")
    assert "label 4 is not one of brats2023's" in found.problems["patient"]


def test_msd_is_read_by_its_dataset_json(tmp_path: Path) -> None:
    write_msd(tmp_path / "msd", 2)
    for number in (1, 2):
        write(tmp_path / f"p/BRATS_00{number}.nii.gz", tiny_volumes(number)[1], "msd-task01", np.eye(4))
    found = evaluate(tmp_path / "p", tmp_path / "msd", classes=["NCR", "ED"])
    assert found.summary["dice_ncr"].mean == found.summary["dice_ed"].mean == 1
    assert found.folders.datasets["predictions"] == {"msd-task01, by reference": 2}
    content = json.loads((tmp_path / "msd/dataset.json").read_text())
    content["labels"] = {"0": "background", "1": "necrotic", "2": "edema", "3": "enhancing"}
    (tmp_path / "msd/dataset.json").write_text(json.dumps(content))
    for case in find_cases(tmp_path / "msd")[:2]:
        write_mask(tmp_path / f"ours/{case.id}.nii.gz", case.read_label()[0], case, "flair")
    assert evaluate(tmp_path / "ours", tmp_path / "msd", classes=["NCR"]).summary["dice_ncr"].mean == 1
    assert evaluate(tmp_path / "ours", tmp_path / "msd/labelsTr", classes=["NCR"]).summary["dice_ncr"].mean == 1
    (tmp_path / "msd/labelsTr").rename(tmp_path / "alone")
    with pytest.raises(EvaluationError, match="nothing says whose label values the references hold"):
        evaluate(tmp_path / "p", tmp_path / "alone")
    for declared in ("msd", str(tmp_path / "msd/dataset.json")):
        assert len(evaluate(tmp_path / "p", tmp_path / "alone", dataset_references=declared).scores) == 2


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """BraTS 2021 as nnU-Net's script converts it: the same ids, where 1 is edema and 2 necrosis."""
    labels = np.array([0, 2, 1, 3], np.uint8)  # by class: NCR 2, ED 1, ET 3
    for number in (1, 2):
        name = f"BraTS2021_0000{number}"
        for folder in ("raw/labelsTr", "predicted"):
            write_raw(tmp_path / folder / f"{name}.nii.gz", labels[tiny_volumes(number)[1]])
        write_raw(tmp_path / "raw/imagesTr" / f"{name}_0000.nii.gz", tiny_volumes(number)[0]["flair"])
    content = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "ED": 1, "NCR": 2, "ET": 3}}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(content | {"file_ending": ".nii.gz"}))
    return tmp_path


def write_raw(path: Path, volume: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, AFFINE), path)


@pytest.mark.parametrize(
    ("references", "dataset"),
    [
        ("raw", "auto"),
        ("raw/labelsTr", "auto"),
        ("raw", "nnunet"),
        ("raw/labelsTr", "nnunet"),
        ("raw", "raw/dataset.json"),
    ],
)
def test_masks_of_nnunet_are_read_by_its_dataset_json(converted: Path, references: str, dataset: str) -> None:
    if "/" in dataset:
        dataset = str(converted / dataset)
    found = evaluate(
        converted / "predicted",
        converted / references,
        dataset_predictions=dataset,
        dataset_references=dataset,
    )
    assert found.summary["dice_ed"].mean == found.summary["dice_ncr"].mean == 1 and len(found.scores) == 2

    assert list(found.folders.datasets["references"]) == ["raw, by dataset.json"]


def test_a_header_that_names_a_data_set_that_is_not_known(converted: Path, tmp_path: Path) -> None:
    """Masks of a network that was trained on nnU-Net's folder, scored against BraTS: 1 and 2 mean other classes."""
    case = find_cases(converted / "raw")[0]
    write_mask(tmp_path / "ours" / f"{case.id}.nii.gz", case.read_label()[0], case, "FLAIR")
    write(tmp_path / "brats" / f"{case.id}_seg.nii.gz", tiny_volumes(1)[1], "brats2021")
    said = (
        "has the label values of raw, as its header says, .* those of brats2021; give the YAML or dataset.json of raw"
    )
    with pytest.raises(EvaluationError, match=said):
        evaluate(tmp_path / "ours", tmp_path / "brats")
    scores = evaluate(
        tmp_path / "ours", tmp_path / "brats", classes=["NCR"], dataset_predictions=str(converted / "raw/dataset.json")
    )
    assert scores.summary["dice_ncr"].mean == scores.summary["dice_tc"].mean == 1
    assert evaluate(tmp_path / "ours", converted / "raw", classes=["NCR"]).summary["dice_ncr"].mean == 1
    brats = replace(case, dataset=presets()["brats2021"], label=None)
    with pytest.raises(CaseError, match=r"give the YAML or dataset\.json of raw as --dataset"):
        Scan.read(brats, tmp_path / "ours" / f"{case.id}.nii.gz", ["FLAIR"])


def test_a_name_does_not_stand_for_the_dataset_json_that_was_declared(converted: Path) -> None:
    assert next(iter(find_masks(converted / "predicted").values())).dataset.name == "brats2021"
    assert {mask.found for mask in find_masks(converted / "predicted", "nnunet").values()} == {None}


def test_a_prediction_beside_a_dataset_json_as_nnunet_leaves_it(converted: Path) -> None:
    (converted / "predicted/dataset.json").write_bytes((converted / "raw/dataset.json").read_bytes())
    masks = find_masks(converted / "predicted")
    assert {mask.known_by for mask in masks.values()} == {"dataset.json"}
    assert next(iter(masks.values())).dataset.labels == {1: "ED", 2: "NCR", 3: "ET"}


def test_what_has_no_partner_is_reported(
    brats: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (predictions / f"{BRATS[0]}.nii.gz").rename(predictions / "other.nii.gz")
    (brats / BRATS[1] / f"{BRATS[1]}_seg.nii.gz").unlink()
    assert command(predictions, brats, "--out", tmp_path / "m.json") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 of 5 references" in shown and f"references without prediction (1): {BRATS[0]}" in shown
    assert f"predictions without reference (2): {BRATS[1]}, other" in shown
    content = json.loads((tmp_path / "m.json").read_text())
    assert (content["without_prediction"], content["without_reference"]) == ([BRATS[0]], [BRATS[1], "other"])
    assert list(content["cases"]) == BRATS[2:]


@pytest.mark.slow
def test_one_bad_file_does_not_stop_the_others(
    brats: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(predictions / f"{BRATS[0]}.nii.gz", tiny_volumes(1)[1][:-1])
    write(predictions / f"{BRATS[1]}.nii.gz", tiny_volumes(2)[1], affine=np.diag([1.0, -1, 1, 1]) @ AFFINE)
    (predictions / f"{BRATS[2]}.nii.gz").write_bytes(b"no nifti")
    noise = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, AFFINE), predictions / f"{BRATS[3]}.nii.gz")
    assert command(predictions, brats, "--out", tmp_path / "m.json") == 1
    shown = capsys.readouterr().out
    problems = json.loads((tmp_path / "m.json").read_text())["problems"]
    for case, said in zip(BRATS, ("shape", "affine", "cannot be read as NIfTI", "label"), strict=False):
        assert said in problems[case] and f"{case}.nii.gz" in problems[case] and len(problems[case]) < 500
        assert f"{case} was not scored" in shown
    assert list(json.loads((tmp_path / "m.json").read_text())["cases"]) == BRATS[4:]


def test_empty_masks_follow_the_rules(tmp_path: Path) -> None:
    empty, full = np.zeros(SHAPE, np.uint8), tiny_volumes()[1]
    for name, guess, truth in (("a", empty, empty), ("b", full, empty), ("c", empty, full)):
        write(tmp_path / f"p/{name}_seg.nii.gz", guess)
        write(tmp_path / f"r/{name}_seg.nii.gz", truth)
    scores = evaluate(tmp_path / "p", tmp_path / "r").scores
    assert [(scores[name]["dice_et"], round(scores[name]["hd95_wt"], 5)) for name in "abc"] == [
        (1, 0),
        (0, 373.12866),
        (0, 373.12866),
    ]


def test_millimetres_are_those_of_the_affine(tmp_path: Path) -> None:
    thick = AFFINE @ np.diag([1.0, 1.0, 4.0, 1.0])
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:20, 10:20, 10:20] = ET
    for folder, voxels in (("p", 2), ("r", 0)):
        write(tmp_path / folder / "a_seg.nii.gz", np.roll(labels, voxels, axis=2), affine=thick)
    scores = evaluate(tmp_path / "p", tmp_path / "r", metrics=["hd95", "volume"]).scores["a"]
    assert scores["hd95_et"] == 8 and scores["volume_et"] == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "scores.csv"], "scores.csv: the name must end in .json"),
        (["--predictions", "none"], "none: no such folder"),
        (["--references", "none"], "none: no such folder"),
        (["--predictions", "EMPTY"], "empty: no masks found; expected files such as <case>.nii.gz"),
        (["--references", "EMPTY"], "empty: no masks found"),
        (["--references", "BARE"], "bare: its cases have no masks"),
        (["--predictions", "OTHER"], "no case is both in"),
        (["--predictions", "TWICE"], "case a is both"),
        (["--metrics", "dise"], "metric 'dise' does not exist; choose from dice"),
        (["--classes", "EDEMA"], "class 'EDEMA' does not exist; choose from NCR"),
        (["--edition-predictions", "brats2019"], "data set 'brats2019' is unknown; give a YAML file"),
    ],
)
def test_a_users_mistake_gets_one_sentence(
    brats: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    labels = np.full(SHAPE, ED, np.uint8)
    for name in ("other/b_seg.nii", "twice/a_seg.nii.gz", "twice/a.nii.gz"):
        write(tmp_path / name, labels)
    (write_brats(tmp_path / "bare", BRATS[0], presets()["brats2020"]) / f"{BRATS[0]}_seg.nii.gz").unlink()
    folders = {name.upper(): str(tmp_path / name) for name in ("empty", "other", "twice", "bare")}
    assert command(predictions, brats, *(folders.get(word, word) for word in words)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.slow
def test_a_mask_of_another_case_is_said(brats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = find_cases(brats)[:2]
    write_mask(tmp_path / f"p/{first.id}.nii.gz", first.read_label()[0], first, "flair")
    write_mask(tmp_path / f"p/{second.id}.nii.gz", first.read_label()[0], first, "flair")
    command(tmp_path / "p", brats, "--out", tmp_path / "m.json")
    said = f"is a mask of case {first.id} by its header, and is taken for one of {second.id}"
    assert said in " ".join(capsys.readouterr().out.split())
    (sentence,) = json.loads((tmp_path / "m.json").read_text())["of_other_cases"]
    assert sentence == f"{tmp_path / 'p'}/{second.id}.nii.gz: {said}"
    picture = ["--prediction", str(tmp_path / f"p/{second.id}.nii.gz"), "--out", str(tmp_path / "a.png")]
    assert main(["view", str(brats / second.id), *picture]) == 0
    assert said in capsys.readouterr().out


def numbered(number: int) -> tuple[int, int]:
    return number, os.getpid()


@pytest.mark.slow
def test_work_is_shared_with_this_process_and_comes_in_order() -> None:
    with mapping(2) as mapped:
        outcomes = list(mapped(numbered, range(40)))
        again = list(mapped(numbered, range(3)))
    assert [number for number, _ in outcomes] == [*range(40)] and [number for number, _ in again] == [0, 1, 2]
    # the other process starts while this one is done with most
    assert os.getpid() in {process for _, process in outcomes} and len({process for _, process in outcomes}) <= 2


@pytest.mark.parametrize("wrong", [False, True])
def test_classes_are_told_by_name(brats: Path, tmp_path: Path, wrong: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The same voxels in the values of another data set, whose classes have another order or are other ones."""
    labels = {5: "tumour", 6: "cyst", 7: "bone"} if wrong else {5: "ET", 6: "NCR", 7: "ED"}
    about = {"images": {"flair": "{case}_flair"}, "mask": "{case}_mask", "labels": labels}
    (tmp_path / "own.yaml").write_text(json.dumps(about))
    values = np.array([0, 6, 7, 5], np.uint8)  # background, NCR, ED, ET
    for number, case in enumerate(BRATS, 1):
        write(tmp_path / "p" / f"{case}_seg.nii.gz", shifted(number, 0))
        (tmp_path / "r").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values[shifted(number, 0)], AFFINE), tmp_path / "r" / f"{case}_mask.nii.gz")
        nib.save(nib.Nifti1Image(tiny_volumes(number)[0]["flair"], AFFINE), tmp_path / "r" / f"{case}_flair.nii.gz")
    words = ["--dataset-references", tmp_path / "own.yaml", "--metrics", "dice", "--out", tmp_path / "m.json"]
    assert command(tmp_path / "p", tmp_path / "r", *words) == (2 if wrong else 0)
    if wrong:
        said = capsys.readouterr().err
        assert "has the classes NCR, ED, ET (it is brats2020, by file name)" in said and "--dataset-predictions" in said
    else:
        summary = json.loads((tmp_path / "m.json").read_text())["summary"]
        assert [summary[f"dice_{name}"]["mean"] for name in ("et", "ncr", "ed")] == [1, 1, 1]
