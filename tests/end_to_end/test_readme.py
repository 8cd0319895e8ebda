"""The commands of README and docs/using.md, run one after the other as a reader would, on synthetic cases."""

import re
import shlex
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from shutil import copytree

import pytest
import torch
import yaml

from raum_lightning.cli import TOOL_VERBS, TRAINER_VERBS, main
from tests.helpers import EXPERIMENTS, ROOT
from tests.helpers.cases import write_brats_cases
from tests.helpers.markdown import blocks, commands
from tests.helpers.small import shrink

PAGES = ROOT / "README.md", ROOT / "docs/using.md"
TEXT = "\n".join(page.read_text() for page in PAGES)
# what a test cannot run: exactly those of the pages, so that no other goes unrun
NOT_RUN = {"make test", "pip install -e ."}
# what the pages write otherwise than the folder in which the commands run has it; not data/, the default of data.root,
# which would do for a command that lacks it
SUBSTITUTIONS = {r"/data/": "mri/"}
# what is added to a verb's arguments, so that it takes seconds; the last of two equal options counts
ADDED = {"fit": "--trainer.max_steps 2 --trainer.devices 1", "phantom": "--cases 6 --shape 48 48 40"}
# what a verb must have written into a run, besides the file that --out names
PRODUCED = {
    "fit": ["config.yaml", "splits.json", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"],
    "validate": ["validate/cases.csv"],
    "test": ["test/cases.csv"],
    "predict": ["predictions/*.nii.gz"],
}


def shown() -> Iterator[str]:
    """The commands in order; of `make fit`, those that it runs."""
    for line in chain.from_iterable(map(commands, PAGES)):
        yield from recipe(line.removeprefix("make ")) if line == "make fit" else [line]


def recipe(target: str) -> list[str]:
    makefile = (ROOT / "Makefile").read_text()
    (lines,) = re.findall(rf"^{target}:.*##.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    variables = dict(re.findall(r"^(\w+) :?= (.*)$", makefile, re.MULTILINE)) | {"BIN": ""}
    filled = re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], lines)
    return [line.strip().removeprefix("/") for line in filled.splitlines()]


def is_ours(line: str) -> bool:
    return line.split()[0] in ("raum", "lightning")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with all that the pages take as given."""
    monkeypatch.chdir(tmp_path)
    copytree(EXPERIMENTS, "experiments")
    for name in sorted(set(re.findall(r"/data/(\w+)", TEXT)) | {"BraTS2020"}):
        write_brats_cases(Path("mri", name), 6)
    validation = Path("mri/BraTS2020_Validation")
    for number, case in enumerate(sorted(validation.glob("*/"))[:2] if validation.exists() else (), 1):
        (case / f"{case.name}_seg.nii.gz").unlink()
        moved = case.rename(validation / f"BraTS20_Validation_{number:03d}")
        for file in moved.iterdir():
            file.rename(moved / file.name.replace(case.name, moved.name))
        Path(moved.name).symlink_to(moved)
    case = Path("mri/BraTS2020/BraTS20_Training_001")
    for name, target in {case.name: case, "CASE": case, "best.ckpt": first_run() / "checkpoints/best.ckpt"}.items():
        Path(name).symlink_to(target)
    for name, modality in {"a": "flair", "b": "t1ce", "c": "t2"}.items():
        Path(f"{name}.nii.gz").symlink_to(case / f"{case.name}_{modality}.nii.gz")
    Path("predictions").mkdir()
    for mask in Path("mri/BraTS2020").glob("*/*_seg.nii.gz"):
        Path("predictions", mask.name.replace("_seg", "")).symlink_to(mask.resolve())
    return tmp_path


def first_run() -> Path:
    """The run that the pages call by its name."""
    return Path(re.findall(r"runs/\w+/\d{8}-\d{6}", TEXT)[0])


def words_of(line: str) -> list[str]:
    """The arguments of `line`, made small."""
    for pattern, replacement in SUBSTITUTIONS.items():
        line = re.sub(pattern, replacement, line)
    verb, *words = shlex.split(line)[1:]
    if verb in TRAINER_VERBS and "-c" in words:
        place = words.index("-c")
        words[place : place + 2] = shrink(Path(words[place + 1]), Path())
    return [verb, *words, *ADDED.get(verb, "").split()]


def run(words: Sequence[str]) -> None:
    began = time.time_ns()
    assert main(words) == 0
    expected = [f"runs/*/*/{pattern}" for pattern in PRODUCED.get(words[0], [])]
    expected += [words[words.index("--out") + 1]] if "--out" in words else []
    for pattern in expected:
        assert any(path.stat().st_mtime_ns >= began for path in Path().glob(pattern)), f"{words} wrote no {pattern}"


@pytest.mark.slow
def test_the_commands_do_what_they_say(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = {str(first_run().parent): first_run().name}  # the first `fit` of an experiment is the run that is named
    for line in filter(is_ours, shown()):
        words = words_of(line)
        if words[0] == "fit" and "--run.id" not in words and (experiment := named.pop(f"runs/{_stem(words)}", "")):
            words += ["--run.id", experiment]
        run(words)
    for place in re.findall(r"^ {6}(\S+)  ", TEXT, re.MULTILINE):
        assert place == "wandb/" or (first_run() / place).exists(), f"{place} is not in the run's folder"
    state = torch.load(first_run() / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    others = {name.removeprefix("network."): weight for name, weight in state.items()}
    torch.save({name.replace("vit.", "encoder."): weight for name, weight in others.items()}, "encoder.pth")
    for number, text in enumerate(chain.from_iterable(blocks(page, "yaml") for page in PAGES)):
        file = Path(f"experiments/readme-{number}.yaml")
        file.write_text(text)
        if "base" in yaml.safe_load(text):
            run(words_of(f"lightning fit -c {file} --data.root /data/BraTS2020"))
    assert "init_from encoder.pth" in caplog.text and "new        0\n" in caplog.text
    for text in chain.from_iterable(blocks(page, "python") for page in PAGES):
        exec(compile(text, "a page", "exec"), {})


def _stem(words: Sequence[str]) -> str:
    return Path(words[words.index("-c") + 1]).stem


def test_nothing_else_goes_unrun() -> None:
    assert {line for line in shown() if not is_ours(line)} == NOT_RUN
    assert {line.split()[1] for line in shown() if is_ours(line)} <= {*TRAINER_VERBS, *TOOL_VERBS}
