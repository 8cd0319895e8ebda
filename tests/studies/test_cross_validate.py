"""`raum cross-validate`: folds that are trained once, predictions by the fold that has not seen a case, and tables."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raum_lightning.cli import main
from raum_lightning.inference.exported import read_safetensors
from raum_lightning.metrics.statistics import summarise
from raum_lightning.runs.study_folder import StudyFolder
from raum_lightning.studies import training
from raum_lightning.studies.training import Process
from tests.helpers import DEBUG
from tests.helpers.cases import write_brats_cases
from tests.helpers.ranks import signal_at, start
from tests.helpers.shared import made_once

pytestmark = pytest.mark.slow
FOLDER, CASE = Path("runs/debug/cv-2fold"), "BraTS20_Training_002"
WORDS = ["cross-validate", "-c", DEBUG, "--data.root", "cases", "--folds", "2", "--data.test_fraction", "0"]
WORDS += ["--data.patches_per_epoch", "4", "--data.batch_size", "2", "--trainer.callbacks", "[]"]
WORDS += ["--trainer.logger", "raum_lightning.loggers.CSVLogger", "--trainer.precision", "32-true"]


class Forked:
    """A fold in a process that has imported everything already; `more` adds words to one."""

    started: list[list[str]]
    environments: list[dict[str, str]]
    more: Callable[[Sequence[str]], list[str]]
    peak_mb = 1.0

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
        type(self).started.append([*words])
        type(self).environments.append({**environment})
        self.process: ForkServerProcess = start(Path.cwd(), [*words, *type(self).more(words)], {**environment})

    def poll(self) -> int | None:
        self.process.join(0.1)
        return self.process.exitcode

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> type[Forked]:
    monkeypatch.setattr(training, "Process", Forked)
    monkeypatch.setattr(Forked, "started", [], raising=False)
    monkeypatch.setattr(Forked, "environments", [], raising=False)
    monkeypatch.setattr(Forked, "more", staticmethod(lambda words: []), raising=False)
    return Forked


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cross-validation whose fold 1 was killed after its first epoch; and fold 1 trained at once.

    Not to be changed: `started.json` holds the words of each fold in the order in which they were started.
    """
    return made_once(tmp_path_factory, "cross-validation", train)


