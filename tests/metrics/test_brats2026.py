"""Scores of BraTS 2025 and later, side by side with the organisers' package on the same files."""

import csv
import json
import sys
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from raum_lightning.cli import main
from raum_lightning.cli.network_scores import Row, show
from raum_lightning.datasets import presets
from raum_lightning.labels import ED, ET, NCR, RC
from raum_lightning.metrics import DEFAULT, METRICS
from raum_lightning.metrics.evaluation import Evaluation, evaluate
from raum_lightning.metrics.measures import part_name
from tests.helpers.pairs import Labels, blob, predicted, same, tumour

SHAPE = (40, 34, 28)
# the columns of the organisers' tables, by our names
BOTH = {
    "all_instance_tp": "lesion_tp",
    "all_instance_fp": "lesion_fp",
    "all_instance_fn": "lesion_fn",
    "all_instance_prec": "lesion_precision",
    "all_instance_rec": "lesion_recall",
    "all_instance_f1": "lesion_f1",
    "global_dsc": "dice",
    "global_nsd": "nsd_05",
    "global_hd95": "hd95",
}
SEG = BOTH | {
    "lesionwise_dsc_mean": "lesion_dice",
    "lesionwise_dsc_std": "lesion_dice_std",
    "lesionwise_nsd_mean": "lesion_nsd_10",
    "lesionwise_nsd_std": "lesion_nsd_10_std",
    "lesionwise_hd95_mean": "lesion_hd95",
    "lesionwise_hd95_std": "lesion_hd95_std",
}
NAMES = {"tp": "tp", "fp": "fp", "fn": "fn", "prec": "precision", "rec": "recall", "f1": "f1"}
METS = (
    BOTH
    | {f"{size}_instance_{name}": f"mets_{size}_{ours}" for size in ("large", "small") for name, ours in NAMES.items()}
    | {
        f"lesionwise_{theirs}_{kind}": f"mets_{ours}{'_std' if kind == 'std' else ''}"
        for theirs, ours in (("dsc", "dice"), ("hd95", "hd95"), ("nsd", "nsd_10"))
        for kind in ("mean", "std")
    }
)
REGIONS = ("wt", "tc", "et", "netc", "snfh", "rc")
# the class that is the region, by the name that it has here
OURS = {"netc": "ncr", "snfh": "ed"}


def pairs() -> dict[str, tuple[Labels | None, Labels]]:
    """Prediction and reference by the number of the subject: empty sides, ties, and at random."""
    empty, rng = np.zeros(SHAPE, np.uint8), np.random.default_rng(3)
    lesion = empty.copy()
    for value, radius in ((ED, 8), (ET, 6), (NCR, 3)):
        lesion[blob(SHAPE, (14, 16, 14), radius)] = value
    apart = np.roll(lesion, 20, axis=0)
    two, bridge = empty.copy(), empty.copy()
    for corner in (4, 20):
        two[corner : corner + 8, 6:14, 6:14] = ET
    bridge[4:28, 6:14, 6:14] = ET
    shells = lesion.copy()
    shells[blob(SHAPE, (14, 16, 14), 3)] = RC
    # lesions of 19 and 20 mm³, found with a Dice under and over .1
    sizes, halves = lesion.copy(), lesion.copy()
    for x, voxels in ((28, 19), (34, 20)):
        sizes[x, 4 : 4 + voxels, 4] = ET
        halves[x, 3:5, 4] = ET
    found: dict[str, tuple[Labels | None, Labels]] = {}
    built = [(empty, empty), (empty, lesion), (lesion, empty), (lesion, lesion), (apart, lesion), (bridge, two)]
    built += [(two, bridge), (shells, lesion), (lesion, shells), (halves, sizes), (sizes, halves), (two[::-1], two)]
    for number, (prediction, reference) in enumerate(built):
        found[f"{number:05d}"] = prediction, reference
    found["00090"] = None, lesion
    found["00091"] = None, empty
    for number in range(100, 112):
        reference = tumour(rng, SHAPE, lesions=int(rng.integers(1, 7)), cavity=number % 2 == 0)
        found[f"{number:05d}"] = predicted(rng, reference), reference
    return found


def write(folder: Path, subject: str, labels: Labels) -> None:
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(presets()["brats2024"].decode(labels), np.eye(4)), folder / f"case-{subject}.nii.gz")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brats2026")
    for subject, (prediction, reference) in pairs().items():
        write(root / "references", subject, reference)
        if prediction is not None:
            write(root / "predictions", subject, prediction)
    return root


