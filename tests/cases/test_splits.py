import json
import random
from pathlib import Path

import pytest

from raum_lightning.cases.case import Case
from raum_lightning.cases.splits import make_split, read_split
from raum_lightning.errors import SplitError
from raum_lightning.labels import EDITIONS


def cases(names: list[str]) -> list[Case]:
    return [Case(name, EDITIONS["brats2023"], {}) for name in names]


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


def test_a_new_case_moves_few_others() -> None:
    before, after = make_split(MANY, test_fraction=0.2), make_split([*MANY, *cases(["new"])], test_fraction=0.2)
    assert len(set(before.test) ^ set(after.test)) <= 4


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
    path.write_text("[")
    with pytest.raises(SplitError, match="is not a split"):
        read_split(path, MANY)


@pytest.mark.parametrize("visit", ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001"])
def test_parts_of_a_file_share_no_patients_but_by_intention(tmp_path: Path, visit: str) -> None:
    path, first, second = tmp_path / "splits.json", "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"
    path.write_text(json.dumps({"train": [first, second], "val": ["BraTS-GLI-00003-000", visit]}))
    with pytest.raises(SplitError, match="BraTS-GLI-00001 in both train and val"):
        read_split(path, MANY)
    path.write_text(json.dumps({"train": [first, second], "val": [visit], "test": [visit]}))
    assert read_split(path, MANY).val == [visit]