def train(here: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        write_brats_cases(here / "cases", 4)
        patch.setattr(training, "Process", Forked)
        Forked.started, Forked.environments = [], []
        killed = signal_at(here, 3, signal.SIGKILL)
        Forked.more = staticmethod(lambda words: killed if words[words.index("--data.fold") + 1] == "1" else [])
        assert main(WORDS) == 2
        Forked.more = staticmethod(lambda words: [])
        assert main(WORDS) == 0
        straight = [*Forked.started[1]]
        straight[straight.index("--run.id") + 1] = "straight"
        assert main([*straight, "--trainer.enable_progress_bar", "false"]) == 0
        Path("started.json").write_text(json.dumps(Forked.started))


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return found


def test_a_killed_fold_is_resumed_and_finished_ones_are_not_trained_again(
    trained: Path,
) -> None:
    started = json.loads((trained / "started.json").read_text())
    folds = [words[words.index("--data.fold") + 1] for words in started]
    assert folds == ["0", "1", "1"]
    assert [words[words.index("--run.id") + 1] for words in started[1:3]] == ["cv-2fold-fold1"] * 2
    attempts = json.loads((trained / FOLDER / "training.json").read_text())
    assert [attempt["code"] for attempt in attempts["1"]] == [-signal.SIGKILL, 0]
    resumed, whole = weights(trained / "runs/debug/cv-2fold-fold1"), weights(trained / "runs/debug/straight")
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_each_case_is_predicted_and_scored_once_by_the_fold_that_has_not_seen_it(trained: Path, tmp_path: Path) -> None:
    here = trained
    content = json.loads((here / FOLDER / "results.json").read_text())
    names = [f"BraTS20_Training_{number:03d}" for number in range(1, 5)]
    assert sorted(content["cases"]) == sorted(content["cleaned"]["cases"]) == sorted(content["fold_of"]) == names
    for case, fold in content["fold_of"].items():
        path = here / f"runs/debug/cv-2fold-fold{fold}/checkpoints/best.ckpt"
        assert case not in torch.load(path, weights_only=True)["trained"]
    assert [one["cases"] for one in content["folds"]] == [2, 2]
    assert [(one["steps"], one["patches"]) for one in content["folds"]] == [(4, 8)] * 2
    for masks in ("predictions", "cleaned"):
        assert sorted(path.name for path in (here / FOLDER / masks).glob("*.nii.gz")) == [f"{n}.nii.gz" for n in names]
    dice = [content["cases"][name]["dice_wt"] for name in names]
    expected = summarise(dice)
    assert content["summary"]["dice_wt"]["mean"] == pytest.approx(sum(dice) / 4)
    assert content["summary"]["dice_wt"]["low"] == expected.low
    with (here / FOLDER / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["masks"]) for row in rows] == [(n, m) for m in ("raw", "cleaned") for n in names]
    page = (here / FOLDER / "results.md").read_text()
    one = content["summary"]["dice_wt"]
    row = f"| dice | WT | {one['mean']:.3f} | {one['std']:.3f} | {one['median']:.3f} | {one['low']:.3f} to "
    assert row in page and "## Worst cases" in page and content["provenance"]["data"] in page
    assert f"raum {' '.join(WORDS[:3])}" in page
    found = content["calibration"]
    assert 0 <= found["after"] <= 1 and 0 < found["before"] <= 1 and f"{found['before']:.4f}" in page
    path = here / FOLDER / "ensemble.safetensors"
    assert read_safetensors(path, 0)[1].temperature == pytest.approx(found["temperature"])
    assert [sum(one[0] for one in fold["after_bins"]) for fold in found["folds"]] == [
        fold["voxels"] for fold in found["folds"]
    ]
    shared = (here / FOLDER / "ensemble.md").read_text()
    cleaned = content["cleaned"]["summary"]["dice_wt"]
    assert f"| dice | wt | {cleaned['mean']:.3f} | {cleaned['low']:.3f} to {cleaned['high']:.3f} | 4 |" in shared
    assert "2-fold cross-validation" in shared and content["provenance"]["splits"] in shared
    case = ["--case", str(here / "cases" / names[0]), "--out", str(tmp_path / "ensemble.nii.gz")]
    assert main(["segment", "--model", str(here / FOLDER / "ensemble.safetensors"), *case]) == 0
    assert (here / FOLDER / "pictures" / f"{content['worst'][0]}.png").stat().st_size > 10_000


def test_the_tables_are_made_again_from_the_predictions(
    trained: Path,
    tmp_path: Path,
    forked: type[Forked],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert json.loads((FOLDER / "study.json").read_text())["code"] == [str(Path(DEBUG).parent)]
    before = {name: (FOLDER / name).read_text() for name in ("results.md", "results.json", "results.csv", "post.yaml")}
    for name in before:
        (FOLDER / name).unlink()
    assert main(["cross-validate", "--rescore", str(FOLDER)]) == 0
    assert {name: (FOLDER / name).read_text() for name in before} == before
    assert forked.started == []
    # the page of the same
    assert main(["report", str(FOLDER)]) == 0
    shown = (FOLDER / "report.html").read_text()
    assert shown.count('<div class="slices"') == 3 and shown.count('href="./predictions/') == 4
    assert "as the network says, error" in shown


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    capsys.readouterr()
    assert main(list(words)) == 2
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("error: ")]) == 1
    return next(line for line in error if line.startswith("error: "))