@pytest.fixture(scope="module")
def ours(folders: Path) -> Evaluation:
    sides = {f"dataset_{side}": "brats2024" for side in ("predictions", "references")}
    chosen = {"metrics": ["all"], "classes": ["NCR", "ED", "RC"], "rules": "brats2026", "workers": 1}
    return evaluate(folders / "predictions", folders / "references", **chosen, **sides)


@pytest.fixture(scope="module")
def organisers(folders: Path) -> Path:
    """Their JSON and both of their tables, for the groups of `gli`, which are those of `mets` and two more."""
    pytest.importorskip("brats_evaluation", reason="pip install --no-deps -r tests/metrics/organisers.txt")
    paths = ["--ref_path", folders / "references", "--pred_path", folders / "predictions"]
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        # the counts of NumPy 2.3 and later are no longer Python's, of which JSON knows
        patch.setattr(json, "dump", partial(json.dump, default=int))
        run(patch, "evaluation", *paths, "--config", "gli", "--summary_json", folders / "theirs.json")
        for table in ("seg", "mets"):
            out = folders / f"{table}.csv"
            run(patch, "metrics_parser", table, "--json_path", folders / "theirs.json", "--output_csv_path", out)
    return folders


def run(patch: pytest.MonkeyPatch, module: str, *words: str | Path) -> None:
    patch.setattr(sys, "argv", [module, *map(str, words)])
    import_module(f"brats_evaluation.{module}").main()


@pytest.mark.slow
@pytest.mark.parametrize(("table", "columns"), [("seg", SEG), ("mets", METS)])
def test_equals_the_organisers_package(organisers: Path, ours: Evaluation, table: str, columns: dict[str, str]) -> None:
    with (organisers / f"{table}.csv").open() as file:
        rows = {row["subject_id"]: row for row in csv.DictReader(file)}
    statistics = {
        kind: {name: getattr(summary, kind) for name, summary in ours.summary.items()}
        for kind in ("mean", "std", "median")
    }
    subjects = [(case, f"{case}.nii.gz", scores) for case, scores in ours.scores.items()]
    subjects += [(kind, kind, scores) for kind, scores in statistics.items()]
    assert {subject for _, subject, _ in subjects} == set(rows)
    assert {column.rpartition("_")[0] for row in rows.values() for column in row} == {*columns, "subject"}
    pairs = [
        (case, f"{name}_{OURS.get(region, region)}", scores, rows[subject][f"{column}_{region}"])
        for column, name in columns.items()
        for region in REGIONS
        for case, subject, scores in subjects
    ]
    wrong = [(case, key, scores[key], text) for case, key, scores, text in pairs if not same(scores[key], number(text))]
    assert not wrong, wrong[:8]


def number(text: str) -> float:
    return float(text) if text else float("nan")


def test_empty_sides_and_missing_subjects(ours: Evaluation) -> None:
    keys = ("dice_et", "hd95_et", "nsd_05_et", "lesion_dice_et", "lesion_hd95_et", "lesion_f1_et")
    found = {case: [ours.scores[f"case-{case}"][key] for key in keys] for case in ("00000", "00001", "00002", "00090")}
    assert np.isnan(found["00000"]).all()  # nothing to find
    assert found["00001"] == found["00002"] == [0, 373, 0, 0, np.inf, 0]
    assert found["00090"] == [0, 373, 0, 0, 373, 0]  # a missing prediction
    assert ours.missing == ["case-00090", "case-00091"]
    assert ours.scores["case-00090"]["reference_volume_wt"] > 0 == ours.scores["case-00091"]["reference_volume_wt"]


def test_what_is_no_number_is_none_in_json(ours: Evaluation, tmp_path: Path) -> None:
    ours.save(tmp_path / "scores.json")
    text = (tmp_path / "scores.json").read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    assert content["cases"]["case-00000"]["dice_et"] is None
    assert content["cases"]["case-00001"]["lesion_hd95_et"] == "inf"
    assert content["rules"]["name"] == "brats2026" and content["rules"]["one_to_one"] is True
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert rows[0]["dice_et"] == "" and rows[1]["lesion_hd95_et"] == "inf" and rows[0]["rules"] == "brats2026"


