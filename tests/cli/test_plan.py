"""`raum plan`: what is measured, which keys make it fit, and the file of them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from raum_lightning.cli import main, plan
from raum_lightning.data.augment.batch import BatchAugmentation
from tests.helpers import DEBUG


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_it_takes_steps_and_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "measure_apart", plan.measure)
    assert main(["plan", "-c", DEBUG]) == 0
    said = capsys.readouterr().out
    assert "UNETR, batch " in said and " s a step\n" in said and "schedule: 4 steps, 0.0 h" in said
    assert " patches a second from the main process, between steps" in said
    # 0.47 M weights of 4 bytes, three times
    assert "checkpoints: three files of 6 MB at most" in said
    # 140 x 175 x 140 voxels of three modalities in 2 bytes and a mask in 1
    assert "prepared cases: about 24 MB each (estimate for BraTS)" in said
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_a_run_that_time_ends_takes_as_many_steps_as_fit_into_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "-c",
        DEBUG,
        "--data.dataset",
        "brats2020",
        "--trainer.max_steps",
        "-1",
        "--trainer.max_time",
        "00:01:30:00",
    ]
    plan._print_rest(plan.measure(words))
    said = capsys.readouterr().out
    assert re.search(r"schedule: at most \d+ steps, 1\.5 h with waiting", said), said


@pytest.mark.slow
def test_the_augmentation_is_in_the_step_where_it_runs_on_the_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []
    augmented = BatchAugmentation.__call__

    def counted(*given: Any) -> Any:
        calls.append(1)
        return augmented(*given)

    monkeypatch.setattr(BatchAugmentation, "__call__", counted)
    found = plan.measure(["-c", DEBUG, "--data.dataset", "brats2020", "--data.augment_on", "device"])
    assert len(calls) == 5 and found["batch"] == 2, "a step to warm up, three that are timed, one after the validation"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{trainer: {}}", ["--data.dataset", "brats2020"]),
        ("{data: {dataset: auto, root: none}}", ["--data.dataset", "brats2020"]),
        ("{data: {dataset: brats2024}}", []),
        ("{data: {root: .}}", []),
    ],
)
def test_the_data_set_is_that_of_the_files(content: str, words: list[str]) -> None:
    Path("own.yaml").write_text(content)
    assert plan._data_set(["-c", "own.yaml"]) == words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "keys"),
    [
        (10, {}),
        (7, {"module": {"network": {"init_args": {"checkpointing": "all"}}}}),
        (
            4,
            {
                "module": {"network": {"init_args": {"checkpointing": "all"}}},
                "data": {"batch_size": 1},
                "trainer": {"accumulate_grad_batches": 4},
            },
        ),
        (1, None),
    ],
)
def test_the_first_way_that_fits_is_written(
    room: float, keys: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Peaks of 9 GiB as asked for, 8 and 6 with checkpointing, and 3 for a batch of 1."""

    def measured(words: list[str]) -> dict[str, Any]:
        peak = 3 if "--data.batch_size" in words else 6 if "all" in words else 8 if "decoder" in words else 9
        numbers = {
            "batch": 2,
            "accumulated": 2,
            "memory": 0,
            "seconds": 1.8,
            "seconds_of_case": 12.3,
            "seconds_of_patch": 0.25,
            "workers": 2,
            "voxels": 3_430_000,
            "steps": 2000,
            "time": None,
            "channels": 3,
            "cases": 100,
        }
        names = {"network": "UNETR", "precision": "32-true", "device": "CPU", "checkpointing": True}
        return names | numbers | {"peak": peak * plan.GIB, "checkpoint": 10**9}

    monkeypatch.setattr(plan, "measure_apart", measured)
    words = ["plan", "-c", DEBUG, "--memory", str(room), "--out", "fits.yaml"]
    assert main(words) == (1 if keys is None else 0)
    said = capsys.readouterr().out
    assert "schedule: 2000 steps, 1.0 h" in said and "2.4 GB for 100" in said
    assert "validation: 12.3 s a case" in said
    # batches of 2, two of which make a step of 1.8 s
    assert "data: 8 patches a second from 2 workers; the steps alone would take 2.22" in said
    if keys is None:
        assert "nothing that was tried fits into 1.0 GiB" in said and not Path("fits.yaml").exists()
    else:
        named = {"run": {"experiment": Path(DEBUG).stem}}
        assert yaml.safe_load(Path("fits.yaml").read_text()) == named | keys
        assert main(words) == 0  # its own file may be written again
    assert main([*words[:-1], "fits.txt"]) == 2