def test_what_cannot_be_is_one_sentence_before_any_training(
    tmp_path: Path, forked: type[Forked], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 4)
    a, b, c, d = (f"BraTS20_Training_{number:03d}" for number in range(1, 5))
    shared = [{"train": [c, d], "val": [a, b]}, {"train": [a, d], "val": [b, c]}]
    Path("shared.json").write_text(json.dumps(shared))
    place = WORDS.index("--folds")
    splits = [*WORDS[:place], *WORDS[place + 2 :], "--data.splits", "shared.json"]
    assert f"folds 0 and 1 both validate {b}" in refused(splits, capsys)
    Path("shared.json").write_text(json.dumps(shared[0]))
    assert "shared.json: holds one split" in refused(splits, capsys)
    assert "--data.fold is set for each fold" in refused([*WORDS, "--data.fold", "1"], capsys)
    for asking in ("--keys", "--print_config", "--module.network.help"):
        assert f"{asking} only asks; ask `raum fit`" in refused([*WORDS, asking], capsys)
    assert "../escaped" in refused([*WORDS, "--id", "../escaped"], capsys)
    assert "--run.id is set for each fold: give --id" in refused([*WORDS, "--run.id=a"], capsys)
    assert "module.lrr" in refused([*WORDS, "--module.lrr", "1"], capsys)
    assert "--parallel 0 must be at least 1" in refused([*WORDS, "--parallel", "0"], capsys)
    assert "is not the folder of a cross-validation" in refused(["cross-validate", "--rescore", "cases"], capsys)
    assert forked.started == [] and not Path("runs/debug").exists()


def test_probabilities_that_were_asked_for_stay_complete(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "copy"))
    assert main([*WORDS, "--probabilities"]) == 0
    gone = [FOLDER / f"probabilities/{CASE}.npz", FOLDER / f"predictions/{CASE}.nii.gz"]
    for path in gone:
        path.unlink()
    assert main(WORDS) == 0
    assert all(path.is_file() for path in gone)


