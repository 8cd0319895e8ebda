import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raum_lightning.cases.case import Case
from raum_lightning.cases.patients import patient_of
from raum_lightning.cases.splits import make_split, read_split
from raum_lightning.datasets import presets
from raum_lightning.errors import SplitError


def cases(names: list[str]) -> list[Case]:
    return [Case(name, presets()["brats2023"], {}) for name in names]


MANY = cases([f"BraTS-GLI-{patient:05d}-{visit:03d}" for patient in range(40) for visit in range(1 + patient % 3)])


def test_every_case_validates_in_one_fold_and_the_test_set_is_the_same() -> None:
    splits = [make_split(MANY, fold=fold) for fold in range(5)]
    assert all(split.test == splits[0].test for split in splits)
    ids = sorted(case.id for case in MANY)
    assert sorted(splits[0].test + [name for split in splits for name in split.val]) == ids
    for split in splits:
        assert sorted(split.train + split.val + split.test) == ids


def test_visits_of_one_patient_stay_together() -> None:
    split = make_split(MANY)
    parts = [{name.rsplit("-", 1)[0] for name in part} for part in (split.train, split.val, split.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert all(parts)


def test_the_order_of_files_does_not_matter_and_the_seed_does() -> None:
    shuffled = random.Random(0).sample(MANY, len(MANY))
    assert make_split(shuffled) == make_split(MANY)
    assert make_split(MANY, seed=1) != make_split(MANY)


@pytest.mark.slow
@given(
    patients=st.integers(7, 80), folds=st.integers(2, 5), share=st.sampled_from([0, 0.1, 0.34]), new=st.integers(0, 999)
)
def test_a_patient_more_moves_no_more_patients_than_there_are_folds(
    patients: int, folds: int, share: float, new: int
) -> None:
    """And the parts stay balanced within one, with all visits of a patient in one of them."""
    ids = [f"BraTS-GLI-{patient:05d}-{visit:03d}" for patient in range(patients) for visit in range(1 + patient % 2)]

    def parts(names: list[str]) -> dict[str, int]:
        """Part of each patient: -1 test, else the fold that it validates in."""
        splits = [make_split(cases(names), folds=folds, fold=fold, test_fraction=share) for fold in range(folds)]
        where = [(-1, splits[0].test), *enumerate(split.val for split in splits)]
        found = {(patient_of(name), part) for part, listed in where for name in listed}
        assert len(found) == len({patient for patient, _ in found}) == len({patient_of(name) for name in names})
        sizes = Counter(part for _, part in found if part >= 0)
        assert len(sizes) == folds and max(sizes.values()) - min(sizes.values()) <= 1
        return dict(found)

    before, after = parts(ids), parts([*ids, f"BraTS-GLI-{10_000 + new:05d}-000"])
    assert sum(after[patient] != part for patient, part in before.items()) <= folds


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001"),
        ("BraTS-MEN-RT-0001-1", "BraTS-MEN-RT-0001"),
        ("UPENN-GBM-00001_21", "UPENN-GBM-00001"),
        ("UCSD-PTGBM-0001_02", "UCSD-PTGBM-0001"),
        ("UCSF-PDGM-0429_FU003d", "UCSF-PDGM-0429"),
        ("sub-001_ses-02", "sub-001"),
        ("sub-anna_ses-postop", "sub-anna"),
        ("PatientID_0003_Timepoint_1", "PatientID_0003"),
        ("p01_T1", "p01"),
        ("P12-v2", "P12"),
        ("007_preop", "007"),
        ("case3_post", "case3"),
        ("Site2_T1", "Site2_T1"),
        ("Site12_T01", "Site12_T01"),
        ("study_T2", "study_T2"),
        ("Patient-001_week-044-2", "Patient-001"),
        ("TCGA-02-0003_1997.06.08", "TCGA-02-0003"),
        ("P12_20190304", "P12"),
        ("Brats18_TCIA01_131_1", "Brats18_TCIA01_131"),
        ("BraTS19_2013_2_1", "BraTS19_2013_2"),
        *(
            (one, one)
            for one in ("BraTS20_Training_001", "BraTS2021_00000", "BRATS_001", "UCSF-PDGM-0004", "brain_scan_01")
        ),
    ],
)
def test_visits_are_recognised_by_name(case: str, patient: str) -> None:
    assert cases([case])[0].patient == patient


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, r"data\.folds=1 must be 2 or more"),
        ({"folds": 0}, r"data\.folds=0 must be 2 or more"),
        ({"fold": 5}, r"data\.fold=5 does not exist: data\.folds=5 are numbered 0 to 4"),
        ({"fold": -1}, r"data\.fold=-1 does not exist"),
        ({"test_fraction": 1.0}, r"data\.test_fraction=1\.0 must be at least 0 and below 1"),
        ({"test_fraction": float("nan")}, r"data\.test_fraction=nan must be"),
    ],
)
def test_numbers_that_nothing_can_be_split_by(options: dict[str, float], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        make_split(MANY, **options)


def test_three_cases_are_enough() -> None:
    split = make_split(cases(["a", "b", "c"]))
    assert [len(part) for part in (split.train, split.val, split.test)] == [1, 1, 1]
    with pytest.raises(SplitError, match="2 patients cannot be split"):
        make_split(cases(["a", "b"]))
    with pytest.raises(SplitError, match="fold 2 does not exist: 2 patients give 2 folds, 0 to 1"):
        make_split(cases(["a", "b", "c"]), fold=2)


def test_a_file_decides(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    split = make_split(MANY)
    split.save(path)
    assert read_split(path, MANY) == split
    path.write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    assert read_split(path, cases(["a", "b"]), fold=1).val == ["a"]
    with pytest.raises(SplitError, match="has no fold 2"):
        read_split(path, cases(["a", "b"]), fold=2)
    with pytest.raises(SplitError, match="1 ids are not among the cases with a mask: b"):
        read_split(path, cases(["a"]))
    with pytest.raises(SplitError, match="fold -1 does not exist: folds count from 0"):
        read_split(path, cases(["a", "b"]), fold=-1)
    for text in ("[", "[" * 100_000, '{"train": "ab"}', '{"val": {"a": 1}}', '{"test": [[1]]}', "5", '{"train": null}'):
        path.write_text(text)
        with pytest.raises(SplitError, match="is not a split"):
            read_split(path, MANY)


@pytest.mark.parametrize("visit", ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001"])
def test_parts_of_a_file_share_no_patients_but_by_intention(tmp_path: Path, visit: str) -> None:
    """To validate on the cases that train is meant; on other visits of their patients it is a mistake."""
    path, first, second = tmp_path / "splits.json", "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"
    for val in (["BraTS-GLI-00003-000", visit], ["BraTS-GLI-00001-001"]):
        path.write_text(json.dumps({"train": [first, second], "val": val}))
        with pytest.raises(SplitError, match="BraTS-GLI-00001 in both train and val"):
            read_split(path, MANY)
    path.write_text(json.dumps({"train": [visit, second], "val": [visit], "test": [visit]}))
    assert read_split(path, MANY).val == [visit]


def test_cases_that_the_data_set_holds_out_only_test(tmp_path: Path) -> None:
    own = [replace(case, held_out=case.id.startswith("BraTS-GLI-0000")) for case in MANY]
    kept = [case.id for case in own if case.held_out]
    rest = [case for case in own if not case.held_out]
    for fold in range(5):
        split = make_split(own, fold=fold, test_fraction=0.5)
        assert split.test == kept
        assert sorted(split.train + split.val) == sorted(case.id for case in rest)
    one = [replace(case, held_out=case.id == "BraTS-GLI-00001-001") for case in MANY]  # of a patient with two visits
    split = make_split(one)
    assert split.test == ["BraTS-GLI-00001-001"] and "BraTS-GLI-00001-000" not in {*split.train, *split.val}
    path = tmp_path / "splits.json"
    path.write_text(json.dumps([{"train": [rest[0].id], "val": [rest[-1].id]}]))
    assert read_split(path, own).test == kept
    path.write_text(json.dumps({"train": ["BraTS-GLI-00001-000"], "val": [rest[-1].id]}))
    assert read_split(path, one).test == []
    path.write_text(json.dumps({"train": [rest[0].id], "val": [rest[-1].id], "test": []}))
    assert read_split(path, own).test == []
