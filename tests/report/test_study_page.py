"""The page of a cross-validation: tables, calibration, links and slices, of strings that may be anything."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import RunError
from raum_lightning.figures import Scan
from raum_lightning.figures.reliability import reliability_chart
from raum_lightning.figures.slices import axial_slices
from raum_lightning.report import page, study_page
from raum_lightning.report.calibration import calibration_section
from tests.helpers.cases import write_brats
from tests.report.test_report import Reader

CASES = [f"BraTS20_Training_{number:03d}" for number in range(1, 4)]
ROW = {"mean": 0.6123, "std": 0.1, "median": 0.6, "low": 0.51, "high": 0.71, "cases": 3}
FOLD: dict[str, Any] = {
    "voxels": 100,
    "before": 0.2,
    "after": 0.05,
    "temperature": 1.5,
    "before_bins": [[40, 0.6, 0.5], [60, 0.9, 0.65]],
    "after_bins": [[40, 0.55, 0.5], [60, 0.7, 0.65]],
}


def results() -> dict[str, Any]:
    """As `raum cross-validate` writes them, with strings that are HTML."""
    rows: dict[str, Any] = {}
    for case, dice in zip(CASES, (0.8, 0.3, 0.6), strict=True):
        rows[case] = {"dice_wt": dice, "dice_mean": dice, "hd95_mean": 7.25}
    rows["<i>case"] = {"dice_wt": None, "dice_mean": None, "hd95_mean": "inf"}
    summary = {"dice_wt": ROW, "dice_mean": ROW, "hd95_mean": ROW | {"high": "inf"}, "reference_volume_wt": ROW}
    return {
        "name": "small/<b>cv",
        "rules": {"name": "<u>brats2020"},
        "metrics": {"dice": "overlap <s>", "hd95": "mm"},
        "parts": ["wt", "mean"],
        "summary": summary,
        "cases": rows,
        "postprocess": {"min_mm3": {"ET": 400}},
        "cleaned": {"summary": summary | {"dice_wt": ROW | {"mean": 0.7}}, "cases": rows},
        "calibration": {"voxels": 200, "before": 0.2, "after": 0.05, "temperature": 1.25, "folds": [FOLD, FOLD]},
        "fold_of": dict.fromkeys(rows, 0),
        "folds": [{"cases": 2, "raw": summary, "cleaned": summary, "steps": 1200, "patches": None}] * 2,
        "worst": [CASES[1], "<i>case"],
        "provenance": {"command": "raum <q>", "hardware": {"gpus": [], "cpu": "<a>", "cores": 2}, "versions": {}},
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-validation; not to be changed."""
    here = tmp_path_factory.mktemp("study")
    folder = here / "runs/small/cv-2fold"
    (folder / "predictions").mkdir(parents=True)
    for number, case in enumerate(CASES):
        source = write_brats(here / "cases", case, presets()["brats2020"], seed=number)
        shutil.copy(source / f"{case}_seg.nii.gz", folder / "predictions" / f"{case}.nii.gz")
    (folder / "study.json").write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"root": str(here / "cases")}}))
    (folder / "results.json").write_text(json.dumps(results()))
    return folder


@pytest.fixture(scope="module")
def text(study: Path) -> str:
    return study_page(study)


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(study, tmp_path / "copy"))


def test_tables_hold_raw_and_cleaned_scores_with_intervals(text: str) -> None:
    cells = "<td>0.{}</td><td>0.100</td><td>0.600</td><td>0.510</td><td>0.710</td><td>3</td>"
    raw, cleaned = text.split("<h2>All cases, cleaned</h2>")
    assert f"<tr><th>dice</th><td>WT</td>{cells.format('612')}" in raw
    assert f"<tr><th>dice</th><td>WT</td>{cells.format('700')}" in cleaned
    assert "<td>0.5</td><td>inf</td><td>3</td>" in raw  # mm have one digit
    assert "reference_volume" not in raw
    assert "Post-processing (post.yaml): min_mm3 ET 400, chosen" in cleaned
    assert "<td>2</td><td>0.612</td>" in cleaned and "<td>1,200</td><td></td>" in cleaned


def test_each_case_has_links_and_the_worst_its_slices(study: Path, text: str) -> None:
    reader = Reader(text)
    assert [row for row in reader.rows if row in results()["cases"]] == [*CASES, "<i>case"]
    table = text.split("<h2>Cases</h2>")[1].split("<h2>Worst cases</h2>")[0]
    ways = re.findall(r'href="([^"]+)"', table)
    places = [way for way in ways if way.startswith("#")]
    assert len(places) == 2 and all(f'id="{place[1:]}"' in text for place in places)
    masks = [way for way in ways if way.startswith("./")]
    assert masks == [f"./predictions/{case}.nii.gz" for case in CASES] and all(
        (study / mask).is_file() for mask in masks
    )
    slices = [alt for alt in reader.images if alt.startswith("Axial slice at")]
    assert len(slices) >= 2 and all(alt.endswith(f"mm of {CASES[1]}") for alt in slices)
    assert text.count('<div class="slices" tabindex="0"') == 1
    assert "&lt;i&gt;case: is no longer where it was" in text


def test_nothing_is_loaded_and_every_string_is_escaped(text: str) -> None:
    for tag in ("<b>cv", "<i>case", "<u>brats", "<s>", "<q>", "<a>"):
        assert tag not in text and tag.replace("<", "&lt;").replace(">", "&gt;") in text
    resources = [way for way in Reader(text).resources if not way.startswith(("#", "./", "data:image/"))]
    assert resources == [] and "default-src 'none'" in text
    assert len(text) < 3_000_000


