"""What may not change within a cross-validation, each refused before the next fold is trained or predicted."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cases.splits import Split
from raum_lightning.cli import cross_validate, main
from raum_lightning.datasets import presets
from raum_lightning.errors import CheckpointError, RunError, SplitError
from raum_lightning.runs.folder import RunFolder
from raum_lightning.runs.study_folder import StudyFolder
from raum_lightning.studies.prediction import check_unseen
from raum_lightning.studies.study import Study, check_folds_apart
from raum_lightning.studies.training import note, seconds_of, train_folds, training_of
from raum_lightning.yaml_files import read_yaml
from tests.helpers.cases import write_brats_cases

A, B, C, D = (f"BraTS20_Training_{number:03d}" for number in range(1, 5))
FOLDS = [Split(train=[C, D], val=[A, B], test=[]), Split(train=[A, B], val=[C, D], test=[])]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Of two folds, begun."""
    cases = {case.id: case for case in find_cases(write_brats_cases(tmp_path / "cases", 4))}
    folder = StudyFolder(tmp_path / "runs/small/cv-2fold")
    begun = Study(folder, {"run": {}, "data": {}}, FOLDS, cases, ["flair"], ["-c", "small.yaml"])
    begun.begin()
    return begun


def checkpoint(study: Study, fold: int, trained: Sequence[str] | None) -> None:
    path = study.folder.run(fold).last
    path.parent.mkdir(parents=True)
    torch.save({} if trained is None else {"trained": list(trained)}, path)


def test_folds_that_share_a_patient_are_refused_whatever_the_visit() -> None:
    ids = ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000", "BraTS-GLI-00003-000")
    cases = {name: Case(name, presets()["brats2023"], {}) for name in ids}
    one, again, two, three = ids
    check_folds_apart([Split([two], [one, again], []), Split([one, again], [two], [three])], cases)
    with pytest.raises(SplitError, match="folds 0 and 1 both validate BraTS-GLI-00001; in a cross-validation"):
        check_folds_apart([Split([two], [one], []), Split([three], [again], [])], cases)
    for split in (Split([again, two], [one], []), Split([two], [one], [again])):
        with pytest.raises(SplitError, match="fold 0 validates BraTS-GLI-00001 and has them in train or test"):
            check_folds_apart([split, Split([one], [three], [])], cases)


def test_data_that_change_between_folds_stop_the_next_one(study: Study) -> None:
    begun: list[Sequence[str]] = []

    class Changing:
        """A fold during which another image comes into the folder of the data."""

        peak_mb = 1.0

        def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
            begun.append(words)
            checkpoint(study, 0, [C, D])

        def poll(self) -> int:
            image = study.cases[C].images["flair"]
            image.write_bytes(image.read_bytes() + b"0")
            return 0

        def stop(self) -> None:
            raise AssertionError

    with pytest.raises(RunError, match=rf"the data have changed since it began \({C}\)"):
        train_folds(study, start=Changing, say=lambda line: None)
    assert len(begun) == 1
    # the fold that has ended is kept
    assert json.loads(study.folder.training.read_text())["0"][0]["code"] == 0


def test_a_fold_that_has_seen_a_case_does_not_predict_it(study: Study) -> None:
    checkpoint(study, 0, [C, D])
    check_unseen(study, 0)
    checkpoint(study, 1, [A, B, D])
    with pytest.raises(RunError, match=rf"was trained on {D}, which fold 1 has to predict; move"):
        check_unseen(study, 1)


def test_a_checkpoint_that_does_not_say_what_it_has_seen_is_refused(study: Study) -> None:
    checkpoint(study, 0, None)
    with pytest.raises(CheckpointError, match="does not say which cases trained it"):
        check_unseen(study, 0)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"command": 3}', '{"command": [], "code": {}, "splits": "", "cases": {}}']
)
def test_a_damaged_study_is_named(study: Study, text: str) -> None:
    study.folder.study.write_text(text)
    with pytest.raises(RunError, match=r"study\.json: "):
        study.begin()
    study.folder.splits.write_text(text)
    with pytest.raises(RunError, match=r"splits\.json: "):
        study.folder.count_folds()


def test_only_one_process_continues_it(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cross_validate, "_begin", lambda args: study)
    lock = RunFolder(study.folder.path).lock
    lock.write_text(f"{socket.gethostname()} {os.getppid()} -")
    assert main(["cross-validate"]) == 2
    assert f"process {os.getppid()} on" in (said := capsys.readouterr().err) and "give another --id" in said
    assert lock.exists() and not study.folder.training.exists()


def test_other_folds_or_settings_are_another_cross_validation(study: Study) -> None:
    study.begin()  # the same continues
    for change, said in (
        ({"splits": list(reversed(FOLDS))}, "began with other folds"),
        ({"config": {"run": {}, "data": {"folds": 3}}}, "was begun with data.folds None and not 3"),
    ):
        with pytest.raises(RunError, match=said):
            Study(**{**vars(study), **change}).begin()


def test_what_changes_no_result_may_change_and_counts_from_now_on(study: Study) -> None:
    elsewhere = replace(study, config={"run": {}, "data": {"root": "/elsewhere"}})
    elsewhere.begin()
    assert "root" not in read_yaml(study.folder.config)[0]["data"], "until the lock is held"
    elsewhere.write_config()
    assert read_yaml(study.folder.config)[0]["data"]["root"] == "/elsewhere"
    with pytest.raises(RunError, match=r"was begun with data\.batch_size None and not 3"):
        replace(study, config={"run": {}, "data": {"batch_size": 3}}).begin()


def test_a_pause_between_two_attempts_is_no_training(study: Study) -> None:
    last = study.folder.run(0).last
    last.parent.mkdir(parents=True)
    note(study, 0, started=0.0)
    last.touch()
    os.utime(last, (100, 100))

    class Stopped:
        """A fold whose training is interrupted by Ctrl-C."""

        peak_mb = 1.0

        def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
            os.utime(last, (50_100, 50_100))

        def poll(self) -> None:
            raise KeyboardInterrupt

        def stop(self) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        train_folds(study, start=Stopped, say=lambda line: None)
    first, second = training_of(study, 0)
    assert (first["started"], first["ended"]) == (0, 100)
    assert seconds_of(study, 0) == pytest.approx(100 + second["ended"] - second["started"])