def test_folds_are_taken_as_they_are_and_trained_on_later(trained: Path, tmp_path: Path) -> None:
    study = shutil.copytree(trained, tmp_path / "copy") / FOLDER
    attempts = json.loads((study / "training.json").read_text())
    (study / "training.json").write_text(json.dumps({"0": attempts["0"]}))
    known: Any = SimpleNamespace(folder=StudyFolder(study), splits=[None] * 2, config={"trainer": {"max_steps": 6}})
    said: list[str] = []
    training.accept_folds(known, said.append)
    assert said == ["fold 1 has trained 4 of 6 steps"] and not training.is_finished(known, 1)
    said.clear()
    for epochs in (-1, 3):
        known.config = {"trainer": {"max_steps": -1, "max_epochs": epochs}}
        training.accept_folds(known, said.append)
    assert said == ["fold 1 has trained 2 of endless epochs", "fold 1 has trained 2 of 3 epochs"]
    known.config = {"trainer": {"max_steps": -1, "max_time": "00:00:01:00"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "structure", lambda path: {"callbacks": {"Timer": {"time_elapsed": {"train": 41.3}}}})
        training.accept_folds(known, said.append)
    assert said.pop() == "fold 1 has trained 41 of 60 seconds"
    known.config = {"trainer": {"max_steps": 6}}
    assert not training.is_finished(known, 1)
    known.config["trainer"]["max_steps"] = 4
    training.accept_folds(known, said.append)
    assert len(said) == 2 and training.is_finished(known, 1)


def test_changed_cases_settings_and_checkpoints_are_refused(
    trained: Path,
    tmp_path: Path,
    forked: type[Forked],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert "was begun with module.lr 0.0015 and not 0.1" in refused([*WORDS, "--module.lr", "0.1"], capsys)
    one, other = (FOLDER.with_name(f"cv-2fold-fold{fold}") / "checkpoints/best.ckpt" for fold in (0, 1))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    assert f"{one}: was trained on BraTS20_Training_" in refused(WORDS, capsys)
    one.write_bytes(kept)
    start = ["--id", "new", "--module.init_from", str(one)]
    assert f"module.init_from={one}: was trained on BraTS20_Training_" in refused([*WORDS, *start], capsys)
    renamed = "raum_lightning.inference.converters.Renamed"
    start[-1] = json.dumps({"class_path": renamed, "init_args": {"path": str(one), "names": {}}})
    assert f"module.init_from={one}: was trained on BraTS20_Training_" in refused([*WORDS, *start], capsys)
    assert not FOLDER.with_name("cv-new").exists()
    image = Path("cases/BraTS20_Training_003/BraTS20_Training_003_flair.nii.gz")
    image.write_bytes(image.read_bytes() + b"0")
    assert "the data have changed since it began (BraTS20_Training_003)" in refused(WORDS, capsys)
    assert forked.started == []


SBATCH = """#!/bin/bash
echo "$@" >> sbatch.txt
echo $(( 16 + $(wc -l < sbatch.txt) ))
"""
SCRIPT = """#!/bin/bash
#SBATCH --nodes=2

set -eu
echo lightning fit -c base.yaml "$@"
"""


def test_slurm_gets_an_array_and_a_job_after_it(
    tmp_path: Path, forked: type[Forked], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 4)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(SBATCH)
    (tmp_path / "bin/sbatch").chmod(0o755)
    Path("fit.sbatch").write_text(SCRIPT)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert main([*WORDS, "--slurm", "fit.sbatch"]) == 0
    assert f"job 17 trains the folds, job 18 makes {FOLDER}/results.md" in capsys.readouterr().out
    first, second = Path("sbatch.txt").read_text().splitlines()
    assert first == f"--parsable --array=0,1 {FOLDER}/array.sbatch"
    assert second.startswith("--parsable --dependency=afterok:17 ") and second.endswith(f" {FOLDER}/collect.sbatch")
    ran = subprocess.run(
        ["bash", FOLDER / "array.sbatch"],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"},
        capture_output=True,
        text=True,
    )
    words = f"-c {FOLDER}/config.yaml --run.root runs --run.experiment debug --run.id cv-2fold-fold1"
    assert ran.stdout.startswith(f"lightning fit -c base.yaml {words} ") and " --data.fold 1 " in ran.stdout
    collect = (FOLDER / "collect.sbatch").read_text().splitlines()
    assert collect[1] == "#SBATCH --nodes=2"
    assert collect[-1].endswith(f"-m raum_lightning {shlex.join(WORDS)} --trained")
    assert "fold 0: no checkpoint in runs/debug/cv-2fold-fold0/checkpoints" in refused([*WORDS, "--trained"], capsys)
    # what a script types would win over the cross-validation's file
    typed = "--trainer.max_steps 9 --trainer.precision 16-mixed --trainer.devices 8 --data.fold 0"
    Path("fit.sbatch").write_text(SCRIPT.replace("base.yaml", f"base.yaml {typed}"))
    assert main([*WORDS, "--slurm", "fit.sbatch"]) == 0
    array = (FOLDER / "array.sbatch").read_text()
    assert array.count("--trainer.max_steps=4") == 2 and "--trainer.devices=" not in array
    # a word is given as it is, and the fold is the job's
    assert array.count(" --trainer.precision=32-true ") == 2
    jobs = [line for line in array.splitlines() if "set --" in line]
    assert len(jobs) == 2 and all(0 < line.rfind("--data.fold=") < line.rfind("--data.fold ") for line in jobs)
    Path("fit.sbatch").write_text(SCRIPT.replace("base.yaml", "base.yaml --module.network.init_args.none 9"))
    assert "gives module.network.init_args.none, by which" in refused([*WORDS, "--slurm", "fit.sbatch"], capsys)
    Path("fit.sbatch").write_text("#!/bin/bash\nlightning fit\n")
    assert "fit.sbatch: passes no arguments on" in refused([*WORDS, "--slurm", "fit.sbatch"], capsys)
    assert forked.started == []


def test_folds_side_by_side_share_the_cores(
    tmp_path: Path, forked: type[Forked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert training._share(1, 2) == {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "5"}
    assert training._share(0, 2) == {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "4,6"}
    assert training._share(4, 5) == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "5"}
    assert training._share(0, 1) == {}


def test_a_fold_is_a_process_whose_output_and_memory_are_kept(tmp_path: Path) -> None:
    job = Process(["--version"], {}, tmp_path / "log")
    while (code := job.poll()) is None:
        pass
    assert code == 0 and (tmp_path / "log").read_text().startswith("raum ") and job.peak_mb > 1
    waiting: Any = Process(["--version"], {}, tmp_path / "log")
    waiting.stop()
    assert waiting.poll() in (0, -signal.SIGTERM)