def test_the_diagram_sums_the_folds(text: str) -> None:
    for said in (
        "as the network says, error 0.2000",
        "with a temperature, error 0.0500",
        "<title>as the network says, error 0.2000: 120 voxels, confidence 0.900, right 0.650</title>",
        "the temperature is 1.250",
    ):
        assert said in text
    other = FOLD | {"voxels": 300, "before": 0.4, "before_bins": [[300, 0.92, 0.25]]}
    assert "error 0.3500: 360 voxels, confidence 0.917, right 0.317" in calibration_section([FOLD, other], "a & b")
    drawn = reliability_chart("R", {"a": [[1, 0.5, 0.5]]})
    (across, down), *_ = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)
    ends = re.findall(r"M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)", drawn)[0]
    assert float(across) == pytest.approx((float(ends[0]) + float(ends[2])) / 2, abs=0.1)
    assert float(down) == pytest.approx((float(ends[1]) + float(ends[3])) / 2, abs=0.1)


def test_slices_run_over_the_tumour_from_the_top() -> None:
    image = np.ones((20, 24, 30), np.float32)
    mask = np.zeros(image.shape, np.uint8)
    mask[5:10, 5:10, 8:21] = 2
    spacing = np.diag([1.0, 1, 2, 1])
    scan = Scan("a", {"flair": image}, spacing, mask, np.zeros_like(mask), presets()["brats2020"])
    found = list(axial_slices(scan, most=5))
    assert [one.z for one in found] == [40, 34, 28, 22, 16]
    picture = imread(io.BytesIO(found[0].content), format="jpg")
    # modality, both masks and where they disagree, each 20 x 24 voxels of 1 mm
    assert picture.shape[:2] == (24, 80) and found[0].aspect == pytest.approx(80 / 24)
    assert len(list(axial_slices(scan, most=100))) == 13
    empty = Scan("a", {"flair": image}, spacing, dataset=presets()["brats2020"])
    assert len(list(axial_slices(empty, most=3))) == 3


@pytest.mark.slow
def test_the_command_writes_it(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pages").mkdir()
    assert main(["report", str(copy), "--out", str(tmp_path / "pages/a.html")]) == 0
    assert f'href="./../copy/predictions/{CASES[0]}.nii.gz"' in (tmp_path / "pages/a.html").read_text()
    assert main(["report", str(copy)]) == 0 and main(["report", str(copy)]) == 0
    assert f"{copy / 'report.html'}: " in capsys.readouterr().out
    content = results()
    content["calibration"].pop("folds")  # of a version before
    (copy / "results.json").write_text(json.dumps(content))
    assert "The results have no reliability diagram; this adds it:" in study_page(copy)
    shapes: list[dict[str, Any]] = [{"cases": []}, {"summary": {"a": 1}}, {"folds": [{}]}, {"cleaned": None}]
    shapes += [{"parts": 3}, {"worst": [1]}]
    damaged = [(json.dumps(results() | shape), f"damaged.*{next(iter(shape))} is ") for shape in shapes]
    texts = [("{", "results.json: is not valid JSON"), ("[]", "holds \\[\\] where"), ("{}", "--rescore")]
    for wrong, said in (*texts, ("[" * 9999, "nested too deeply"), *damaged):
        (copy / "results.json").write_text(wrong)
        with pytest.raises(RunError, match=said):
            study_page(copy)
    (copy / "results.json").unlink()
    assert main(["report", str(copy)]) == 2
    assert "results.json: is not there yet; `raum cross-validate`" in capsys.readouterr().err


def test_a_fold_shows_its_own_calibration(copy: Path) -> None:
    fold = copy.rename(copy.with_name("cv-2fold")).with_name("cv-2fold-fold1")
    fold.mkdir()
    config = {
        "module": {"network": {"class_path": "raum_lightning.models.UNETR"}},
        "data": {"root": "cases", "modalities": ["flair"]},
        "run": {"experiment": "small", "id": fold.name},
    }
    (fold / "config.yaml").write_text(yaml.safe_dump(config))
    assert "100 voxels of brains, from the cases that cv-2fold-fold1 has not seen" in page(fold)
    other = fold.rename(fold.with_name("other"))
    assert "is measured by a cross-validation" in page(other) and "raum cross-validate -c" in page(other)


def test_pictures_are_what_they_say(text: str) -> None:
    kinds = re.findall(r"data:image/(\w+);base64,([A-Za-z0-9+/]{12})", text)
    marks = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff"}
    assert {kind for kind, _ in kinds} == {"png", "jpeg"}
    assert all(base64.b64decode(start).startswith(marks[kind]) for kind, start in kinds)


def test_regions_of_two_words_are_shown(copy: Path) -> None:
    plain = json.dumps(results()).replace("_wt", "_whole_tumor").replace('"wt"', '"whole_tumor"')
    content = json.loads(plain)
    content["summary"]["hd95_whole_tumor"] = ROW
    (copy / "results.json").write_text(json.dumps(content))
    text = study_page(copy)
    raw, rest = text.split("<h2>All cases, cleaned</h2>")
    assert "<tr><th>dice</th><td>WHOLE_TUMOR</td><td>0.612</td>" in raw and "reference_volume" not in raw
    assert "<tr><th>hd95</th><td>WHOLE_TUMOR</td><td>0.6</td>" in raw  # mm have one digit
    assert "<tr><th>dice</th><td>WHOLE_TUMOR</td><td>0.700</td>" in rest
    for heading in ("Dice WHOLE_TUMOR", "dice WHOLE_TUMOR", "hd95 mean"):
        assert f"<button>{heading}</button>" in rest