@pytest.mark.parametrize(
    ("name", "parted"),
    [
        ("dice_wt", ("dice", "wt")),
        ("dice_whole_tumor", ("dice", "whole_tumor")),
        ("dice_mean", ("dice", "mean")),
        ("lesion_dice_tumor_core", ("lesion_dice", "tumor_core")),
        ("lesion_dice_std_tumor_core", ("lesion_dice_std", "tumor_core")),
        ("lesion_f1_et", ("lesion_f1", "et")),
        ("lesion_f1_small_et", ("lesion_f1_small", "et")),
        ("lesion_f1_small", ("lesion_f1", "small")),
        ("nsd_05_enhancing_tumor", ("nsd_05", "enhancing_tumor")),
        ("mets_large_f1_enhancing_tumor", ("mets_large_f1", "enhancing_tumor")),
        ("reference_volume_whole_tumor", ("reference_volume", "whole_tumor")),
        ("volume_error_ml_whole_tumor", ("volume_error_ml", "whole_tumor")),
        ("volume_mean", ("volume", "mean")),
        # what stands before it
        ("cleaned/dice_whole_tumor", ("cleaned/dice", "whole_tumor")),
        ("flair/dice_wt", ("flair/dice", "wt")),
        ("dice_a/b", ("dice", "a/b")),
        # no score
        ("dicewt_a_b", ("dicewt_a", "b")),
        ("seconds_sd", ("seconds", "sd")),
        ("dice", ("", "dice")),
        ("", ("", "")),
    ],
)
def test_a_score_is_parted_where_its_metric_ends(name: str, parted: tuple[str, str]) -> None:
    assert part_name(name) == parted


@pytest.mark.parametrize("region", ["wt", "whole_tumor", "mean", "non_enhancing_core"])
def test_every_metric_is_parted_from_any_region(region: str) -> None:
    assert [part_name(f"{metric}_{region}") for metric in METRICS] == [(metric, region) for metric in METRICS]


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    """`data`, of nnU-Net, whose regions have two words, with two references, and `predictions` of the first."""
    labels = np.zeros((12, 12, 12), np.uint8)
    for inset in range(3):
        labels[(slice(1 + inset, 11 - inset),) * 3] = inset + 1
    content = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
        "regions_class_order": [1, 2, 3],
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    for folder in ("data/imagesTr", "data/labelsTr", "predictions"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/dataset.json").write_text(json.dumps(content))
    mask = nib.Nifti1Image(labels, np.eye(4))
    for case in ("BRATS_001", "BRATS_002"):
        nib.save(mask, tmp_path / f"data/imagesTr/{case}_0000.nii.gz")
        nib.save(mask, tmp_path / f"data/labelsTr/{case}.nii.gz")
    nib.save(mask, tmp_path / "predictions/BRATS_001.nii.gz")
    return tmp_path


def test_a_missing_prediction_of_regions_of_two_words(nnunet: Path) -> None:
    words = ["evaluate", "--predictions", str(nnunet / "predictions"), "--references", str(nnunet / "data")]
    words += ["--rules", "brats2026", "--metrics", "dice", "hd95", "lesion_f1", "--out", str(nnunet / "scores.json")]
    assert main(words) == 1
    cases = json.loads((nnunet / "scores.json").read_text())["cases"]
    for part in ("whole_tumor", "tumor_core", "enhancing_tumor", "mean"):
        names = [f"{metric}_{part}" for metric in ("dice", "hd95", "lesion_f1")]
        assert [cases["BRATS_001"][name] for name in names] == [1, 0, 1]
        assert [cases["BRATS_002"][name] for name in names] == [0, 373, 0]
    assert cases["BRATS_002"]["reference_volume_whole_tumor"] == 1


def test_the_worst_cases_stand_below_metric_and_region(
    nnunet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    words = ["evaluate", "--predictions", str(nnunet / "predictions"), "--references", str(nnunet / "data")]
    assert main([*words, "--metrics", "dice", "nsd_05"]) == 1
    head = capsys.readouterr().out.split("worst by mean dice")[1].splitlines()[1:4]
    assert [line.split() for line in head] == [
        ["nsd"],
        ["dice", "dice", "dice", "05"],
        ["case", "WHOLE_TUMOR", "TUMOR_CORE", "ENHANCING_TUMOR", "mean"],
    ]


def test_scores_of_networks_stand_below_metric_and_region(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("none", {"dice_whole_tumor": 0.5, "nsd_05_et": 0.25, "dice_mean": 0.75})
    show([row], "without", "networks", ["dice", "nsd_05"], DEFAULT)
    head = capsys.readouterr().out.splitlines()
    assert ["dice", "nsd_05", "dice"] in [line.split() for line in head]
    assert ["without", "WHOLE_TUMOR", "ET", "mean"] in [line.split() for line in head]
