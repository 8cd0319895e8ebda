"""`experiments/hardware`: each file goes with an experiment, and says nothing that is not of a machine."""

from pathlib import Path

import pytest
import yaml

from raum_lightning.cli import main, plan
from tests.helpers import DEBUG, EXPERIMENTS
from tests.helpers.cases import write_brats_cases
from tests.helpers.small import shrink

FILES = sorted((EXPERIMENTS / "hardware").glob("*.yaml"))
# keys that change how a training runs, not what it trains; batches are of as many patches in all as the paper's at most
OF_MACHINES = {
    "module": {"network", "sw_batch_size", "compile"},
    "data": {"batch_size", "num_workers", "augment_on"},
    "trainer": {"accelerator", "devices", "precision", "accumulate_grad_batches"},
}


def test_there_is_one_for_each_machine() -> None:
    assert [file.stem for file in FILES] == ["cpu", "gpu_16gb_t4", "gpu_24gb", "gpu_80gb", "gpu_8gb", "mps"]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_a_second_file_of_an_experiment(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where shipped files are found by name
    own = yaml.safe_load(file.read_text())
    for group, keys in own.items():
        assert set(keys) <= OF_MACHINES[group]
    assert own.get("module", {}).get("network", {}) in ({}, {"init_args": {"checkpointing": "decoder"}})
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "-c", "unetr_flair_t1ce.yaml", "-c", f"hardware/{file.name}", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    for group in ("data", "trainer"):
        assert {key: shown[group][key] for key in own[group]} == own[group]
    patches = shown["data"]["batch_size"] * shown["trainer"].get("accumulate_grad_batches", 1)
    assert patches in (2, 6) and shown["data"]["patches_per_epoch"] % patches == 0
    assert ("Not run on" in file.read_text()) != ("Measured on" in file.read_text())


@pytest.mark.slow
def test_the_file_for_a_cpu_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 6)
    first, small = shrink(EXPERIMENTS / "unetr.yaml", tmp_path)[1::2]
    words = ["-c", first, "-c", small, "-c", "hardware/cpu.yaml", "--data.root", "cases", "--data.num_workers", "0"]
    assert main(["fit", *words, "--run.id", "one", "--trainer.max_steps", "1"]) == 0
    said = yaml.safe_load(Path("runs/unetr/one/config.yaml").read_text())  # the experiment, not the machine, names it
    assert said["data"]["batch_size"] == 1 and said["trainer"]["accumulate_grad_batches"] == 2


@pytest.mark.slow
def test_fit_plan_is_raum_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[list[str]] = []

    def measured(words: list[str]) -> dict[str, object]:
        asked.append(words)
        numbers = {
            "batch": 1,
            "accumulated": 1,
            "memory": 2**30,
            "seconds": 1.8,
            "seconds_of_case": 2.5,
            "seconds_of_patch": 0.5,
            "workers": 0,
            "voxels": 10**6,
            "steps": 2000,
            "time": None,
            "channels": 3,
            "cases": 0,
        }
        names = {"network": "UNETR", "precision": "32-true", "device": "CPU", "checkpointing": False}
        return numbers | names | {"peak": 2**20, "checkpoint": 10**9}

    monkeypatch.setattr(plan, "measure_apart", measured)
    words = ["-c", DEBUG, "--data.root", "cases", "--data.batch_size", "1"]
    assert main(["plan", *words]) == main(["fit", *words, "--plan"]) == 0
    assert asked[0] == asked[1] == words
    first, second = capsys.readouterr().out.split("UNETR")[1:]
    assert first == second
    assert main(["fit", "-c", DEBUG, "--plan", "--data.batch_sise", "1"]) == 2
    assert "data.batch_sise" in capsys.readouterr().err
