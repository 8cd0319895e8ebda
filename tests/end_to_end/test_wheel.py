"""What `pip install` gives: the wheel holds experiments, data sets and SLURM files, and is small."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from raum_lightning.cli import main, shipped
from raum_lightning.cli.config_inheritance import read_files
from raum_lightning.datasets import presets
from tests.helpers import EXPERIMENTS, ROOT


@pytest.mark.slow
def test_the_wheel_holds_what_the_commands_need(tmp_path: Path) -> None:
    source = tmp_path / "source"
    unbuilt = shutil.ignore_patterns("__pycache__")
    for name in ("raum_lightning", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=unbuilt)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    # the wheel is made from the sdist, which so holds all that it takes
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    compiling = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(build, capture_output=True, text=True, env=compiling)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if "warning" in line.lower()]
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    assert sdist.stat().st_size < 2 * 10**6
    assert wheel.stat().st_size < 2 * 10**6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        tops = {name.split("/")[0] for name in names}
        archive.extractall(tmp_path / "site")
    wanted = {f"raum_lightning/{path.relative_to(ROOT)}" for path in EXPERIMENTS.rglob("*") if path.is_file()}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "raum_lightning").rglob("*.py")}
    wanted |= {f"raum_lightning/datasets/{name}.yaml" for name in presets()} | {"raum_lightning/py.typed"}
    assert wanted <= names
    assert {top for top in tops if not top.endswith(".dist-info")} == {"raum_lightning"}
    # outside the clone, with the wheel's own files
    code = (
        "import raum_lightning; from raum_lightning.cli import main; print(raum_lightning.__file__);"
        "raise SystemExit(main(['init', 'mine']))"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site")) and "files written, 0 were there already" in done.stdout
    assert (tmp_path / "mine/experiments/unetr.yaml").read_text() == (EXPERIMENTS / "unetr.yaml").read_text()


def test_init_writes_what_is_shipped_and_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = str(tmp_path / "new")
    assert main(["init", here]) == 0
    first = tmp_path / "new/experiments"
    assert {path.relative_to(first) for path in first.rglob("*.*")} == {
        path.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob("*.*")
    }
    assert (tmp_path / "new/datasets/brats2020.yaml").is_file()
    assert main(["init", here]) == 0
    assert "0 files written" in capsys.readouterr().out
    (first / "unetr.yaml").write_text("mine: 1\n")
    assert main(["init", here]) == 2
    assert "unetr.yaml: exists and is another" in capsys.readouterr().err
    assert (first / "unetr.yaml").read_text() == "mine: 1\n"


@pytest.mark.slow
def test_a_shipped_experiment_is_found_by_name_where_none_lies_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("unetr.yaml", "experiments/unetr.yaml", "baselines/segresnet.yaml"):
        found = shipped.find_experiment(Path(name))
        assert found == EXPERIMENTS / name.removeprefix("experiments/") and found.is_file()
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "-c", "unetr_v2.yaml", "--print_config"])
    assert "raum_lightning.models.UNETRV2" in capsys.readouterr().out
    timer = "trainer: {callbacks: [{class_path: Timer, init_args: {duration: {seconds: 1}}}]}"  # with an enum in it
    Path("own.yaml").write_text(f"base: experiments/unetr_v2.yaml\n{timer}")
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "-c", "own.yaml", "--print_config"])
    said = capsys.readouterr().out
    assert "raum_lightning.models.UNETRV2" in said and "interval: step" in said
    assert read_files([Path("own.yaml")]).shipped == [EXPERIMENTS / "unetr_v2.yaml"]
    Path("unetr.yaml").write_text("data:\n  batch_size: 7\n")
    assert shipped.find_experiment(Path("unetr.yaml")) == Path("unetr.yaml")
    assert main(["fit", "-c", "unetrr.yaml"]) == 2
    assert "unetrr.yaml: no such file" in capsys.readouterr().err
